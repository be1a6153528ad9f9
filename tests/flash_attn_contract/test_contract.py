"""What longctx relies on in the flash-attn package, checked on the real package, on CPU tensors.

The oracle is float64 and builds its own masks; it shares no code with the kernels. What this does
not show: that the CUDA kernels compute what the package's reference computes (tests/gpu does).
Shape legend: B batch, H query heads, K key/value heads, L queries, M keys, D head dimension.
"""

from __future__ import annotations

import pytest
import torch
from packing_kernel import by_pages

from longctx.attention.kernels.base import Pages, Partial
from longctx.attention.kernels.flash_attn import FlashAttnKernel
from longctx.attention.merge import merge
from longctx.attention.packed_parts import PartSequence
from longctx.attention.packed_tables import tables

pytestmark = pytest.mark.usefixtures("flash_attn_on_cpu")

# The package's reference computes in float32, then rounds its output to float16 whatever the
# input's dtype, and that to the input's. Its lse stays float32.
OUT_TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
LSE_TOLERANCE = 1e-5

KERNEL = FlashAttnKernel(devices=("cpu",))


def normal(*shape: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def oracle(
    q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, causal: bool, scale: float
) -> Partial:
    """float64 softmax attention, head by head, the last query on the last key."""
    batch, heads, queries, _ = q_BHLD.shape
    kv_heads, keys = k_BKMD.shape[1:3]
    outs, lses = [], []
    for b in range(batch):
        for h in range(heads):
            kv = h * kv_heads // heads
            logits_LM = scale * q_BHLD[b, h].double() @ k_BKMD[b, kv].double().T
            if causal:
                for i in range(queries):
                    logits_LM[i, keys - queries + i + 1 :] = -torch.inf
            lse_L = torch.logsumexp(logits_LM, dim=1)
            outs.append(torch.exp(logits_LM - lse_L[:, None]) @ v_BKMD[b, kv].double())
            lses.append(lse_L)
    return Partial(
        torch.stack(outs).view(batch, heads, queries, -1),
        torch.stack(lses).view(batch, heads, queries),
    )


def check(got: Partial, want: Partial, dtype: torch.dtype) -> None:
    assert got.out_BHLD.shape == want.out_BHLD.shape
    assert got.out_BHLD.dtype == dtype
    assert got.lse_BHL.shape == want.lse_BHL.shape
    assert got.lse_BHL.dtype == torch.float32
    error = (got.out_BHLD.double() - want.out_BHLD).norm() / want.out_BHLD.norm()
    assert error < OUT_TOLERANCE[dtype]
    torch.testing.assert_close(
        got.lse_BHL.double(), want.lse_BHL, rtol=LSE_TOLERANCE, atol=LSE_TOLERANCE
    )


def test_available_on_cpu_for_half_precision_only() -> None:
    cpu = torch.device("cpu")
    assert KERNEL.unavailable(cpu, torch.float16) is None
    assert KERNEL.unavailable(cpu, torch.bfloat16) is None
    assert KERNEL.unavailable(cpu, torch.float32) == "takes float16 or bfloat16, not float32"
    assert FlashAttnKernel().unavailable(cpu, torch.float16) == "runs on cuda, not on cpu"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (5, 16), (1, 16), (1, 1), (33, 70)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (7, 1), (8, 1)])
def test_matches_oracle(
    heads: int, kv_heads: int, queries: int, keys: int, causal: bool, dtype: torch.dtype
) -> None:
    q_BHLD = normal(2, heads, queries, 64, dtype=dtype, seed=1)
    k_BKMD = normal(2, kv_heads, keys, 64, dtype=dtype, seed=2)
    v_BKMD = normal(2, kv_heads, keys, 64, dtype=dtype, seed=3)
    got = KERNEL(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=0.17)
    check(got, oracle(q_BHLD, k_BKMD, v_BKMD, causal, 0.17), dtype)


@pytest.mark.parametrize("causal", [False, True])
def test_more_keys_than_queries_without_causal_needs_no_order(causal: bool) -> None:
    # L > M is legal without causal (every query sees every key) and an error with it.
    q_BHLD, k_BKMD = normal(1, 2, 9, 64), normal(1, 2, 4, 64, seed=1)
    if causal:
        with pytest.raises(ValueError, match="9 queries need at least as many keys, got 4"):
            KERNEL(q_BHLD, k_BKMD, k_BKMD, causal=True, scale=1.0)
    else:
        got = KERNEL(q_BHLD, k_BKMD, k_BKMD, causal=False, scale=0.1)
        check(got, oracle(q_BHLD, k_BKMD, k_BKMD, False, 0.1), torch.float16)


def test_causal_is_bottom_right_key_by_key() -> None:
    # Values are one-hot in the key's index, logits are 0: row i of the output is the mask's row
    # over its count of keys.        L=2, M=4      1 1 1 0
    #                                              1 1 1 1
    q_BHLD, k_BKMD = torch.zeros(1, 1, 2, 8), normal(1, 1, 4, 8)
    v_BKMD = torch.eye(4, 8)[None, None]
    got = KERNEL(
        q_BHLD.half(), k_BKMD.half(), v_BKMD.half(), causal=True, scale=1.0
    ).out_BHLD.float()
    want_LM = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0], [0.25] * 4])
    torch.testing.assert_close(got[0, 0, :, :4], want_LM, rtol=1e-3, atol=1e-3)


def test_lse_is_a_natural_logarithm() -> None:
    # Ten equal logits of 2: ln(10 e^2) = 4.3026; in base 2 it would be 6.2073.
    q_BHLD = torch.full((1, 1, 1, 8), 0.5).half()
    k_BKMD = torch.full((1, 1, 10, 8), 0.5).half()
    got = KERNEL(q_BHLD, k_BKMD, k_BKMD, causal=False, scale=1.0)
    assert got.lse_BHL.item() == pytest.approx(4.302585, abs=1e-5)


def test_scale_is_the_one_given() -> None:
    q_BHLD, k_BKMD = normal(1, 2, 4, 64), normal(1, 2, 4, 64, seed=1)
    flat = KERNEL(q_BHLD, k_BKMD, k_BKMD, causal=False, scale=0.0)
    torch.testing.assert_close(flat.lse_BHL, torch.full((1, 2, 4), 1.3862944))  # ln 4
    once = KERNEL(q_BHLD, k_BKMD, k_BKMD, causal=False, scale=0.05)
    twice = KERNEL(q_BHLD * 2, k_BKMD, k_BKMD, causal=False, scale=0.025)
    torch.testing.assert_close(once.lse_BHL, twice.lse_BHL)


def test_query_head_reads_its_own_group() -> None:
    # Key head 1's values are all 7: exactly query heads 3, 4 and 5 return 7.
    v_BKMD = torch.zeros(1, 2, 6, 64)
    v_BKMD[:, 1] = 7
    got = KERNEL(
        normal(1, 6, 3, 64), normal(1, 2, 6, 64, seed=1), v_BKMD.half(), causal=True, scale=0.1
    )
    assert got.out_BHLD.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0, 7, 7, 7], abs=0.01)


@pytest.mark.parametrize("kind", ["sliced keys", "BLHD storage", "head_dim strided", "offset 1"])
def test_strided_views(kind: str) -> None:
    if kind == "sliced keys":  # a cache of larger capacity
        q_BHLD = normal(2, 6, 20, 64)[:, :, 3:8]
        k_BKMD, v_BKMD = (normal(2, 2, 40, 64, seed=s)[:, :, 10:25] for s in (1, 2))
    elif kind == "BLHD storage":  # what a projection's view gives
        q_BHLD = normal(2, 5, 6, 64).transpose(1, 2)
        k_BKMD, v_BKMD = (normal(2, 15, 2, 64, seed=s).transpose(1, 2) for s in (1, 2))
    elif kind == "head_dim strided":
        q_BHLD = normal(2, 6, 64, 5).transpose(2, 3)
        k_BKMD, v_BKMD = (normal(2, 2, 15, 128, seed=s)[..., ::2] for s in (1, 2))
    else:
        q_BHLD = normal(2, 6, 5, 72)[..., 1:65]
        k_BKMD, v_BKMD = (normal(2, 2, 15, 67, seed=s)[..., 1:65] for s in (1, 2))
    before = [x.clone() for x in (q_BHLD, k_BKMD, v_BKMD)]
    got = KERNEL(q_BHLD, k_BKMD, v_BKMD, causal=True, scale=0.125)
    want = oracle(q_BHLD.contiguous(), k_BKMD.contiguous(), v_BKMD.contiguous(), True, 0.125)
    check(got, want, torch.float16)
    for tensor, copy in zip((q_BHLD, k_BKMD, v_BKMD), before, strict=True):
        assert torch.equal(tensor, copy)


def test_head_dim_that_is_no_multiple_of_eight() -> None:
    q_BHLD, k_BKMD, v_BKMD = (normal(1, 2, 7, 20, seed=s) for s in (1, 2, 3))
    got = KERNEL(q_BHLD, k_BKMD, v_BKMD, causal=True, scale=0.2)
    check(got, oracle(q_BHLD, k_BKMD, v_BKMD, True, 0.2), torch.float16)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (0, 0)])
def test_no_queries(queries: int, keys: int, causal: bool) -> None:
    k_BKMD = normal(2, 2, keys, 64)
    got = KERNEL(normal(2, 4, queries, 64), k_BKMD, k_BKMD, causal=causal, scale=1.0)
    assert got.out_BHLD.shape == (2, 4, 0, 64)
    assert got.lse_BHL.shape == (2, 4, 0)
    assert got.lse_BHL.dtype == torch.float32


def test_no_keys_is_out_zero_and_lse_minus_infinity() -> None:
    k_BKMD = normal(2, 2, 0, 64)
    got = KERNEL(normal(2, 4, 3, 64), k_BKMD, k_BKMD, causal=False, scale=1.0)
    assert torch.equal(got.out_BHLD, torch.zeros(2, 4, 3, 64, dtype=torch.float16))
    assert torch.equal(got.lse_BHL, torch.full((2, 4, 3), -torch.inf))


def test_package_itself_gives_another_lse_to_a_row_without_keys() -> None:
    # Why such rows are never handed over: its reference says 0, its CUDA kernel +inf, and either
    # would give an empty part weight in a merge. Two queries, one key, bottom-right: row 0 is bare.
    from flash_attn import flash_attn_func

    q_BLHD, k_BMKD = normal(1, 2, 1, 64), normal(1, 1, 1, 64, seed=1)
    _, lse_BHL, _ = flash_attn_func(q_BLHD, k_BMKD, k_BMKD, causal=True, return_attn_probs=True)
    assert lse_BHL[0, 0, 0] != -torch.inf


@pytest.mark.parametrize("inter", [0, 12])
def test_three_parts_merged_are_dense_attention(inter: int) -> None:
    # The parts of one query block of Dual Chunk Attention, here without rotation: earlier chunks
    # and the previous chunk in full, the own chunk causally (with history: L < M).
    succ = inter + 12
    end = succ + 9
    edges = [(0, inter, False), (inter, succ, False), (succ, end, True)]
    q_BHLD = normal(1, 6, 5, 64, seed=1)
    k_BKMD, v_BKMD = normal(1, 2, end, 64, seed=2), normal(1, 2, end, 64, seed=3)
    parts = [
        KERNEL(q_BHLD, k_BKMD[:, :, a:b], v_BKMD[:, :, a:b], causal=causal, scale=0.125)
        for a, b, causal in edges
    ]
    got = merge(parts)
    check(
        Partial(got.out_BHLD.half(), got.lse_BHL),
        oracle(q_BHLD, k_BKMD, v_BKMD, True, 0.125),
        torch.float16,
    )


def test_varlen_lse_layout() -> None:
    # The packed form, for a caller that batches unequal lengths: (total, H, D), int32 offsets.
    # The package's CPU reference returns lse as (total, H) where its documentation, its CUDA
    # kernel and its meta kernel say (H, total), so only values are compared here.
    from flash_attn import flash_attn_varlen_func

    lengths, head_dim = (3, 5), 64
    q_THD, k_TKD, v_TKD = (normal(8, n, head_dim, seed=s) for s, n in enumerate((4, 2, 2)))
    offsets = torch.tensor([0, 3, 8], dtype=torch.int32)
    out_THD, lse, _ = flash_attn_varlen_func(
        q_THD,
        k_TKD,
        v_TKD,
        offsets,
        offsets,
        max(lengths),
        max(lengths),
        softmax_scale=0.125,
        causal=True,
        return_attn_probs=True,
    )
    lse_TH = lse if lse.shape == (8, 4) else lse.T
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        start += length
        q_BHLD, k_BKMD, v_BKMD = (x[part].transpose(0, 1)[None] for x in (q_THD, k_TKD, v_TKD))
        want = oracle(q_BHLD, k_BKMD, v_BKMD, True, 0.125)
        got = Partial(out_THD[part].transpose(0, 1)[None], lse_TH[part].T[None])
        check(got, want, torch.float16)


@pytest.mark.parametrize("causal", [False, True])
def test_pages_reach_the_extension(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package's CPU reference reads no pages, and says nothing of it: here the extension's
    # function alone is another, which does. Its arguments are those of mha_varlen_fwd.
    from flash_attn import flash_attn_interface as package

    calls = []

    def varlen_fwd(
        *given: torch.Tensor | float | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v, out, ends_q, ends_k, used, leftpad, table, alibi, most_q, most_k, *rest = given
        dropout, scale, zero, is_causal, left, right, softcap, probs, *_ = rest
        assert [out, used, leftpad, alibi] == [None] * 4
        assert (dropout, zero, left, right, softcap, probs) == (0.0, False, -1, -1, 0.0, False)
        keys_E = ends_k.diff()
        assert int(keys_E.max()) == most_k and ends_k.dtype == torch.int32
        calls.append(is_causal)
        how = {"causal": is_causal, "scale": scale, "multiple": 256}
        found = by_pages(q, k, v, ends_q, keys_E, table, most_q, **how)
        return *found, torch.empty(0), torch.empty(2, dtype=torch.int64)

    monkeypatch.setattr(package.flash_attn_gpu, "varlen_fwd", varlen_fwd)
    assert KERNEL.packs(64) and KERNEL.pages() == Pages(256, runs=False)
    q_NHD = normal(9, 6, 64)
    k_MKD, v_MKD = (normal(1400, 2, 64, seed=s) for s in (1, 2))
    apart = PartSequence(2, 9, 3, 256 + 20, behind=((900, 20),))
    held = tables([[PartSequence(0, 2, 0, 0), apart]], 9, torch.device("cpu"), 256)
    out_NHD, lse_HN = KERNEL.packed(q_NHD, k_MKD, v_MKD, held, causal=causal, scale=0.17)
    assert calls == [causal] and not out_NHD[:2].any()
    order = torch.cat((torch.arange(3, 259), torch.arange(900, 920)))
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NHD[2:], k_MKD[order], v_MKD[order]))
    got = Partial(out_NHD[2:].transpose(0, 1)[None], lse_HN[None, :, 2:])
    check(got, oracle(q, k, v, causal, 0.17), torch.float16)
