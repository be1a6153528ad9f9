"""The tokens that can be drawn, found without sorting the vocabulary.

The `count` largest of V numbers lie in the `count` blocks whose largest are largest: one pass over
the logits, then a few thousand numbers a row. What the filters keep of them is the answer if the
smallest kept one is above all that was not looked at; otherwise the caller asks again with more.
Knows no request, no seed and no text.

Shape legend: R rows, V vocabulary, B blocks of it, K candidates, most likely first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from longctx.engine import arrays
from longctx.engine.arrays import Array
from longctx.engine.request import Sampling

_BLOCK = 64
# How many candidates are looked at, one after the other, where fewer do not settle a row.
SIZES = (64, 128, 2048, 16384)
# Where probabilities of all tokens are asked for the first has too few of them too often.
_SUMMED = 128
# A temperature of 0 in float32 is none in float64; nor may a tiny one divide 0 by 0.
_COLDEST = float(np.finfo(np.float32).tiny)
_LOWEST = np.finfo(np.float32).min
_MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign


class RowFilter(NamedTuple):
    """One request's settings, as numbers.

    Attributes:
        top_k: infinite where all stay.
        top_p: infinite where all stay.
        open: nothing is filtered but by temperature.
    """

    temperature: float
    top_k: float
    top_p: float
    min_p: float
    open: bool

    @classmethod
    def of(cls, setting: Sampling) -> RowFilter:
        """A greedy request keeps one token."""
        return cls(
            max(setting.temperature, _COLDEST),
            (setting.top_k or math.inf) if setting.temperature else 1.0,
            setting.top_p if setting.top_p < 1 else math.inf,
            setting.min_p,
            not filters(setting),
        )


class Filters(NamedTuple):
    """Rules of rows, [R, 1] float64.

    Attributes:
        open: bool; None where no row is.
        most: tokens that any row keeps, None where that is not said.
    """

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    open: Array | None
    most: int | None

    @classmethod
    def of(cls, rules: Sequence[RowFilter], device: torch.device) -> Filters:
        """Where those of the device are computed."""
        columns = arrays.placed(np.ascontiguousarray(np.array(rules, np.float64).T), device)
        temperature, top_k, top_p, min_p, is_open = columns[:, :, None]
        most = max(rule.top_k for rule in rules)
        return cls(
            temperature,
            top_k,
            top_p,
            min_p,
            is_open > 0 if any(rule.open for rule in rules) else None,
            int(most) if most < math.inf else None,
        )


class Top(NamedTuple):
    """The likeliest tokens, in no order.

    Attributes:
        values_RK: logits, float32; a row that has fewer is filled up with -inf.
        ids_RK: token ids.
        bound_R1: at least every logit that is not among them; -inf where there is none.
    """

    values_RK: Array
    ids_RK: Array
    bound_R1: Array


class Kept(NamedTuple):
    """What may be drawn.

    Attributes:
        ids_RK: token ids.
        weights_RK: what their probabilities are to each other, float64; 0 where not to be drawn.
        rest_R1: of all tokens but these, summed; None where no row is open, 0 for those that are
            not.
        sure_R: whether these are the tokens that filters over the whole vocabulary keep.
    """

    ids_RK: Array
    weights_RK: Array
    rest_R1: Array | None
    sure_R: Array


def filters(setting: Sampling) -> bool:
    """Whether a token may be ruled out by its probability."""
    return not setting.temperature or setting.top_k > 0 or setting.top_p < 1 or setting.min_p > 0


def needs_sum(setting: Sampling) -> bool:
    """Whether the probabilities of all tokens are asked for."""
    return not filters(setting) or (
        setting.temperature > 0 and not setting.top_k and setting.top_p < 1
    )


def sizes_for(setting: Sampling, vocabulary: int) -> list[int]:
    """Numbers of candidates to try, by the row's own setting alone."""
    least = 2 * setting.top_k if setting.temperature else 2
    if needs_sum(setting):
        least = _SUMMED
    return [size for size in SIZES if least <= size < vocabulary] + [vocabulary]


def block_maxima(logits_RV: torch.Tensor) -> torch.Tensor:
    """[R, B]. A NaN is larger than everything."""
    whole = logits_RV.shape[1] // _BLOCK * _BLOCK
    maxima = [logits_RV[:, :whole].unflatten(1, (-1, _BLOCK)).amax(-1)] if whole else []
    if whole < logits_RV.shape[1]:
        maxima.append(logits_RV[:, whole:].amax(-1, keepdim=True))
    return torch.cat(maxima, 1) if len(maxima) > 1 else maxima[0]


def argmax(logits_RV: torch.Tensor, maxima_RB: torch.Tensor) -> Array:
    """[R]: of equals the lowest id."""
    numbers_RV, largest_RB = arrays.of(logits_RV), arrays.of(maxima_RB)
    first_R1 = largest_RB.argmax(1)[:, None] * _BLOCK
    ids_RW = (first_R1 + arrays.up_to(_BLOCK, largest_RB)).clip(max=logits_RV.shape[1] - 1)
    best_R1 = arrays.along(numbers_RV, ids_RW).argmax(1)[:, None]
    return arrays.along(ids_RW, best_R1)[:, 0]


def top(logits_RV: torch.Tensor, maxima_RB: torch.Tensor, count: int) -> Top:
    """At least the `count` largest of every row; of equals at the edge any."""
    vocabulary, device = logits_RV.shape[1], logits_RV.device
    if count < maxima_RB.shape[1]:
        missing = -vocabulary % _BLOCK
        if missing:
            logits_RV = torch.nn.functional.pad(logits_RV, (0, missing), value=-torch.inf)
        whole_RBW = logits_RV.unflatten(1, (-1, _BLOCK))
        if arrays.hosted(device):
            return _top_on_host(whole_RBW.numpy(), maxima_RB.numpy(), count)
        found = _top(whole_RBW, maxima_RB, count)
        # Where too few are more than -inf, and the last block is not full, what fills it is here.
        return found._replace(ids_RK=found.ids_RK.clamp_max_(vocabulary - 1))
    if count < vocabulary:
        values_RK, ids_RK = logits_RV.topk(count, sorted=False)
        bound_R1 = values_RK.amin(1, keepdim=True)
    else:
        values_RK = logits_RV
        ids_RK = torch.arange(vocabulary, device=device).expand(logits_RV.shape)
        bound_R1 = torch.full_like(logits_RV[:, :1], -torch.inf)
    return Top(*map(arrays.of, (values_RK, ids_RK, bound_R1)))


def _top(whole_RBW: torch.Tensor, maxima_RB: torch.Tensor, count: int) -> Top:
    """A call for each step of the search, and no wait."""
    blocks_RK1 = maxima_RB.topk(count, sorted=False).indices[:, :, None]
    found_RKW = whole_RBW.gather(1, blocks_RK1.expand(-1, -1, _BLOCK))
    values_RK, at_RK = found_RKW.flatten(1).topk(count, sorted=False)
    block_RK = blocks_RK1[:, :, 0].gather(1, at_RK // _BLOCK)
    ids_RK = block_RK * _BLOCK + at_RK % _BLOCK
    return Top(values_RK, ids_RK, values_RK.amin(1, keepdim=True))


def _top_on_host(whole_RBW: np.ndarray, maxima_RB: np.ndarray, count: int) -> Top:
    """All from a threshold on, which `count` groups of blocks reach.

    Only the largest of every group are sorted: some groups hold several of the largest blocks, so
    that a few more than `count` come out.
    """
    rows, blocks = maxima_RB.shape
    size = max(1, blocks // (4 * count))
    groups = blocks // size
    grouped_RGs = maxima_RB[:, : size * groups].reshape(rows, size, groups)
    least_R1 = np.partition(grouped_RGs.max(1), groups - count, axis=1)[:, groups - count, None]
    least_R1 = np.maximum(least_R1, _LOWEST)  # -inf is no candidate
    blocks_N = np.flatnonzero(maxima_RB >= least_R1)
    row_N, block_N = np.divmod(blocks_N, blocks)
    found_NW = whole_RBW.reshape(-1, _BLOCK)[blocks_N]
    at_M = np.flatnonzero(found_NW >= least_R1[row_N])
    of_M, within_M = at_M // _BLOCK, at_M % _BLOCK
    row_M = row_N[of_M]
    counts_R = np.bincount(row_M, minlength=rows)
    place_M = np.arange(len(at_M)) - (counts_R.cumsum() - counts_R)[row_M]
    shape = rows, max(count, int(counts_R.max()))
    values_RK, ids_RK = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64)
    values_RK[row_M, place_M] = found_NW.reshape(-1)[at_M]
    ids_RK[row_M, place_M] = block_N[of_M] * _BLOCK + within_M
    return Top(values_RK, ids_RK, least_R1)


def ordered(found: Top) -> Top:
    """Largest first; of equals the lowest id, whatever order they came in.

    Both are sorted at once, as one whole number: the bits of a float32, its sign aside, grow with
    it. The upper half falls with the value, the lower is the id.
    """
    xp = arrays.library(found.values_RK)
    bits_RK = (found.values_RK + 0.0).view(xp.int32)  # -0 and 0 are equal
    rising_RK = bits_RK ^ ((bits_RK >> 31) & _MAGNITUDE)
    key_RK = arrays.ascending((arrays.cast(~rising_RK, "int64") << 32) | found.ids_RK)
    rising_RK = arrays.cast(~(key_RK >> 32), "int32")
    bits_RK = rising_RK ^ ((rising_RK >> 31) & _MAGNITUDE)
    return Top(bits_RK.view(xp.float32), key_RK & 0xFFFFFFFF, found.bound_R1)


def keep(found: Top, rule: Filters, others_R1: Array | None = None) -> Kept:
    """Temperature, then top_k, top_p and min_p, as the common engines have them.

    top_p looks at the probabilities that top_k leaves, min_p at the share of the likeliest token,
    which always stays.

    Args:
        found: `ordered`.
        others_R1: of `others`; anything for rows that `needs_sum` leaves out, None where no row
            needs it.
    """
    xp = arrays.library(found.values_RK)
    values_RK, ids_RK = found.values_RK[:, : rule.most], found.ids_RK[:, : rule.most]
    weights_RK = xp.exp((arrays.cast(values_RK, "float64") - values_RK[:, :1]) / rule.temperature)
    first_RK = (arrays.up_to(values_RK.shape[1], values_RK) < rule.top_k) & (weights_RK > 0)
    most_RK = xp.where(first_RK, weights_RK, 0.0).cumsum(1)
    whole_R1 = most_RK[:, -1:]
    above_RK = values_RK > found.bound_R1
    if others_R1 is not None:
        above_R1 = xp.where(above_RK, weights_RK, 0.0).sum(1)[:, None]
        whole_R1 = xp.where(xp.isinf(rule.top_k), above_R1 + others_R1, whole_R1)
    kept_RK = first_RK & (weights_RK >= rule.min_p)
    kept_RK[:, 1:] &= most_RK[:, :-1] < rule.top_p * whole_R1
    rest_R1 = None
    if rule.open is not None:
        kept_RK &= ~rule.open | above_RK  # those at the bound are the rest's, all of them
        rest_R1 = xp.where(rule.open, others_R1, 0.0)
    # Of what top_k leaves top_p takes its share: all of it must be known.
    certain_RK = first_RK if rule.most else xp.where(xp.isinf(rule.top_k), kept_RK, first_RK)
    sure_R = ~(certain_RK & ~above_RK).any(1)
    if not rule.most:
        sure_R &= ~_hides(found, rule)[:, 0]
    return Kept(ids_RK, xp.where(kept_RK, weights_RK, 0.0), rest_R1, sure_R)


def _hides(found: Top, rule: Filters) -> Array:
    """Bool [R, 1]: whether min_p alone rules, and would keep a token at the bound.

    Candidates at the bound may all have been penalised, and then tell nothing of the others there.
    """
    xp = arrays.library(found.values_RK)
    bound_R1 = arrays.cast(found.bound_R1, "float64")
    share_R1 = xp.exp((bound_R1 - found.values_RK[:, :1]) / rule.temperature)
    alone_R1 = xp.isinf(rule.top_k) & xp.isinf(rule.top_p) & (rule.min_p > 0)
    return alone_R1 & (share_R1 >= rule.min_p)


def edge(found: Top, rule: Filters) -> Array:
    """[R, 1]: the bound, for open rows where the rest begins that draws as one token.

    The same wherever candidates are found, as a seed's tokens follow from it.

    Args:
        found: `ordered`.
    """
    if rule.open is None or found.values_RK.shape[1] < _SUMMED:
        return found.bound_R1
    xp, least_R1 = arrays.library(found.values_RK), found.values_RK[:, _SUMMED - 1 : _SUMMED]
    return xp.where(rule.open, xp.maximum(found.bound_R1, least_R1), found.bound_R1)


def others(
    logits_RV: torch.Tensor,
    values_RK: torch.Tensor,
    bound_R1: torch.Tensor,
    temperature_R1: torch.Tensor,
) -> torch.Tensor:
    """Sums [R, 1] of exp of logits up to the bound over temperature, the largest 1; float64."""
    largest_R1 = values_RK[:, :1]
    temperature_R1 = temperature_R1.to(logits_RV.dtype)
    weights_RV = (torch.minimum(logits_RV, bound_R1) - largest_R1).div_(temperature_R1).exp_()
    # Those above the bound were counted as if they were at it.
    above_R1 = (values_RK > bound_R1).sum(1, keepdim=True)
    at_bound_R1 = ((bound_R1 - largest_R1) / temperature_R1).exp().double()
    sums_R1 = weights_RV.sum(1, keepdim=True).double()
    return (sums_R1 - above_R1 * at_bound_R1).clamp_min_(0.0)


def other(
    logits_RV: torch.Tensor, maxima_RB: torch.Tensor, rule: Filters, share_R1: Array
) -> torch.Tensor:
    """Tokens [R] among those that `others` adds up for open rows.

    Args:
        share_R1: where between 0 and 1 to draw, by their ids.
    """
    found = ordered(top(logits_RV, maxima_RB, _SUMMED))
    bound_R1 = arrays.tensor(edge(found, rule))
    temperature_R1 = arrays.tensor(rule.temperature).to(logits_RV.dtype)
    weights_RV = (logits_RV - bound_R1).div_(temperature_R1).exp_()
    weights_RV = weights_RV.masked_fill_(logits_RV > bound_R1, 0.0)
    up_to_RV = weights_RV.cumsum(1, dtype=torch.float64)
    share_R1 = arrays.tensor(share_R1) * up_to_RV[:, -1:]
    return torch.searchsorted(up_to_RV, share_R1, right=True)[:, 0]
