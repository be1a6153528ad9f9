"""What must hold of kernels on a GPU, each figure beside what it may be: `tests/gpu` asserts it,
and `benchmarks/gpu.py` measures it. Runs on any device; nothing here was fitted to one.

Inputs are drawn on the device. The oracle is float64 and goes one key head at a time, so that 128K
keys of a real shape fit. The tolerance is what plain attention in the same dtype is off by on the
same numbers.

Shape legend: B batch, H query heads, K key/value heads, G query heads of one, L queries, M keys,
N packed queries, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from longctx.attention.kernels.base import Kernel, Packed, Partial

SCALE = 1.1  # of the default: it must reach the kernel
SHARPNESS = 3.0  # of queries, so that some keys stand out among many
FLOAT32 = 1e-5  # where the dtype itself allows next to nothing


class Check(NamedTuple):
    """One figure; NaN is wrong."""

    name: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed


class Shape(NamedTuple):
    heads: int
    kv_heads: int
    dim: int


SHAPES = {"7B": Shape(28, 4, 128), "72B": Shape(64, 8, 128)}


def normal(
    *shape: int, dtype: torch.dtype, seed: int, device: torch.device | str = "cuda"
) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(*shape, device=device, dtype=dtype).normal_(generator=generator)


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def allowed_of(plain: float, dtype: torch.dtype) -> float:
    return 1.2 * plain if dtype.itemsize < 4 else max(1.2 * plain, FLOAT32)


# -- one call -------------------------------------------------------------------------------------


def dense(
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    causal: bool,
    scale: float,
    dtype: torch.dtype = torch.float64,
) -> Partial:
    """Textbook attention, every step in `dtype`; causal: the last query sees the last key."""
    queries, keys = q_BHLD.shape[2], k_BKMD.shape[2]
    group = q_BHLD.shape[1] // k_BKMD.shape[1]
    outs, lses = [], []
    for head in range(k_BKMD.shape[1]):
        q_BGLD = q_BHLD[:, head * group : (head + 1) * group].to(dtype)
        logits_BGLM = scale * torch.einsum("bgld,bmd->bglm", q_BGLD, k_BKMD[:, head].to(dtype))
        if causal:
            i_L1 = torch.arange(queries, device=q_BHLD.device)[:, None]
            hidden_LM = torch.arange(keys, device=q_BHLD.device) > i_L1 + keys - queries
            logits_BGLM.masked_fill_(hidden_LM, -torch.inf)
        lses.append(logits_BGLM.logsumexp(-1))
        weights_BGLM = logits_BGLM.softmax(-1)
        outs.append(torch.einsum("bglm,bmd->bgld", weights_BGLM, v_BKMD[:, head].to(dtype)))
    return Partial(torch.cat(outs, dim=1), torch.cat(lses, dim=1))


def call_checks(
    name: str,
    kernel: Kernel,
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    causal: bool,
) -> list[Check]:
    """A kernel's output and log-sum-exp."""
    scale = SCALE * q_BHLD.shape[3] ** -0.5
    got = kernel(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=scale)
    want = dense(q_BHLD, k_BKMD, v_BKMD, causal, scale)
    plain = dense(q_BHLD, k_BKMD, v_BKMD, causal, scale, q_BHLD.dtype)
    assert got.out_BHLD.shape == q_BHLD.shape
    assert got.lse_BHL.shape == q_BHLD.shape[:3] and got.lse_BHL.dtype == torch.float32
    # With one key the softmax is 1 and plain attention is exact: the floor is one rounding.
    rounding = torch.finfo(q_BHLD.dtype).eps
    allowed = max(distance(plain.out_BHLD, want.out_BHLD), rounding)
    return [
        Check(name, distance(got.out_BHLD, want.out_BHLD), allowed_of(allowed, q_BHLD.dtype)),
        Check(f"{name}, log-sum-exp", _lse_error(got.lse_BHL, want.lse_BHL), 1e-4),
    ]


def _lse_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float(((got.double() - want).abs() / (1 + want.abs())).max())


def shape_checks(
    name: str, kernel: Kernel, shape: Shape, keys: int, dtype: torch.dtype, device: torch.device
) -> list[Check]:
    """Decoding, a block behind many keys, a causal block at the end of them."""
    k_BKMD, v_BKMD = (
        normal(1, shape.kv_heads, keys, shape.dim, dtype=dtype, seed=s, device=device)
        for s in (1, 2)
    )
    found = []
    for queries, causal in ((1, True), (64, False), (65, True)):
        q_BHLD = normal(1, shape.heads, queries, shape.dim, dtype=dtype, seed=3, device=device)
        what = f"{name}, {queries} queries, {keys} keys{', causal' * causal}"
        found += call_checks(what, kernel, SHARPNESS * q_BHLD, k_BKMD, v_BKMD, causal)
    return found


# -- packed sequences -----------------------------------------------------------------------------


class Piece(NamedTuple):
    queries: int
    start: int
    keys: int


def pieces_of(slots: int, causal: bool) -> list[Piece]:
    """Runs that overlap, stand in no order, and two of them without a key."""
    most = slots // 2
    blocks = [
        Piece(3, slots - most, most),
        Piece(1, 0, 0),
        Piece(33, slots // 3, max(most, 33)),
        Piece(5, slots // 3 + 1, 5),
        Piece(2, 0, slots),
        Piece(4, 7, 0),
        Piece(1, slots - 1, 1),
    ]
    return blocks if causal else [each._replace(queries=1) for each in blocks]


def ways_of(kernel: Any, dim: int) -> list[int]:
    """How it is told where packed keys lie: 0 by runs, else by pages of so many keys."""
    if not (hasattr(kernel, "packed") and kernel.packs(dim)):
        return []
    pages = kernel.pages() if hasattr(kernel, "pages") else None
    return [0] * (pages is None or pages.runs) + ([pages.tokens] if pages else [])


def slots_of(piece: Piece, page: int) -> torch.Tensor:
    """In the order in which they are read: by pages, the last whole page comes first."""
    slots = torch.arange(piece.start, piece.start + piece.keys)
    if not page:
        return slots
    whole = piece.keys // page * page
    return torch.cat((slots[:whole].view(-1, page).flip(0).flatten(), slots[whole:]))


def packed_of(pieces: Sequence[Piece], device: torch.device, page: int = 0) -> Packed:
    ends = torch.tensor([0, *(each.queries for each in pieces)]).cumsum(0)
    read = [slots_of(each, page) for each in pieces]
    starts = torch.tensor([*(int(slots[0]) if len(slots) else 0 for slots in read), 0])
    keys = torch.tensor([each.keys for each in pieces])
    most_q, most_k = max(each.queries for each in pieces), max(each.keys for each in pieces)
    ends, starts, keys = (x.to(device, torch.int32) for x in (ends, starts, keys))
    made = Packed(ends, starts, keys, most_q, most_k)
    if not page:
        return made
    pages = torch.zeros(len(pieces), -(-most_k // page), dtype=torch.int32)
    for number, slots in enumerate(read):
        firsts = slots[::page]
        pages[number, : len(firsts)] = firsts
    ends_k = torch.cat((keys.new_zeros(1), keys.cumsum(0))).to(torch.int32)
    return made._replace(pages_EP=pages.to(device), ends_k=ends_k)


def packed_checks(
    name: str,
    kernel: Any,
    q_NHD: torch.Tensor,
    k_MKD: torch.Tensor,
    v_MKD: torch.Tensor,
    pieces: Sequence[Piece],
    causal: bool,
    page: int = 0,
) -> list[Check]:
    """All pieces in one call, each against attention over its own keys."""
    scale = SCALE * q_NHD.shape[2] ** -0.5
    sequences = packed_of(pieces, q_NHD.device, page)
    out_NHD, lse_HN = kernel.packed(q_NHD, k_MKD, v_MKD, sequences, causal=causal, scale=scale)
    assert out_NHD.shape == q_NHD.shape and lse_HN.dtype == torch.float32
    errors, plains, lses, empties = [], [], [0.0], [0.0]
    first = 0
    for each in pieces:
        stop = first + each.queries
        out_HLD = out_NHD[first:stop].transpose(0, 1)
        if each.keys:
            run = slots_of(each, page).to(k_MKD.device)
            tensors = (q_NHD[first:stop], k_MKD[run], v_MKD[run])
            q, k, v = (x.transpose(0, 1)[None] for x in tensors)
            want = dense(q, k, v, causal, scale)
            plain = dense(q, k, v, causal, scale, q.dtype)
            errors.append(distance(out_HLD[None], want.out_BHLD))
            plains.append(distance(plain.out_BHLD, want.out_BHLD))
            lses.append(_lse_error(lse_HN[None, :, first:stop], want.lse_BHL))
        else:
            empties.append(float(out_HLD.abs().max()))
        first = stop
    allowed = max(*plains, torch.finfo(q_NHD.dtype).eps)
    return [
        Check(name, max(errors), allowed_of(allowed, q_NHD.dtype)),
        Check(f"{name}, log-sum-exp", max(lses), 1e-4),
        Check(f"{name}, without keys", max(empties), 0.0),
    ]


def packing_checks(
    name: str, kernel: Any, shape: Shape, slots: int, dtype: torch.dtype, device: torch.device
) -> list[Check]:
    """Keys as an arena has them, and as the engine has them: one head behind the other."""
    found = []
    ways = ways_of(kernel, shape.dim)
    for causal, page in ((causal, page) for causal in (True, False) for page in ways):
        pieces = pieces_of(slots, causal)
        count = sum(each.queries for each in pieces)
        q_NHD = SHARPNESS * normal(
            count, shape.heads, shape.dim, dtype=dtype, seed=1, device=device
        )
        for layout in ("slots first", "heads first"):
            held = slots + max(0, page - 1)  # the last page ends there
            sizes = (held, shape.kv_heads, shape.dim)
            if layout == "heads first":
                sizes = (shape.kv_heads, held, shape.dim)
            k_MKD, v_MKD = (normal(*sizes, dtype=dtype, seed=s, device=device) for s in (2, 3))
            if layout == "heads first":
                k_MKD, v_MKD = k_MKD.transpose(0, 1), v_MKD.transpose(0, 1)
            what = f"{name}, packed over {slots} slots, {layout}{', causal' * causal}"
            what += f", pages of {page}" if page else ""
            found += packed_checks(what, kernel, q_NHD, k_MKD, v_MKD, pieces, causal, page)
    return found


def far_checks(
    kernel: Any, shape: Shape, elements: int, dtype: torch.dtype, device: torch.device
) -> list[Check]:
    """Keys of more than `elements` numbers, the last of them read: an offset of 32 bits is short.
    (Not the very last, where a page of keys could not begin.)

    Packed where the kernel packs; and one call whose last heads lie beyond.
    """
    slots = elements // (shape.kv_heads * shape.dim) + 4096
    size = (shape.kv_heads, slots, shape.dim)
    k_KMD, v_KMD = (normal(*size, dtype=dtype, seed=s, device=device) for s in (1, 2))
    q_1HD = SHARPNESS * normal(1, shape.heads, shape.dim, dtype=dtype, seed=3, device=device)
    found = call_checks(
        f"{k_KMD.numel()} numbers, all keys",
        kernel,
        q_1HD[:, :, None],
        k_KMD[None],
        v_KMD[None],
        True,
    )
    ways = ways_of(kernel, shape.dim)
    last = slots - max([1, *ways]) + 1  # where a page may begin
    pieces = [
        Piece(2, last - 1024, 1024),
        Piece(1, 0, 0),
        Piece(7, 5, 300),
        Piece(3, last - 9, 9),
    ]
    q_NHD = SHARPNESS * normal(13, shape.heads, shape.dim, dtype=dtype, seed=4, device=device)
    for layout in ("heads first", "slots first"):
        if layout == "slots first":
            k_MKD, v_MKD = (x.view(slots, shape.kv_heads, shape.dim) for x in (k_KMD, v_KMD))
        else:
            k_MKD, v_MKD = k_KMD.transpose(0, 1), v_KMD.transpose(0, 1)
        for page in ways:
            what = f"{k_KMD.numel()} numbers, packed, {layout}{f', pages of {page}' * bool(page)}"
            found += packed_checks(what, kernel, q_NHD, k_MKD, v_MKD, pieces, True, page)
    return found
