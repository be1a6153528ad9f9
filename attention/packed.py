"""A step for kernels of packed sequences: all rows and parts in one call, or in two.

Tokens of q lie one behind the other. Each has the same number of parts, A, the most that one needs;
what it lacks is a sequence without keys, whose weight is 0. Part 0 is the own chunk, causal; the
others see their keys whole:

    part 0   | row 0, chunk 3 | row 1 | row 2 ...        causal call
    part 1   | succ           | -     | past  ...   \\
    part 2   | inter          | -     | -     ...   /    second call

Where every sequence has one query (decoding), nothing is causal and all is one call. The queries
are turned together, in fp32, with the temperature folded in where rows differ in it; the parts are
merged in fp32. Long prompts go slab by slab, so that the turned copies stay small. A slab of few
tokens is bound by launches, so it takes the fewest operations, a layer's ten at most; one of many
by memory, so it writes less in between, in an operation more.

Keys of a row that lie apart are a part more for each run. A kernel of pages (`PagingKernel`) takes
them as one sequence, where what lies before a run's end is whole pages: that is asked of it where
runs would be too many, or of a kernel that reads nothing else.

Shape legend: B batch, H query heads, K key/value heads, L query columns, T tokens of a slab, A
parts of a token, M key slots, D head dimension, F = D / 2 frequencies, E packed sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longctx.attention.chunks import Turns
from longctx.attention.kernels.base import Kernel, Packed, Pages
from longctx.attention.packed_parts import PartSequence, cover, sequences_of
from longctx.attention.packed_tables import covered, tables
from longctx.attention.rows import StepRow
from longctx.attention.upload import upload

SLAB = 8192  # tokens whose turned copies are held at once
FEW = 4096  # tokens whose turned copies may be held twice
MOST_PARTS = 6  # keys in more pieces go another way
# Queries of a prompt that is alone in its step, from which on a kernel that reads pages alone is
# called part by part: FlashAttention-2 reads pages by its kernel for split keys, whose tiles have
# half the queries of its plain one (flash_fwd_launch_template.h). Not measured.
LONG = 1024


@dataclass(frozen=True)
class Slab:
    """Neighbouring tokens, ready for a device.

    Attributes:
        calls: the packed sequences of each call, and whether it is causal.
        turned_from: the first part whose queries are turned; 1 where the causal call takes q as
            it is.
        turn_AT14F: cos, -sin, sin, cos of parts `turned_from` on, times m^2 where rows differ: what
            each half of a query gives to each half of the turned one. None: nothing is turned.
        present_AT, fill_AT: which parts exist, and the log-sum-exp of those that do not. None:
            all exist.
        m_T11: m^2 a token, where the rows differ and nothing is turned.
    """

    first: int
    stop: int
    parts: int
    calls: tuple[tuple[Packed, bool], ...]
    turned_from: int
    turn_AT14F: torch.Tensor | None
    present_AT: torch.Tensor | None
    fill_AT: torch.Tensor | None
    m_T11: torch.Tensor | None


@dataclass(frozen=True)
class PackedStep:
    """A step's slabs. `logit_scale`: m^2 of all rows; 1 where the slabs' tables have it."""

    slabs: tuple[Slab, ...]
    logit_scale: float


def takes(kernel: Kernel, q_BHLD: torch.Tensor, keys: Sequence[torch.Tensor]) -> bool:
    """Whether the kernel packs sequences, and these tensors can be read so."""
    ready = getattr(kernel, "packs", None)
    return (
        ready is not None
        and len(keys) == 1
        and ready(q_BHLD.shape[3])
        and keys[0].stride(3) == 1
        and keys[0].stride(2) > 0
        and (keys[0].shape[0] == 1 or keys[0].stride(0) % keys[0].stride(2) == 0)
    )


def pitch(k_BKMD: torch.Tensor) -> int:
    """Slots from one batch row's first key to the next one's."""
    return 0 if k_BKMD.shape[0] == 1 else k_BKMD.stride(0) // k_BKMD.stride(2)


def _flat(x_BKMD: torch.Tensor) -> torch.Tensor:
    """[slots, K, D], a view: a cache's batch rows one behind the other, gaps included."""
    batch, heads, slots, dim = x_BKMD.shape
    total = (batch - 1) * pitch(x_BKMD) + slots
    return x_BKMD.as_strided((total, heads, dim), (x_BKMD.stride(2), x_BKMD.stride(1), 1))


def layout_for(
    kernel: Kernel,
    rows: Sequence[StepRow],
    turns: Turns | None,
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
) -> PackedStep | None:
    """Tables of a step for a kernel that `takes` it; None where part by part is better, or all
    there is: keys in too many pieces, or pages that would end behind the tensor."""
    asked = getattr(kernel, "pages", None)
    pages: Pages | None = asked() if asked else None
    given = (rows, turns, q_BHLD.shape[0], q_BHLD.shape[2], pitch(k_BKMD), q_BHLD.device)
    if pages is None or pages.runs:
        layout = lay_out(*given)
        if layout is not None or pages is None:
            return layout
    elif len(rows) == len(rows[0].runs) == 1 and rows[0].length >= LONG:
        return None
    slots = (k_BKMD.shape[0] - 1) * pitch(k_BKMD) + k_BKMD.shape[2]
    return lay_out(*given, page=pages.tokens, slots=slots)


def lay_out(
    rows: Sequence[StepRow],
    turns: Turns | None,
    batch: int,
    columns: int,
    pitch: int,
    device: torch.device,
    m_T: torch.Tensor | None = None,
    *,
    page: int = 0,
    slots: int = 0,
) -> PackedStep | None:
    """Tables of a step on a device; None where keys lie in too many pieces.

    Args:
        m_T: m^2 of every token, on the device, where the host does not know it: the rows' own are
            not read then.
        page: keys of a page, where they are read by pages; 0: by runs.
        slots: of the tensor of keys; None is returned too where a page would end behind them.
    """
    if not page and any(len(row.runs) > MOST_PARTS for row in rows):
        return None  # a row's last query has a part for each
    scales = {row.logit_scale for row in rows}
    common = scales.pop() if len(scales) == 1 and m_T is None else None
    total = batch * columns
    slabs = []
    for first in range(0, total, SLAB):
        stop = min(first + SLAB, total)
        parts = sequences_of(rows, turns, batch, columns, pitch, first, stop, page)
        if len(parts) > MOST_PARTS or (page and not covered(parts, page, slots)):
            return None
        mine_T = None if m_T is None else m_T[first:stop]
        slabs.append(_slab(parts, turns, first, stop, common is None, device, mine_T, page))
    return PackedStep(tuple(slabs), 1.0 if common is None else common)


def _slab(
    parts: list[list[PartSequence]],
    turns: Turns | None,
    first: int,
    stop: int,
    scaled: bool,
    device: torch.device,
    m_T: torch.Tensor | None,
    page: int,
) -> Slab:
    count = stop - first
    single = all(each.stop - each.first == 1 for part in parts for each in part)
    filled = [cover(part, count, single) for part in parts]
    if single:
        calls = [(filled, False)]
    else:
        calls = [(filled[:1], True), *([(filled[1:], False)] if len(filled) > 1 else [])]
    turned = any(each.part is not None for part in parts for each in part)
    turned_from = 0 if single or scaled else 1
    turn_AT14F = m_T11 = None
    if turned:
        assert turns is not None
        turn_AT14F = _table(filled[turned_from:], turns, count, scaled, device, m_T)
    elif len(filled) > 1 or scaled:
        turned_from = len(filled)
        if scaled:
            m_T11 = (_scales(filled[:1], device) if m_T is None else m_T).view(-1, 1, 1)
    present_AT = fill_AT = None
    missing = [[each.keys == 0 for each in part] for part in filled]
    if len(filled) > 1 and any(map(any, missing)):
        rows = [
            [each.keys > 0 for each in part for _ in range(each.first, each.stop)]
            for part in filled
        ]
        present = torch.tensor(rows)
        fill = torch.full((len(filled), count), -torch.inf)
        fill[0, ~present.any(0)] = 0.0  # a token of no row: its parts are 0, and so is it
        present_AT, fill_AT = upload(present, device), upload(fill, device)
    made = tuple((tables(sequences, count, device, page), causal) for sequences, causal in calls)
    return Slab(
        *(first, stop, len(filled), made, turned_from, turn_AT14F, present_AT, fill_AT, m_T11)
    )


def _table(
    parts: list[list[PartSequence]],
    turns: Turns,
    count: int,
    scaled: bool,
    device: torch.device,
    m_T: torch.Tensor | None,
) -> torch.Tensor:
    amounts = [
        turns.amount(each.part, each.r + n) if each.part else 0
        for part in parts
        for each in part
        for n in range(each.stop - each.first)
    ]
    cos_NF, sin_NF = turns.take(amounts, device)
    if scaled:
        m_N = _scales(parts, device) if m_T is None else m_T.repeat(len(parts))
        m_N1 = m_N.to(cos_NF.dtype).unsqueeze(1)
        cos_NF, sin_NF = cos_NF * m_N1, sin_NF * m_N1
    turn_N4F = torch.stack((cos_NF, -sin_NF, sin_NF, cos_NF), dim=1)
    return turn_N4F.view(len(parts), count, 1, 4, -1)


def _scales(parts: list[list[PartSequence]], device: torch.device) -> torch.Tensor:
    """m^2 of every token of every part."""
    m_N = [each.m for part in parts for each in part for _ in range(each.first, each.stop)]
    return upload(torch.tensor(m_N), device)


def attend_packed(
    layout: PackedStep,
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    kernel: Any,
    scale: float,
) -> torch.Tensor:
    """As `attend_step`; [B, L, H, D]."""
    batch, heads, columns, dim = q_BHLD.shape
    q_THD = q_BHLD.transpose(1, 2).reshape(batch * columns, heads, dim)
    out_THD = attend_tokens(layout, q_THD, _flat(k_BKMD), _flat(v_BKMD), kernel, scale)
    return out_THD.view(batch, columns, heads, dim)


def attend_tokens(
    layout: PackedStep, q_THD: torch.Tensor, keys: Any, values: Any, kernel: Any, scale: float
) -> torch.Tensor:
    """[T, H, D].

    Args:
        keys, values: whatever the kernel reads keys from.
    """
    scale = scale * layout.logit_scale
    outs = [
        _attend_slab(slab, q_THD[slab.first : slab.stop], keys, values, kernel, scale)
        for slab in layout.slabs
    ]
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _attend_slab(
    slab: Slab,
    q_THD: torch.Tensor,
    keys: Any,
    values: Any,
    kernel: Any,
    scale: float,
) -> torch.Tensor:
    count, heads, dim = q_THD.shape
    queries = _queries(slab, q_THD)
    outs: list[torch.Tensor] = []  # [A, T, H, D], by call
    lses: list[torch.Tensor] = []
    for (sequences, causal), q_NHD in zip(slab.calls, queries, strict=True):
        out_NHD, lse_HN = kernel.packed(q_NHD, keys, values, sequences, causal=causal, scale=scale)
        outs.append(out_NHD.view(-1, count, heads, dim))
        lses.append(lse_HN.view(heads, -1, count))
    if slab.parts == 1:
        return outs[0][0]
    lse_HAT = lses[0] if len(lses) == 1 else torch.cat(lses, dim=1)
    if slab.present_AT is not None:
        assert slab.fill_AT is not None
        lse_HAT = torch.where(slab.present_AT, lse_HAT, slab.fill_AT)
    weights = lse_HAT.softmax(1).permute(1, 2, 0).unsqueeze(-1)  # [A, T, H, 1]
    own, others = (outs[0][0], outs[0][1:]) if len(outs) == 1 else (outs[0][0], outs[1])
    out_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    if slab.parts > 3 and count <= FEW:  # three operations for any number of parts
        merged = (others * weights[1:]).sum(0)
        return torch.addcmul(merged, own, weights[0], out=out_THD)
    merged = own * weights[0]
    for at in range(1, slab.parts - 1):
        merged.addcmul_(others[at - 1], weights[at])
    return torch.addcmul(merged, others[-1], weights[-1], out=out_THD)


def _queries(slab: Slab, q_THD: torch.Tensor) -> list[torch.Tensor]:
    """The queries of each call, [N, H, D]."""
    count, heads, dim = q_THD.shape
    if slab.turn_AT14F is None:
        if slab.m_T11 is not None:
            out_THD = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
            q_THD = torch.mul(q_THD, slab.m_T11, out=out_THD)
        if len(slab.calls) == 1:
            return [q_THD if slab.parts == 1 else q_THD.repeat(slab.parts, 1, 1)]
        others = slab.parts - 1
        return [q_THD, q_THD if others == 1 else q_THD.repeat(others, 1, 1)]
    halves = q_THD.unflatten(2, (2, dim // 2))
    turned = q_THD.new_empty(len(slab.turn_AT14F), count, heads, 2, dim // 2)
    if count <= FEW:
        products = halves.unsqueeze(2) * slab.turn_AT14F.unflatten(3, (2, 2))
        torch.add(products[..., 0, :], products[..., 1, :], out=turned)
    else:
        cos, sin = slab.turn_AT14F[..., :1, :], slab.turn_AT14F[..., 1:3, :]
        torch.addcmul(halves * cos, halves.flip(2), sin, out=turned)
    turned = turned.flatten(3)
    if len(slab.calls) == 1:
        return [turned.flatten(0, 1)]
    if slab.turned_from:
        return [q_THD, turned.flatten(0, 1)]
    return [turned[0], turned[1:].flatten(0, 1)]
