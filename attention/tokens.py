"""Rows of one query: turned together, read by runs of keys that they share, merged at once.

A decoded token sees all its keys, so nothing here is causal. Rows that read the same run of keys,
the questions about one document, go through it in one call.

Shape legend: H query heads, K key/value heads, M key slots, D head dimension, R rows, N queries of
calls, A calls of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from longctx.attention.chunks import ChunkQueries, KeyPart, Turns
from longctx.attention.kernels.base import Kernel
from longctx.attention.rope import rotate
from longctx.attention.rows import Slots, StepRow, slots_of
from longctx.attention.upload import upload


class Token(NamedTuple):
    """A row of one query."""

    batch: int
    column: int


class Call(NamedTuple):
    """Queries `first` .. `stop` - 1 of the step's expanded ones over one run of keys, all seen."""

    slots: Slots
    batch: int
    logit_scale: float
    first: int
    stop: int


@dataclass(frozen=True)
class Tokens:
    """All rows of one query: what they read, and how the partial results are gathered.

    Attributes:
        of_N: the token that each query of a call is.
        turned_from: queries from here on are turned, by `turn_N` positions.
        parts_RA: the queries of each token; the number of queries stands for none.
    """

    tokens: tuple[Token, ...]
    calls: tuple[Call, ...]
    of_N: tuple[int, ...]
    turned_from: int
    turn_N: tuple[int, ...]
    parts_RA: tuple[tuple[int, ...], ...]


def plan_tokens(
    single: Sequence[tuple[Token, StepRow, ChunkQueries]], turns: Turns | None
) -> Tokens:
    members: dict[tuple[bool, Slots, int, float], list[tuple[int, int]]] = {}
    for at, (token, row, step) in enumerate(single):
        parts: list[tuple[KeyPart | None, slice]] = [(None, step.keys)]
        parts += [(part, part.keys) for band in step.bands for part in band.parts]
        for part, keys in parts:
            turn = turns.amount(part, row.start - step.keys.start) if part and turns else 0
            for slots in slots_of(row, keys):
                key = (part is not None, slots, token.batch, row.logit_scale)
                members.setdefault(key, []).append((at, turn))
    calls: list[Call] = []
    of_N: list[int] = []
    turn_N: list[int] = []
    parts_RA: list[list[int]] = [[] for _ in single]
    turned_from = 0
    for (turned, slots, batch, scale), found in sorted(members.items(), key=lambda each: each[0]):
        first = len(of_N)
        for at, turn in found:
            parts_RA[at].append(len(of_N))
            of_N.append(at)
            if turned:
                turn_N.append(turn)
        if not turned:
            turned_from = len(of_N)
        calls.append(Call(slots, batch, scale, first, len(of_N)))
    most = max(len(parts) for parts in parts_RA)
    filled = tuple((*parts, *[len(of_N)] * (most - len(parts))) for parts in parts_RA)
    tokens = tuple(token for token, _, _ in single)
    return Tokens(tokens, tuple(calls), tuple(of_N), turned_from, tuple(turn_N), filled)


def read(
    slots: Slots, batch: slice, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [B, K, M, D]."""
    k_BKMD, v_BKMD = keys[slots.stack], values[slots.stack]
    first, count = slots.start, slots.stop - slots.start
    if k_BKMD.shape[0] == 1:  # nothing to choose: a view less, for every call of every layer
        return k_BKMD.narrow(2, first, count), v_BKMD.narrow(2, first, count)
    span = slice(first, slots.stop)
    return k_BKMD[batch, :, span], v_BKMD[batch, :, span]


def attend_tokens(
    tokens: Tokens,
    turns: Turns | None,
    kept: dict[Any, Any],
    q_BHLD: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    kernel: Kernel,
    scale: float,
) -> torch.Tensor:
    """[1, H, R, D], in the merge's dtype where there was one."""
    if len(tokens.tokens) == 1:
        batch, column = tokens.tokens[0]
        q_1H1D = q_BHLD
        if q_BHLD.shape[0] != 1 or q_BHLD.shape[2] != 1:
            q_1H1D = q_BHLD[batch : batch + 1, :, column : column + 1]
        return _attend_one(tokens, turns, kept, q_1H1D, keys, values, kernel, scale)
    q_1HND, device = _expand(tokens, kept, q_BHLD), q_BHLD.device
    turned, total = tokens.turned_from, len(tokens.of_N)
    turned_1HND = q_1HND
    if turned < total:
        if (table := kept.get(("turns", device))) is None:
            assert turns is not None
            table = kept["turns", device] = turns.take(tokens.turn_N, device)
        turned_1HND = rotate(_span(q_1HND, turned, total), table)
    partials = []
    for slots, batch, logit_scale, first, stop in tokens.calls:
        if first < turned:
            mine_1HND = _span(q_1HND, first, stop)
        else:
            mine_1HND = _span(turned_1HND, first - turned, stop - turned)
        k_1KMD, v_1KMD = read(slots, slice(batch, batch + 1), keys, values)
        partials.append(kernel(mine_1HND, k_1KMD, v_1KMD, causal=False, scale=scale * logit_scale))
    count, most = len(tokens.tokens), len(tokens.parts_RA[0])
    if len(partials) == 1 and most == 1:
        return partials[0].out_BHLD
    dtype = torch.promote_types(q_BHLD.dtype, torch.float32)
    out_1HND = torch.cat([part.out_BHLD for part in partials], dim=2).to(dtype)
    if most == 1:
        return out_1HND[:, :, _parts_index(tokens, kept, device)]
    lses = [part.lse_BHL for part in partials]
    index = _parts_index(tokens, kept, device)
    nothing_1H1 = lses[0].new_full((1, q_BHLD.shape[1], 1), -torch.inf)
    lse_1HN = torch.cat([*lses, nothing_1H1], dim=2).to(dtype)
    weights_1HRA = _weights(lse_1HN[:, :, index].view(1, -1, count, most), 3)
    # What stands for no call has weight 0; the last query's number keeps the index inside.
    parts_1HRAD = out_1HND[:, :, index.clamp(max=total - 1)].unflatten(2, (count, most))
    return (weights_1HRA.unsqueeze(3) @ parts_1HRAD).squeeze(3)


def _attend_one(
    tokens: Tokens,
    turns: Turns | None,
    kept: dict[Any, Any],
    q_1H1D: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    kernel: Kernel,
    scale: float,
) -> torch.Tensor:
    """One token: little is computed, so the fewest calls. [1, H, 1, D].

    On the CPU the heads that share a key head are that head's queries from the beginning: the
    kernel would pack them so at every call, and copy what comes out.
    """
    device, dim = q_1H1D.device, q_1H1D.shape[3]
    heads = q_1H1D.shape[1]
    groups = keys[0].shape[1] if device.type == "cpu" else heads
    q_1KGD = q_1H1D.reshape(1, groups, heads // groups, dim)
    turned: Sequence[torch.Tensor] = ()
    if tokens.turn_N:
        if (table := kept.get(("turns", device))) is None:
            assert turns is not None
            table = kept["turns", device] = _crossed(turns.take(tokens.turn_N, device))
        turned = _turned(q_1KGD, table)
    partials = []
    for slots, batch, logit_scale, first, _ in tokens.calls:
        mine_1KGD = q_1KGD if first < tokens.turned_from else turned[first - tokens.turned_from]
        k_1KMD, v_1KMD = read(slots, slice(batch, batch + 1), keys, values)
        partials.append(kernel(mine_1KGD, k_1KMD, v_1KMD, causal=False, scale=scale * logit_scale))
    if len(partials) == 1:
        return partials[0].out_BHLD.reshape(1, heads, 1, dim)
    dtype = torch.promote_types(q_1H1D.dtype, torch.float32)
    if len(partials) == 2:
        (a_1KGD, a_1KG), (b_1KGD, b_1KG) = partials
        weights_1KG1 = _second_weight(a_1KG, b_1KG).to(dtype).unsqueeze(3)
        merged_1KGD = torch.lerp(a_1KGD.to(dtype), b_1KGD.to(dtype), weights_1KG1)
    else:
        out_A1KGD = torch.stack([part.out_BHLD for part in partials]).to(dtype)
        lse_A1KG = torch.stack([part.lse_BHL for part in partials]).to(dtype)
        merged_1KGD = (out_A1KGD * _weights(lse_A1KG, 0).unsqueeze(4)).sum(0)
    return merged_1KGD.reshape(1, heads, 1, dim)


def _weights(lse: torch.Tensor, dim: int) -> torch.Tensor:
    """Of partial results, along a dimension; they add up to 1."""
    return lse.softmax(dim)


def _second_weight(a_1KG: torch.Tensor, b_1KG: torch.Tensor) -> torch.Tensor:
    """Of two partial results the second one's, as `_weights`."""
    return (b_1KG - a_1KG).sigmoid_()


def _crossed(table_2NF: torch.Tensor) -> torch.Tensor:
    """[N, 1, 1, 2, 2, F]: what each half of a query gives to each half of the turned one."""
    cos_NF, sin_NF = table_2NF
    crossed_N4F = torch.stack((cos_NF, -sin_NF, sin_NF, cos_NF), dim=1)
    return crossed_N4F.unflatten(1, (1, 1, 2, 2))


def _turned(q_1KGD: torch.Tensor, crossed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As `rotate`, for one query and a few turns, [1, K, G, D] each, in two operations."""
    halves = q_1KGD.unflatten(3, (2, -1)).unsqueeze(3)
    turned = (halves * crossed).sum(4).flatten(3).to(q_1KGD.dtype)
    return turned.split(1)


def _span(q_1HND: torch.Tensor, first: int, stop: int) -> torch.Tensor:
    """Queries `first` .. `stop` - 1, a view."""
    count = stop - first
    return q_1HND if count == q_1HND.shape[2] else q_1HND.narrow(2, first, count)


def _expand(tokens: Tokens, kept: dict[Any, Any], q_BHLD: torch.Tensor) -> torch.Tensor:
    """[1, H, N, D]: each token's query as often as it is asked."""
    key = ("queries", q_BHLD.device)
    if key not in kept:
        found = [tokens.tokens[at] for at in tokens.of_N]
        kept[key] = upload(torch.tensor(found).T.contiguous(), q_BHLD.device)
    batch_N, column_N = kept[key]
    return q_BHLD[batch_N, :, column_N].transpose(0, 1).unsqueeze(0)


def _parts_index(tokens: Tokens, kept: dict[Any, Any], device: torch.device) -> torch.Tensor:
    """[R * A] int64."""
    key = ("parts", device)
    if key not in kept:
        kept[key] = upload(torch.tensor(tokens.parts_RA).flatten(), device)
    index: torch.Tensor = kept[key]
    return index


def token_index(tokens: Tokens, kept: dict[Any, Any], device: torch.device) -> torch.Tensor:
    """[2, R]: where tokens stand in q."""
    key = ("tokens", device)
    if key not in kept:
        kept[key] = upload(torch.tensor(tokens.tokens).T.contiguous(), device)
    index: torch.Tensor = kept[key]
    return index
