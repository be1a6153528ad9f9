"""What can be said of the CUDA kernels without a GPU: why they refuse, and how they call.

Their results are tested on a GPU (tests/gpu) and, for flash-attn, on its CPU reference
(tests/flash_attn_contract).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dropin_helpers import ARGUMENTS
from packing_kernel import PackingReference
from tiny_models import build, kv
from transformers import DynamicCache

from longctx.attention import extend
from longctx.attention.kernels import flash_attn, flash_attn_4
from longctx.attention.kernels.base import Packed, Pages
from longctx.attention.kernels.flash_attn import FlashAttnKernel
from longctx.attention.kernels.flash_attn_4 import FlashAttn4Kernel
from longctx.attention.kernels.reference import ReferenceKernel
from longctx.attention.kernels.torch_cuda import TorchCudaKernel, flash_ready
from longctx.attention.packed_parts import PartSequence
from longctx.attention.packed_tables import tables

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def heads(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first on sys.path, with flash-attn's modules not imported yet."""
    names = ("flash_attn", "flash_attn.cute", "flash_attn_interface")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    loaders = (flash_attn._load, flash_attn._load_packing, flash_attn_4._load)
    for load in loaders:
        load.cache_clear()
    yield tmp_path
    for load in loaders:
        load.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


class TestWhyUnavailable:
    def test_other_device(self) -> None:
        assert FlashAttnKernel().unavailable(CPU, torch.bfloat16) == "runs on cuda, not on cpu"
        assert TorchCudaKernel().unavailable(CPU, torch.bfloat16) == "runs on cuda, not on cpu"

    def test_no_cuda_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert FlashAttnKernel().unavailable(CUDA, torch.bfloat16) == "finds no CUDA device"

    def test_dtype(self) -> None:
        reason = FlashAttnKernel().unavailable(CUDA, torch.float32)
        assert reason == "takes float16 or bfloat16, not float32"

    def test_old_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        reason = "needs compute capability 8.0, cuda has 7.5"
        assert TorchCudaKernel().unavailable(CUDA, torch.float16) == reason
        assert FlashAttnKernel().unavailable(CUDA, torch.float16) == reason

    def test_torch_without_flash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
        reason = TorchCudaKernel().unavailable(CUDA, torch.float16)
        assert reason == "is not in this build of torch"

    def test_rocm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "hip", "6.4")
        reason = TorchCudaKernel().unavailable(CUDA, torch.float16)
        assert reason is not None
        assert reason.startswith("is not verified on ROCm")


class TestFlashAttnImport:
    """A broken package must never look like an absent one."""

    kernel = FlashAttnKernel(devices=("cpu",))

    def test_not_installed(self, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "flash_attn", None)
        assert self.kernel.unavailable(CPU, torch.float16) == "is not installed"
        q_BHLD = heads(1, 1, 2, 8, dtype=torch.float16)
        with pytest.raises(RuntimeError, match="kernel 'flash_attn' is not installed"):
            self.kernel(q_BHLD, q_BHLD, q_BHLD, causal=True, scale=1.0)

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("raise RuntimeError('driver\\n too old')", "RuntimeError: driver too old"),
            ("raise ImportError('undefined symbol: x')", "ImportError: undefined symbol: x"),
            ("import flash_attn_2_cuda", "No module named 'flash_attn_2_cuda'"),
            ("", "has no attribute 'flash_attn_func'"),
        ],
    )
    def test_broken(self, packages: Path, source: str, said: str) -> None:
        (packages / "flash_attn.py").write_text(source)
        reason = self.kernel.unavailable(CPU, torch.float16)
        assert reason is not None
        assert reason.startswith("is installed but cannot be imported (")
        assert said in reason

    @pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
    @pytest.mark.parametrize("has_version_3", [False, True])
    def test_version_3_is_for_hopper(
        self,
        packages: Path,
        monkeypatch: pytest.MonkeyPatch,
        capability: tuple[int, int],
        has_version_3: bool,
    ) -> None:
        (packages / "flash_attn.py").write_text("def flash_attn_func(): ...")
        if has_version_3:
            source = "def flash_attn_with_kvcache(): ..."
            (packages / "flash_attn_interface.py").write_text(source)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert FlashAttnKernel().unavailable(CUDA, torch.float16) is None
        attend = flash_attn._load(flash_attn._is_hopper(CUDA))
        assert not isinstance(attend, str)
        expected = "flash_attn"
        if has_version_3 and capability == (9, 0):
            expected = "flash_attn_interface"
        assert attend.func.__module__ == expected  # type: ignore[attr-defined]


# Of 11 queries: some without keys, and some whose keys are two runs.
APART_64 = [[PartSequence(0, 4, 0, 0), PartSequence(4, 11, 3, 128 + 20, behind=((300, 20),))]]
CACHED_3 = """
def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, page_table=None, cu_seqlens_q=None,
    max_seqlen_q=None, softmax_scale=None, causal=False, return_softmax_lse=False,
):
    return Version3()(
        q, k_cache, v_cache, k, v, cache_seqlens, page_table, cu_seqlens_q, max_seqlen_q,
        softmax_scale, causal, return_softmax_lse=return_softmax_lse,
    )
"""


class TestFlashAttn3Packs:
    """Packed sequences by version 3, with a stand-in of its function's signature."""

    SOURCE = """
from longctx.attention.kernels.base import Packed
from packing_kernel import PackingReference

CALLS = []

def flash_attn_with_kvcache(): ...

def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
    softmax_scale=None, causal=False, num_splits=1, return_attn_probs=False,
):
    assert return_attn_probs and num_splits == 0 and seqused_q is None
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    CALLS.append(causal)
    held = Packed(cu_seqlens_q, cu_seqlens_k, seqused_k, max_seqlen_q, max_seqlen_k)
    return PackingReference().packed(q, k, v, held, causal=causal, scale=softmax_scale)
"""

    @pytest.fixture
    def hopper(self, packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        (packages / "flash_attn_interface.py").write_text(self.SOURCE)
        return packages

    @pytest.mark.parametrize("causal", [False, True])
    def test_runs_may_overlap_have_no_order_or_be_empty(self, hopper: Path, causal: bool) -> None:
        q_NHD = heads(11, 6, 16, dtype=torch.float32)
        k_MKD, v_MKD = (heads(40, 2, 16, seed=n, dtype=torch.float32) for n in (1, 2))
        tables = ([0, 3, 4, 9, 11], [30, 2, 10, 12, 12], [8, 0, 9, 28])
        table = [torch.tensor(each, dtype=torch.int32) for each in tables]
        sequences = Packed(*table, most_q=5, most_k=28)
        kernel = FlashAttnKernel()
        assert kernel.packs(16) and not kernel.packs(20) and not kernel.packs(320)
        got = kernel.packed(q_NHD, k_MKD, v_MKD, sequences, causal=causal, scale=0.3)
        want = PackingReference().packed(q_NHD, k_MKD, v_MKD, sequences, causal=causal, scale=0.3)
        calls = sys.modules["flash_attn_interface"].CALLS
        assert calls == [causal]
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])

    @pytest.mark.parametrize("lacks", ["seqused_k=None,", ", return_attn_probs=False"])
    def test_a_release_without_what_is_needed_is_called_part_by_part(
        self, hopper: Path, lacks: str
    ) -> None:
        (hopper / "flash_attn_interface.py").write_text(self.SOURCE.replace(lacks, ""))
        assert not FlashAttnKernel().packs(16)

    def test_a_broken_package_is_called_part_by_part(self, hopper: Path) -> None:
        (hopper / "flash_attn_interface.py").write_text("raise ImportError('undefined symbol: x')")
        assert not FlashAttnKernel().packs(16)

    def test_its_function_for_caches_takes_pages(self, hopper: Path) -> None:
        kernel = FlashAttnKernel()
        assert kernel.packs(16) and kernel.pages() is None  # this release's takes none
        cached = "def flash_attn_with_kvcache(): ..."
        assert cached in self.SOURCE
        source = self.SOURCE.replace(cached, "from paging_kernels import Version3\n\n" + CACHED_3)
        (hopper / "flash_attn_interface.py").write_text(source)
        sys.modules.pop("flash_attn_interface")
        flash_attn._load_packing.cache_clear()
        assert kernel.packs(16) and kernel.pages() == Pages(64, runs=True)
        held = tables(APART_64, 11, CPU, 64)
        q_NHD = heads(11, 6, 16, dtype=torch.float32)
        k_MKD, v_MKD = (heads(400, 2, 16, seed=n, dtype=torch.float32) for n in (1, 2))
        got = kernel.packed(q_NHD, k_MKD, v_MKD, held, causal=True, scale=0.3)
        order = torch.cat([torch.arange(at, at + keys) for at, keys in APART_64[0][1].runs])
        k, v = (x[order].transpose(0, 1)[None] for x in (k_MKD, v_MKD))
        q = q_NHD[4:].transpose(0, 1)[None]
        want = ReferenceKernel()(q, k, v, causal=True, scale=0.3)
        torch.testing.assert_close(got[0][4:], want.out_BHLD[0].transpose(0, 1))
        torch.testing.assert_close(got[1][:, 4:], want.lse_BHL[0])


class TestFlashAttn2Pages:
    """Packed sequences by version 2's table of pages, with a stand-in of its function."""

    SOURCE = """
from paging_kernels import Version2

__version__ = "2.8.3.post1"
VARLEN = Version2()

def flash_attn_func(): ...

def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
    softmax_scale=None, causal=False, return_attn_probs=False, block_table=None,
):
    return VARLEN(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale,
        causal, return_attn_probs=return_attn_probs, block_table=block_table,
    )
"""

    @pytest.fixture
    def ampere(self, packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        (packages / "flash_attn.py").write_text(self.SOURCE)
        return packages

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_keys_may_lie_apart_or_not_be_there(
        self, ampere: Path, causal: bool, dtype: torch.dtype
    ) -> None:
        q_NHD = heads(11, 6, 16, dtype=dtype)
        k_MKD, v_MKD = (heads(1400, 2, 16, seed=n, dtype=dtype) for n in (1, 2))
        kernel = FlashAttnKernel()
        assert kernel.pages() == Pages(256, runs=False)
        assert kernel.packs(16) and not kernel.packs(20) and not kernel.packs(320)
        apart = PartSequence(4, 11, 3, 256 + 20, behind=((900, 20),))
        held = tables([[PartSequence(0, 4, 0, 0), apart]], 11, CPU, 256)
        out_NHD, lse_HN = kernel.packed(q_NHD, k_MKD, v_MKD, held, causal=causal, scale=0.3)
        assert sys.modules["flash_attn"].VARLEN.calls == [(2, causal)]
        assert out_NHD.dtype == dtype and out_NHD[:4].eq(0).all()
        order = torch.cat((torch.arange(3, 259), torch.arange(900, 920)))
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NHD[4:], k_MKD[order], v_MKD[order]))
        want = ReferenceKernel()(q, k, v, causal=causal, scale=0.3)
        torch.testing.assert_close(out_NHD[4:], want.out_BHLD[0].transpose(0, 1))
        torch.testing.assert_close(lse_HN[:, 4:], want.lse_BHL[0])

    @pytest.mark.parametrize(
        ("what", "instead"),
        [
            ('__version__ = "2.8.3.post1"', '__version__ = "2.5.9"'),
            ('__version__ = "2.8.3.post1"', ""),
            (" block_table=None,\n):", "\n):"),
            ("def flash_attn_varlen_func", "def another_name"),
        ],
    )
    def test_a_release_without_what_is_needed_is_called_part_by_part(
        self, ampere: Path, what: str, instead: str
    ) -> None:
        assert self.SOURCE.count(what) == 1
        (ampere / "flash_attn.py").write_text(self.SOURCE.replace(what, instead))
        assert not FlashAttnKernel().packs(16) and FlashAttnKernel().pages() is None

    def test_on_rocm_it_is_another_kernel(
        self, ampere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.version, "hip", "6.4")
        assert not FlashAttnKernel().packs(16)

    def test_on_hopper_version_3_goes_first(
        self, ampere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
        assert FlashAttnKernel().pages() == Pages(256, runs=False)
        monkeypatch.delitem(sys.modules, "flash_attn_interface")
        (ampere / "flash_attn_interface.py").write_text(TestFlashAttn3Packs.SOURCE)
        flash_attn._load_packing.cache_clear()
        assert FlashAttnKernel().packs(16) and FlashAttnKernel().pages() is None


class TestFlashAttn4:
    """The package flash-attn-4, with a stand-in that refuses what its interface refuses."""

    kernel = FlashAttn4Kernel(devices=("cpu",))
    SOURCE = """
from longctx.attention.kernels.reference import ReferenceKernel

CALLS = []

def flash_attn_func(q, k, v, softmax_scale=None, causal=False, *, return_lse=False):
    assert return_lse and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    assert q.dtype == k.dtype == v.dtype and all(x.stride(-1) == 1 for x in (q, k, v))
    CALLS.append((q.shape[1], k.shape[1], causal))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, lse = ReferenceKernel()(q, k, v, causal=causal, scale=softmax_scale)
    return out.transpose(1, 2), lse
"""

    @pytest.fixture
    def package(self, packages: Path) -> Path:
        folder = packages / "flash_attn" / "cute"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(self.SOURCE)
        return folder

    @pytest.mark.parametrize("dim", [16, 20, 128])
    @pytest.mark.parametrize(
        ("queries", "keys", "causal"), [(5, 9, True), (9, 5, False), (1, 9, True), (3, 0, False)]
    )
    def test_calls_and_result(
        self, package: Path, queries: int, keys: int, causal: bool, dim: int
    ) -> None:
        q_BHLD = heads(2, 6, queries, dim, seed=1, dtype=torch.float16)
        k_BKMD, v_BKMD = (heads(2, 2, keys, dim, seed=n, dtype=torch.float16) for n in (2, 3))
        assert self.kernel.unavailable(CPU, torch.float16) is None
        got = self.kernel(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=0.3)
        want = ReferenceKernel()(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=0.3)
        torch.testing.assert_close(got.out_BHLD, want.out_BHLD)
        torch.testing.assert_close(got.lse_BHL, want.lse_BHL)
        calls = sys.modules["flash_attn.cute"].CALLS
        assert calls == ([(queries, keys, causal)] if keys else [])

    def test_alone_it_is_not_the_other_package(self, package: Path) -> None:
        reason = FlashAttnKernel(devices=("cpu",)).unavailable(CPU, torch.float16)
        assert reason == "is not installed"

    def test_refusals(self, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.kernel.unavailable(CPU, torch.float16) == "is not installed"
        wide = heads(1, 1, 2, 264, dtype=torch.float16)
        with pytest.raises(ValueError, match="heads up to 256 wide, not 264"):
            self.kernel(wide, wide, wide, causal=True, scale=1.0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        reason = FlashAttn4Kernel().unavailable(CUDA, torch.float16)
        assert reason == "is for Hopper and Blackwell, cuda has 8.0"

    def test_broken(self, package: Path) -> None:
        (package / "__init__.py").write_text("import cutlass_of_another_release")
        reason = self.kernel.unavailable(CPU, torch.float16)
        assert reason is not None and reason.startswith("is installed but cannot be imported (")
        assert "cutlass_of_another_release" in reason


class TestTorchCudaCalls:
    """The kernel's use of torch's op, with a stand-in that refuses what the op misreads."""

    @pytest.fixture(autouse=True)
    def op(self) -> Iterator[list[tuple[int, int, bool]]]:
        """The calls made, as (L, M, causal). The op gets a CPU kernel, which torch has not."""
        calls: list[tuple[int, int, bool]] = []
        exact = ReferenceKernel()

        def stand_in(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            dropout_p: float = 0.0,
            is_causal: bool = False,
            return_debug_mask: bool = False,
            *,
            scale: float,
        ) -> tuple[torch.Tensor | int, ...]:
            assert dropout_p == 0.0
            assert not return_debug_mask
            for x in (query, key, value):
                assert x.stride(-1) == 1
                assert x.shape[-1] % 8 == 0
                assert x.shape[2] > 0
            assert not is_causal or query.shape[2] == key.shape[2], "alignment is not documented"
            calls.append((query.shape[2], key.shape[2], is_causal))
            out, lse = exact(query, key, value, causal=is_causal, scale=scale)
            none = torch.empty(0)
            return out, lse, none, none, query.shape[2], key.shape[2], none, none, none

        library = torch.library.Library("aten", "IMPL")
        library.impl("_scaled_dot_product_flash_attention", stand_in, "CPU")
        yield calls
        library._destroy()

    @pytest.mark.parametrize(
        ("queries", "keys", "causal", "calls"),
        [
            (5, 9, False, [(5, 9, False)]),
            (9, 5, False, [(9, 5, False)]),
            (5, 5, True, [(5, 5, True)]),
            (1, 9, True, [(1, 9, False)]),
            (5, 9, True, [(5, 4, False), (5, 5, True)]),
            (0, 9, True, []),
            (3, 0, False, []),
        ],
    )
    @pytest.mark.parametrize("dim", [16, 20])
    def test_calls_and_result(
        self,
        op: list[tuple[int, int, bool]],
        queries: int,
        keys: int,
        causal: bool,
        calls: list[tuple[int, int, bool]],
        dim: int,
    ) -> None:
        q_BHLD = heads(2, 6, queries, dim, seed=1)
        k_BKMD, v_BKMD = heads(2, 2, keys, dim, seed=2), heads(2, 2, keys, dim, seed=3)
        got = TorchCudaKernel()(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=0.3)
        want = ReferenceKernel()(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=0.3)
        assert op == calls
        torch.testing.assert_close(got.out_BHLD, want.out_BHLD)
        torch.testing.assert_close(got.lse_BHL, want.lse_BHL)

    def test_head_dim_stride(self) -> None:
        q_BHLD = heads(2, 4, 16, 5).transpose(2, 3)
        got = TorchCudaKernel()(q_BHLD, q_BHLD, q_BHLD, causal=True, scale=0.3)
        want = ReferenceKernel()(q_BHLD, q_BHLD, q_BHLD, causal=True, scale=0.3)
        torch.testing.assert_close(got.out_BHLD, want.out_BHLD)

    def test_shapes_are_checked(self) -> None:
        q_BHLD = heads(1, 2, 9, 8)
        with pytest.raises(ValueError, match="9 queries need at least as many keys, got 4"):
            TorchCudaKernel()(q_BHLD, q_BHLD[:, :, :4], q_BHLD[:, :, :4], causal=True, scale=1.0)


class TestTorchCudaPacks:
    """Packed sequences, with a stand-in that reads the call as FlashAttention-2 does."""

    @pytest.fixture(autouse=True)
    def op(self) -> Iterator[list[bool]]:
        calls: list[bool] = []
        exact = PackingReference()

        def stand_in(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            cum_seq_q: torch.Tensor,
            cum_seq_k: torch.Tensor,
            max_q: int,
            max_k: int,
            dropout_p: float,
            is_causal: bool,
            return_debug_mask: bool,
            *,
            scale: float,
            seqused_k: torch.Tensor,
            **others: object,
        ) -> tuple[torch.Tensor, ...]:
            assert dropout_p == 0.0 and not return_debug_mask
            assert all(value is None for value in others.values()), others
            for x in (cum_seq_q, cum_seq_k, seqused_k):
                assert x.dtype == torch.int32 and x.is_contiguous()
            assert len(cum_seq_q) == len(cum_seq_k) == len(seqused_k) + 1
            for x in (query, key, value):
                assert x.ndim == 3 and x.stride(-1) == 1 and flash_ready(x) is x
            calls.append(is_causal)
            sequences = Packed(cum_seq_q, cum_seq_k, seqused_k, max_q, max_k)
            found = exact.packed(query, key, value, sequences, causal=is_causal, scale=scale)
            return *found, *(torch.empty(0) for _ in range(3))

        library = torch.library.Library("aten", "IMPL")
        library.impl("_flash_attention_forward", stand_in, "CPU")
        yield calls
        library._destroy()

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("offset", [0, 1])
    def test_runs_may_overlap_have_no_order_or_be_empty(self, op, causal, offset) -> None:
        q_NHD = heads(11 * 6 * 16 + offset, dtype=torch.float32)[offset:].view(11, 6, 16)
        k_MKD, v_MKD = (
            heads(2, 40, 16, seed=n, dtype=torch.float32).transpose(0, 1) for n in (1, 2)
        )
        tables = ([0, 3, 4, 9, 11], [30, 2, 10, 12, 12], [8, 0, 9, 28])
        table = [torch.tensor(each, dtype=torch.int32) for each in tables]
        sequences = Packed(*table, most_q=5, most_k=28)
        kernel = TorchCudaKernel()
        assert kernel.packs(16) and not kernel.packs(20) and not kernel.packs(320)
        got = kernel.packed(q_NHD, k_MKD, v_MKD, sequences, causal=causal, scale=0.3)
        want = PackingReference().packed(q_NHD, k_MKD, v_MKD, sequences, causal=causal, scale=0.3)
        assert op == [causal]
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
        assert got[0][3].eq(0).all() and want[1].shape == (6, 11)

    @torch.no_grad()
    def test_a_ragged_step_of_the_drop_in_is_two_calls_and_its_decoding_one(self, op) -> None:
        """Through `extend()`, on a padded batch: rows of 20, 130 and 77 tokens."""
        model = build("qwen2")
        tokens = torch.arange(3 * 130).view(3, 130) % 60 + 1
        mask = torch.ones_like(tokens)
        mask[0, :110] = mask[2, :53] = 0
        want = {}
        for kernel in ("reference", "torch_cuda"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TorchCudaKernel, "unavailable", lambda *_: None)
                with extend(model, "dca", kernel=kernel, **ARGUMENTS["dca"]):
                    cache = DynamicCache()
                    first = model(tokens, attention_mask=mask, **kv(cache)).logits
                    op_first = list(op)
                    more = torch.nn.functional.pad(mask, (0, 1), value=1)
                    after = model(tokens[:, -1:], attention_mask=more, **kv(cache)).logits
            want[kernel] = first[mask.bool()], after
        layers = model.config.num_hidden_layers
        assert op_first == [True, False] * layers
        assert op[len(op_first) :] == [False] * layers
        for got, expected in zip(want["torch_cuda"], want["reference"], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_torch_accepts_packed_sequences(causal: bool) -> None:
    q_NHD = torch.empty(7, 6, 64, dtype=torch.bfloat16, device="meta")
    k_MKD = torch.empty(50, 2, 64, dtype=torch.bfloat16, device="meta")
    table = torch.empty(2, 3, dtype=torch.int32, device="meta")
    sequences = Packed(table[0], table[1], table[0, :-1], 5, 9)
    kernel = TorchCudaKernel()
    out_NHD, lse_HN = kernel.packed(q_NHD, k_MKD, k_MKD, sequences, causal=causal, scale=1.0)
    assert out_NHD.shape == q_NHD.shape and lse_HN.shape == (6, 7)
    assert lse_HN.dtype == torch.float32


@pytest.mark.parametrize("causal", [False, True])
def test_torch_accepts_the_call(causal: bool) -> None:
    # torch's own shape function for the op: argument order, native GQA, L < M, lse (B, H, L).
    q_BHLD = torch.empty(2, 6, 5, 64, dtype=torch.bfloat16, device="meta")
    k_BKMD = torch.empty(2, 2, 9, 64, dtype=torch.bfloat16, device="meta")
    got = TorchCudaKernel()(q_BHLD, k_BKMD, k_BKMD, causal=causal, scale=1.0)
    assert got.out_BHLD.shape == (2, 6, 5, 64)
    assert got.lse_BHL.shape == (2, 6, 5)
    assert got.lse_BHL.dtype == torch.float32


class TestFlashReady:
    """16-byte loads: eight elements of two bytes."""

    @pytest.mark.parametrize(
        "view",
        [
            torch.zeros(2, 4, 9, 64).half(),
            torch.zeros(2, 4, 9, 64).half()[:, 1:3, 2:7],
            torch.zeros(2, 9, 4, 64).half().transpose(1, 2),
            torch.zeros(1, 4, 9, 64).half().expand(3, -1, -1, -1),
            torch.zeros(2, 4, 9, 72).half()[..., 8:],
            torch.zeros(64, 3).half().T.view(3, 1, 1, 64)[:1].contiguous(),
        ],
    )
    def test_readable_views_are_not_copied(self, view: torch.Tensor) -> None:
        assert flash_ready(view) is view

    @pytest.mark.parametrize(
        "view",
        [
            torch.zeros(2, 4, 64, 9).half().transpose(2, 3),
            torch.zeros(2, 4, 9, 128).half()[..., ::2],
            torch.zeros(2, 4, 9, 72).half()[..., 1:65],
            torch.zeros(2, 4, 9, 67).half()[..., :64],
            torch.zeros(1 + 2 * 4 * 9 * 64).half()[1:].view(2, 4, 9, 64),
        ],
    )
    def test_others_are_copied_to_aligned_memory(self, view: torch.Tensor) -> None:
        ready = flash_ready(view)
        assert ready.data_ptr() != view.data_ptr()
        assert ready.is_contiguous()
        assert ready.storage_offset() == 0
        assert torch.equal(ready, view)
