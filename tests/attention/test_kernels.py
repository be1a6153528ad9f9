"""Every kernel that runs on this CPU against the reference, and the CPU op's traps one by one."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longctx.attention import kernels
from longctx.attention.kernels.base import Partial, broken
from longctx.attention.merge import merge
from longctx.attention.native import library

CPU = kernels.get("torch_cpu")
REFERENCE = kernels.get("reference")
# Those that are listed and run here, the reference too: it is held to itself in float64.
HERE = [
    kernel
    for kernel in map(kernels.get, kernels.names())
    if kernel.unavailable(torch.device("cpu"), torch.float32) is None
]
every_kernel = pytest.mark.parametrize("kernel", HERE, ids=lambda kernel: kernel.name)
HEADS = {1: (3, 3), 3: (9, 3), 7: (14, 2), 8: (16, 2)}


def qkv(heads, kv_heads, queries, keys, dim, dtype=torch.float32, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(h: int, n: int) -> torch.Tensor:
        return torch.randn(batch, h, n, dim, generator=generator).to(dtype)

    return draw(heads, queries), draw(kv_heads, keys), draw(kv_heads, keys)


def assert_close(got: Partial, expected: Partial, tolerance: float) -> None:
    scale = expected.out_BHLD.double().norm().clamp_min(1e-30)
    assert (got.out_BHLD.double() - expected.out_BHLD.double()).norm() / scale < tolerance
    torch.testing.assert_close(
        got.lse_BHL.double(), expected.lse_BHL.double(), rtol=0, atol=tolerance
    )


@every_kernel
@pytest.mark.parametrize("group", HEADS)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("queries", "keys", "causal"),
    [
        (1, 1, True),
        (1, 300, True),
        (7, 300, True),
        (130, 130, True),
        (65, 200, True),
        (33, 200, False),
        (300, 40, False),
    ],
)
def test_equals_the_reference(kernel, group, dim, queries, keys, causal) -> None:
    q, k, v = qkv(*HEADS[group], queries, keys, dim)
    got = kernel(q, k, v, causal=causal, scale=dim**-0.5)
    assert_close(got, REFERENCE(q.double(), k, v, causal=causal, scale=dim**-0.5), 1e-5)
    assert got.lse_BHL.dtype == torch.float32 and got.lse_BHL.shape == q.shape[:3]


@every_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(kernel, dtype) -> None:
    reason = kernel.unavailable(torch.device("cpu"), dtype)
    if reason is not None:
        pytest.skip(f"{kernel.name} {reason}")
    q, k, v = qkv(14, 2, 65, 200, 64, dtype)
    got = kernel(q, k, v, causal=True, scale=0.125)
    expected = REFERENCE(q.double(), k, v, causal=True, scale=0.125)
    tolerance = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float64: 1e-12}[dtype]
    assert_close(got, expected, tolerance)
    assert got.out_BHLD.dtype in (dtype, torch.float32)
    assert got.lse_BHL.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_reference_is_the_textbook_formula() -> None:
    q, k, v = qkv(1, 1, 2, 3, 4, torch.float64, batch=1)
    got = REFERENCE(q, k, v, causal=True, scale=0.5)
    for i in range(2):
        weights = [float((q[0, 0, i] @ k[0, 0, j]) * 0.5) for j in range(i + 2)]
        exp = torch.tensor(weights, dtype=torch.float64).exp()
        expected = (exp[:, None] * v[0, 0, : i + 2]).sum(0) / exp.sum()
        torch.testing.assert_close(got.out_BHLD[0, 0, i], expected)
        assert float(got.lse_BHL[0, 0, i]) == pytest.approx(float(exp.sum().log()))


@every_kernel
@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_trap_empty_parts_do_not_kill_the_process(kernel, queries, keys) -> None:
    q, k, v = qkv(4, 2, queries, keys, 64)
    got = kernel(q, k, v, causal=False, scale=1.0)
    assert got.out_BHLD.shape == q.shape and not got.out_BHLD.any()
    assert got.lse_BHL.shape == q.shape[:3] and bool((got.lse_BHL == -torch.inf).all())


@pytest.mark.slow
def test_trap_is_real_the_bare_op_dies_on_no_keys() -> None:
    """If torch mends this, the special case may go."""
    code = (
        "import torch; q = torch.zeros(1, 1, 1, 8); k = torch.zeros(1, 1, 0, 8); "
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode < 0


def test_trap_a_fully_masked_row_has_lse_zero_in_the_op() -> None:
    """The op says 0, which a merge would weigh as a key; here no keys is -inf, weight nothing."""
    q, k, v = qkv(2, 2, 4, 4, 64, batch=1)
    masked = torch.full((4, 4), -torch.inf)
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _, lse = op(q, k, v, 0.0, False, attn_mask=masked)
    assert not lse.any()
    none = CPU(q, k[:, :, :0], v[:, :, :0], causal=False, scale=1.0)
    assert bool((none.lse_BHL == -torch.inf).all())
    full = CPU(q, k, v, causal=False, scale=1.0)
    assert_close(merge([none, full]), full, 1e-6)


def test_trap_lse_carries_no_gradient() -> None:
    """Why a backward pass through the merge is an error (test_hf_dropin.py), not a number."""
    q, k, v = (x.requires_grad_() for x in qkv(2, 2, 4, 4, 64))
    got = CPU(q, k, v, causal=False, scale=1.0)
    assert got.out_BHLD.requires_grad and not got.lse_BHL.requires_grad


@every_kernel
@pytest.mark.parametrize("which", range(3))
def test_trap_last_dim_stride_other_than_one(kernel, which) -> None:
    tensors = list(qkv(6, 2, 20, 20, 64))
    expected = kernel(*tensors, causal=True, scale=0.125)
    tensors[which] = tensors[which].mT.contiguous().mT
    assert tensors[which].stride(-1) != 1
    assert_close(kernel(*tensors, causal=True, scale=0.125), expected, 1e-6)


@every_kernel
def test_trap_heads_that_do_not_divide(kernel) -> None:
    q, k, v = qkv(5, 2, 4, 4, 64)
    with pytest.raises(ValueError, match=r"query heads \(5\) must be a multiple.*\(2\)"):
        kernel(q, k, v, causal=True, scale=1.0)


@every_kernel
def test_wrong_shapes_are_one_clear_error(kernel) -> None:
    q, k, v = qkv(4, 2, 9, 4, 64)
    with pytest.raises(ValueError, match="9 queries need at least as many keys, got 4"):
        kernel(q, k, v, causal=True, scale=1.0)
    with pytest.raises(ValueError, match=r"k \(2, 2, 4, 64\) and v \(2, 2, 3, 64\)"):
        kernel(q, k, v[:, :, :3], causal=False, scale=1.0)
    with pytest.raises(ValueError, match="differ in batch or head_dim"):
        kernel(q[:1], k, v, causal=False, scale=1.0)


@every_kernel
@pytest.mark.parametrize("queries", [1, 2, 31, 100])
def test_trap_causal_is_aligned_to_the_last_key(kernel, queries) -> None:
    """The op aligns top-left: the first query of a block with history would see one key."""
    q, k, v = qkv(6, 2, queries, 100, 64)
    got = kernel(q, k, v, causal=True, scale=0.125)
    assert_close(got, REFERENCE(q.double(), k, v, causal=True, scale=0.125), 1e-5)
    v_changed = v.clone()
    v_changed[:, :, -1] += 100.0
    moved = kernel(q, k, v_changed, causal=True, scale=0.125).out_BHLD != got.out_BHLD
    assert not moved[:, :, :-1].any() and moved[:, :, -1].all()


@every_kernel
def test_strided_slices_of_a_larger_cache_are_read_in_place(kernel) -> None:
    q, k, v = qkv(14, 2, 5, 400, 64)
    expected = REFERENCE(q.double(), k[:, :, 100:300], v[:, :, 100:300], causal=False, scale=0.1)
    got = kernel(q, k[:, :, 100:300], v[:, :, 100:300], causal=False, scale=0.1)
    assert_close(got, expected, 1e-5)
    k_LK, v_LK = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    assert not k_LK.is_contiguous()
    assert_close(
        kernel(q, k_LK[:, :, 100:300], v_LK[:, :, 100:300], causal=False, scale=0.1), got, 1e-6
    )


@pytest.mark.parametrize("queries", [1, 30, 300])
def test_query_heads_are_packed_so_that_keys_are_read_once(monkeypatch, queries) -> None:
    from longctx.attention.kernels import torch_cpu

    shapes, op = [], torch_cpu._op

    def spy(q, *rest):
        shapes.append(tuple(q.shape))
        return op(q, *rest)

    monkeypatch.setattr(torch_cpu, "_op", spy)
    q, k, v = qkv(14, 2, queries, 500, 64)
    packed = CPU(q, k, v, causal=False, scale=0.125)
    assert shapes == [(2, 2, 7 * queries, 64)]
    assert_close(packed, Partial(*op(q, k, v, False, 0.125)), 1e-6)


@pytest.mark.parametrize("group", HEADS)
@pytest.mark.parametrize(
    ("queries", "past"), [(255, 0), (256, 0), (257, 70), (512, 0), (600, 3), (1024, 0), (1025, 0)]
)
def test_a_diagonal_in_blocks_equals_the_reference(group, queries, past) -> None:
    q, k, v = qkv(*HEADS[group], queries, queries + past, 64, batch=1)
    with torch.inference_mode():
        got = CPU(q, k, v, causal=True, scale=0.125)
    assert_close(got, REFERENCE(q.double(), k, v, causal=True, scale=0.125), 1e-5)
    assert got.out_BHLD.transpose(1, 2).is_contiguous() or past or queries in (255, 1025)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_diagonal_in_blocks_in_other_dtypes_is_as_exact_as_the_op(dtype) -> None:
    from longctx.attention.kernels import torch_cpu

    q, k, v = qkv(14, 2, 300, 300, 64, dtype)
    expected = REFERENCE(q.double(), k, v, causal=True, scale=0.125)
    bare = torch_cpu._op(q, k, v, True, 0.125)
    with torch.inference_mode():
        got = CPU(q, k, v, causal=True, scale=0.125)
    assert torch.equal(CPU(q, k, v, causal=True, scale=0.125).out_BHLD, bare.out_BHLD)
    assert got.out_BHLD.dtype == bare.out_BHLD.dtype and got.lse_BHL.dtype == bare.lse_BHL.dtype
    error, of_bare = (
        (part.out_BHLD.double() - expected.out_BHLD.double()).norm() for part in (got, bare)
    )
    assert error <= 1.05 * of_bare


def test_blocks_of_a_diagonal_see_no_key_that_none_of_them_may(monkeypatch) -> None:
    """Blocks of 64, heads of a group packed, keys up to the block's last; outside of inference
    mode it is the op alone."""
    from longctx.attention.kernels import torch_cpu

    calls, op = [], torch_cpu._op

    def spy(q, k, v, causal, scale, mask=None):
        calls.append((q.shape[2], k.shape[2], causal, None if mask is None else mask.shape[-2:]))
        return op(q, k, v, causal, scale, mask)

    monkeypatch.setattr(torch_cpu, "_op", spy)
    q, k, v = qkv(14, 2, 264, 264, 64)
    with torch.inference_mode():
        CPU(q, k, v, causal=True, scale=0.125)
    rows = 7 * 64
    assert calls == [
        (8, 8, True, None),
        *((rows, keys, False, (rows, keys)) for keys in (72, 136, 200, 264)),
    ]
    calls.clear()
    CPU(q, k, v, causal=True, scale=0.125)
    assert calls == [(264, 264, True, None)]


@pytest.mark.parametrize(("threads", "runs"), [(1, 1), (2, 2), (3, 1), (4, 4)])
def test_long_decode_keeps_every_thread_busy(monkeypatch, threads, runs) -> None:
    """Three key heads on two threads: runs of keys go side by side, all are counted once."""
    from longctx.attention.kernels import torch_cpu

    batches, op = [], torch_cpu._op

    def spy(q, k, *rest):
        batches.append((q.shape[0], k.shape[2]))
        return op(q, k, *rest)

    monkeypatch.setattr(torch_cpu, "_op", spy)
    monkeypatch.setattr(torch_cpu, "SPLIT_FROM", 50)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q, k, v = qkv(9, 3, 2, 103, 64, batch=1)
    got = CPU(q, k, v, causal=False, scale=0.125)
    expected = [(1, 103)] if runs == 1 else [(runs, 103 // runs), (1, 103 % runs)]
    assert batches == expected
    assert_close(got, REFERENCE(q, k, v, causal=False, scale=0.125), 1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_merge_is_attention_over_the_concatenation(parts) -> None:
    q, k, v = qkv(6, 2, 17, 200, 64)
    cuts = torch.linspace(0, 200, parts + 1).long().tolist()
    partials = [
        CPU(q, k[:, :, a:b], v[:, :, a:b], causal=False, scale=0.3)
        for a, b in itertools.pairwise(cuts)
    ]
    assert_close(merge(partials), CPU(q, k, v, causal=False, scale=0.3), 1e-5)


def test_merge_with_empty_parts() -> None:
    q, k, v = qkv(6, 2, 17, 20, 64)
    full = CPU(q, k, v, causal=False, scale=0.3)
    none = CPU(q, k[:, :, :0], v[:, :, :0], causal=False, scale=0.3)
    assert_close(merge([none, full, none]), full, 1e-6)
    both = merge([none, none])
    assert not both.out_BHLD.any() and bool((both.lse_BHL == -torch.inf).all())


def test_merge_is_fp32_for_bf16_parts() -> None:
    """A bf16 lse near 10 has steps of 1/16: weights would be off by 6 %."""
    q, k, v = qkv(2, 2, 8, 4000, 64, torch.bfloat16)
    halves = [
        CPU(q, k[:, :, a], v[:, :, a], causal=False, scale=0.125)
        for a in (slice(0, 1900), slice(1900, 4000))
    ]
    merged = merge(halves)
    assert merged.out_BHLD.dtype == merged.lse_BHL.dtype == torch.float32
    expected = REFERENCE(q.double(), k, v, causal=False, scale=0.125)
    assert_close(merged, expected, 5e-3)
    torch.testing.assert_close(merged.lse_BHL.double(), expected.lse_BHL, rtol=0, atol=1e-4)
    rounded = merge([Partial(p.out_BHLD, p.lse_BHL.bfloat16().float()) for p in halves])
    assert (rounded.lse_BHL - expected.lse_BHL).abs().max() > 1e-3


def test_kernels_are_chosen_and_refused_aloud() -> None:
    cpu = torch.device("cpu")
    fast = "native" if isinstance(library.load(), library.Library) else "torch_cpu"
    assert kernels.auto(cpu, torch.bfloat16).name == fast
    assert kernels.resolve("auto", cpu, torch.float32).name == fast
    assert kernels.auto(cpu, torch.float16).name == "torch_cpu"
    assert kernels.resolve("reference", cpu, torch.float32).name == "reference"
    choice = f"choose auto or one of {', '.join(kernels.names())}"
    with pytest.raises(ValueError, match=f"kernel='fa9' is unknown: {choice}"):
        kernels.resolve("fa9", cpu, torch.float32)
    with pytest.raises(ValueError, match=r"kernel='torch_cuda' cannot run .* on cpu: .*usable"):
        kernels.resolve("torch_cuda", cpu, torch.float32)
    with pytest.raises(ValueError, match=r"no fast kernel for torch.int64 on cpu: flash_attn"):
        kernels.auto(cpu, torch.int64)


def test_every_listed_kernel_has_a_name_of_its_own() -> None:
    listed = [kernel.name for kernel in (*kernels._FAST, *kernels._BY_NAME)]
    assert kernels.names() == listed, "of two kernels with one name the first is lost"


def test_auto_never_picks_what_is_to_be_asked_for_by_name(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "_FAST", ())
    with pytest.raises(ValueError, match=r"no fast kernel for torch\.float32 on cpu"):
        kernels.auto(torch.device("cpu"), torch.float32)
    assert kernels.resolve("reference", torch.device("cpu"), torch.float32) is REFERENCE


def test_every_kernel_is_in_the_documentation() -> None:
    page = Path(__file__).parents[2] / "docs" / "python-api.md"
    section = page.read_text(encoding="utf-8").split("\n## Kernels\n")[1].split("\n## ")[0]
    assert [name for name in kernels.names() if f"`{name}`" not in section] == []


def test_auto_warns_before_it_passes_over_a_broken_package(monkeypatch) -> None:
    reason = broken(ImportError("undefined symbol"))
    monkeypatch.setattr(type(kernels.get("flash_attn")), "unavailable", lambda *_: reason)
    with pytest.warns(RuntimeWarning, match="flash_attn is installed but cannot be imported"):
        assert kernels.auto(torch.device("cpu"), torch.float64).name == "torch_cpu"
