"""Dual Chunk Attention against the dense float64 oracle, and the plan that it follows."""

import functools
import weakref

import pytest
import torch
from oracle import (
    dca_positions,
    dense_attention,
    plain_positions,
    relative_error,
    rotate_dense,
)
from torch.utils._python_dispatch import TorchDispatchMode

from longctx.attention import ChunkMap, kernels
from longctx.attention.dca import attend, plan_block
from longctx.attention.rope import base_inv_freq, temperature, yarn_inv_freq, yarn_mscale

CPU, REFERENCE = kernels.get("torch_cpu"), kernels.get("reference")
HEADS = {1: (2, 2), 3: (6, 2), 7: (14, 2), 8: (16, 2)}
LENGTH, CHUNK, LOCAL = 233, 64, 16
SPLITS = {"one shot": [233], "blocks of 7": [7] * 33 + [2], "odd": [1, 46, 2, 50, 128, 1, 5]}


def draw(group: int, dim: int, dtype: torch.dtype, length: int = LENGTH):
    generator = torch.Generator().manual_seed(group * 1000 + dim)
    heads, kv_heads = HEADS[group]
    return tuple(
        torch.randn(1, h, length, dim, generator=generator).to(dtype)
        for h in (heads, kv_heads, kv_heads)
    )


def run(q, k, v, chunk_map, inv_freq_F, scale, splits, kernel=CPU):
    """Blocks of unrotated q, k, v through the fast path, over one cache of rotated keys."""
    r = torch.arange(q.shape[2]) % chunk_map.chunk_len
    q_r, k_r = rotate_dense(q, r, inv_freq_F), rotate_dense(k, r, inv_freq_F)
    dtype = torch.promote_types(q.dtype, torch.float32)
    outs, start = [], 0
    for length in splits:
        end = start + length
        plan = plan_block(chunk_map, start, length, inv_freq_F, dtype)
        out = attend(q_r[:, :, start:end], k_r[:, :, :end], v[:, :, :end], plan, kernel, scale)
        assert out.dtype == q.dtype
        outs.append(out)
        start = end
    assert start == q.shape[2]
    return torch.cat(outs, dim=2)


def method_numbers(method: str, dim: int) -> tuple[torch.Tensor, float]:
    """Frequencies and logit factor of a method, from its definition."""
    inv_freq_F = base_inv_freq(1e4, dim)
    if method == "dca":
        return inv_freq_F, 1.0
    if method == "yarn+dca":
        return inv_freq_F, temperature(LENGTH, CHUNK) ** 2
    scaled_F = yarn_inv_freq(inv_freq_F, 8.0, theta=1e4, original_length=CHUNK)
    return scaled_F, yarn_mscale(8.0) ** 2


@functools.cache
def expected(method: str, group: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    inv_freq_F, factor = method_numbers(method, dim)
    rel = dca_positions(LENGTH, CHUNK, LOCAL, CHUNK)
    return dense_attention(*draw(group, dim, dtype), rel, inv_freq_F, dim**-0.5 * factor)


@functools.cache
def plain_flash_error(method: str, group: int, dim: int) -> float:
    """What plain flash attention achieves in bf16, from the same unrotated q, k."""
    q, k, v = draw(group, dim, torch.bfloat16)
    inv_freq_F, factor = method_numbers(method, dim)
    scale, p = dim**-0.5 * factor, torch.arange(LENGTH)
    q_p, k_p = rotate_dense(q, p, inv_freq_F), rotate_dense(k, p, inv_freq_F)
    oracle = dense_attention(q, k, v, plain_positions(LENGTH), inv_freq_F, scale)
    return relative_error(CPU(q_p, k_p, v, causal=True, scale=scale).out_BHLD, oracle)


@pytest.mark.parametrize("method", ["dca", "yarn+dca", "yarn-freqs+dca"])
@pytest.mark.parametrize("group", HEADS)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("split", SPLITS)
def test_fp32_equals_the_oracle(method, group, dim, split) -> None:
    q, k, v = draw(group, dim, torch.float32)
    inv_freq_F, factor = method_numbers(method, dim)
    scale = dim**-0.5 * factor
    got = run(q, k, v, ChunkMap(CHUNK, LOCAL), inv_freq_F, scale, SPLITS[split])
    assert relative_error(got, expected(method, group, dim, torch.float32)) < 1e-5


@pytest.mark.parametrize("method", ["dca", "yarn+dca", "yarn-freqs+dca"])
@pytest.mark.parametrize("group", HEADS)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("split", SPLITS)
def test_bf16_error_is_at_most_1_2_of_plain_flash(method, group, dim, split) -> None:
    """Both arms and both oracles start from the same unrotated bf16 q, k."""
    q, k, v = draw(group, dim, torch.bfloat16)
    inv_freq_F, factor = method_numbers(method, dim)
    scale = dim**-0.5 * factor
    got = run(q, k, v, ChunkMap(CHUNK, LOCAL), inv_freq_F, scale, SPLITS[split])
    error = relative_error(got, expected(method, group, dim, torch.bfloat16))
    assert 1e-4 < plain_flash_error(method, group, dim) < 1e-2
    assert error <= 1.2 * plain_flash_error(method, group, dim)


@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
@pytest.mark.parametrize("local", [1, 16, 31])
@pytest.mark.parametrize("kernel", [CPU, REFERENCE], ids=lambda k: k.name)
def test_both_caps_and_local_sizes(cap, local, kernel) -> None:
    q, k, v = draw(3, 64, torch.float64)
    inv_freq_F = base_inv_freq(1e4, 64)
    got = run(q, k, v, ChunkMap(CHUNK, local, cap), inv_freq_F, 0.125, SPLITS["odd"], kernel)
    cap_value = CHUNK if cap == "chunk_size" else CHUNK - 1
    rel = dca_positions(LENGTH, CHUNK, local, cap_value)
    assert relative_error(got, dense_attention(q, k, v, rel, inv_freq_F, 0.125)) < 1e-12


def test_float64_path_is_exact_to_rounding() -> None:
    q, k, v = draw(7, 64, torch.float64)
    inv_freq_F = base_inv_freq(1e4, 64)
    got = run(q, k, v, ChunkMap(CHUNK, LOCAL), inv_freq_F, 0.125, [LENGTH])
    rel = dca_positions(LENGTH, CHUNK, LOCAL, CHUNK)
    assert relative_error(got, dense_attention(q, k, v, rel, inv_freq_F, 0.125)) < 1e-13


@pytest.mark.parametrize("block", [1, 7, 48, 50, 128])
def test_any_split_equals_one_shot(block) -> None:
    q, k, v = draw(7, 64, torch.float32)
    inv_freq_F = base_inv_freq(1e4, 64)
    chunk_map = ChunkMap(CHUNK, LOCAL)
    whole = run(q, k, v, chunk_map, inv_freq_F, 0.125, [LENGTH])
    splits = [block] * (LENGTH // block) + [LENGTH % block] * (LENGTH % block > 0)
    assert relative_error(run(q, k, v, chunk_map, inv_freq_F, 0.125, splits), whole) < 1e-5


def test_within_one_chunk_it_is_the_plain_kernel_bit_for_bit() -> None:
    q, k, v = draw(7, 64, torch.bfloat16, 48)
    plan = plan_block(ChunkMap(CHUNK, LOCAL), 0, 48, base_inv_freq(1e4, 64))
    got = attend(q, k, v, plan, CPU, 0.125)
    assert torch.equal(got, CPU(q, k, v, causal=True, scale=0.125).out_BHLD)


def test_up_to_chunk_size_distances_are_true() -> None:
    """S < L <= C: equal to plain attention, though two chunks are at work."""
    q, k, v = draw(3, 64, torch.float32, CHUNK)
    inv_freq_F = base_inv_freq(1e4, 64)
    got = run(q, k, v, ChunkMap(CHUNK, LOCAL), inv_freq_F, 0.125, [CHUNK])
    plain = dense_attention(q, k, v, plain_positions(CHUNK), inv_freq_F, 0.125)
    assert relative_error(got, plain) < 1e-5


def test_every_key_is_seen_exactly_once_and_none_from_the_future() -> None:
    """Values that are one-hot by position read the attention pattern back."""
    length = 200
    q, k, _ = draw(1, 64, torch.float32, length)
    q = torch.zeros_like(q)  # equal logits: every key that is seen has the same weight
    for first in range(0, length, 64):
        v = torch.zeros(1, 2, length, 64)
        span = min(64, length - first)
        v[:, :, first : first + span] = torch.eye(64)[:span]
        got = run(q, k, v, ChunkMap(CHUNK, LOCAL), base_inv_freq(1e4, 64), 1.0, [length])
        i = torch.arange(length)[:, None]
        seen = (i >= torch.arange(first, first + span)[None, :]) / (i + 1.0)
        torch.testing.assert_close(got[0, 0, :, :span], seen, rtol=0, atol=1e-6)


def test_plan_covers_keys_as_the_lengths_say() -> None:
    """Decode at length L: parts of L - nS, S and (n - 1) S keys."""
    chunk_map = ChunkMap(CHUNK, LOCAL)
    S = chunk_map.chunk_len
    for length in (1, S, S + 1, 2 * S, 2 * S + 1, 2 * S + 17, 2 * S + 16, 5 * S + 3, 5 * S + 40):
        n = (length - 1) // S
        (step,) = plan_block(chunk_map, length - 1, 1, base_inv_freq(1e4, 64)).steps
        assert step.keys.stop - step.keys.start == length - n * S
        sizes = [p.keys.stop - p.keys.start for band in step.bands for p in band.parts]
        if (length - 1) % S < chunk_map.capped_from:
            assert sizes == [x for x in (S if n else 0, max(n - 1, 0) * S) if x]
        else:
            assert sizes == ([n * S] if n else [])


def test_printed_plan() -> None:
    plan = plan_block(ChunkMap(64, 16), 90, 20, base_inv_freq(1e4, 64))
    assert str(plan).splitlines() == [
        "queries 90..109 over 110 keys",
        "  chunk 1: intra [48:96) causal",
        "    queries 90..95: past [0:48)",
        "  chunk 2: intra [96:110) causal",
        "    queries 96..109: succ [48:96), inter [0:48)",
    ]


def test_plan_for_other_lengths_is_refused() -> None:
    q, k, v = draw(3, 64, torch.float32, 50)
    plan = plan_block(ChunkMap(64, 16), 0, 50, base_inv_freq(1e4, 64))
    with pytest.raises(ValueError, match="plan is for 50 queries and 50 keys, got 50 and 49"):
        attend(q, k[:, :, :49], v[:, :, :49], plan, CPU, 1.0)


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that operators made and that are still alive; and their peak.

    Down here a view is not known as one: what shares an argument's memory is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.untyped_storage().data_ptr() not in given
            ):
                self.live += tensor.nbytes
                weakref.finalize(tensor, self._free, tensor.nbytes)
        self.peak = max(self.peak, self.live)
        return out


def test_memory_stays_linear_and_queries_are_not_copied_fivefold() -> None:
    """One prefill holds its output, and what one chunk needs, beyond its inputs."""
    peaks = []
    for length in (1024, 2048, 4096):
        q, k, v = draw(7, 64, torch.float32, length)
        plan = plan_block(ChunkMap(512, 64), 0, length, base_inv_freq(1e4, 64))
        with LiveBytes() as memory:
            attend(q, k, v, plan, CPU, 0.125)
        peaks.append((memory.peak - q.nbytes) / (q.nbytes / length * 448))
    assert q.nbytes < memory.peak < 2 * q.nbytes
    assert max(peaks) < 8  # chunks' worth of queries: partial outputs, a rotated copy, weights
    assert peaks[2] < 1.1 * peaks[1]
