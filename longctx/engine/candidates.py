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
_MAGNITUDE = 0x7FFFFFFF  # all bits of a float32 but its sign


class Rule(NamedTuple):
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
    def of(cls, setting: Sampling) -> Rule:
        """A greedy request keeps one token."""
        return cls(
            max(setting.temperature, _COLDEST),
            (setting.top_k or math.inf) if setting.temperature else 1.0,
            setting.top_p if setting.top_p < 1 else math.inf,
            setting.min_p,
            not filters(setting),
        )


class Filters(NamedTuple):
    """Rules of rows, [R, 1] float64; `open` is bool."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    open: Array

    @classmethod
    def of(cls, rules: Sequence[Rule], device: torch.device) -> Filters:
        """Where those of the device are computed."""
        columns = arrays.placed(np.ascontiguousarray(np.array(rules, np.float64).T), device)
        temperature, top_k, top_p, min_p, is_open = columns[:, :, None]
        return cls(temperature, top_k, top_p, min_p, is_open > 0)


class Kept(NamedTuple):
    """What may be drawn.

    Attributes:
        ids_RK: token ids.
        logits_RK: over the temperature, the largest 0; -inf for what may not be drawn. float64.
        rest_R1: exp of them, summed over all tokens but these; 0 for all rows but open ones.
        sure_R: whether these are the tokens that filters over the whole vocabulary keep.
    """

    ids_RK: Array
    logits_RK: Array
    rest_R1: Array
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


def argmax(logits_RV: torch.Tensor, maxima_RB: torch.Tensor) -> torch.Tensor:
    """[R]: of equals the lowest id."""
    block_R1 = maxima_RB.argmax(-1, keepdim=True)
    within = torch.arange(_BLOCK, device=logits_RV.device)
    ids_RW = (block_R1 * _BLOCK + within).clamp_max_(logits_RV.shape[1] - 1)
    best_R1 = logits_RV.gather(1, ids_RW).argmax(-1, keepdim=True)
    return ids_RW.gather(1, best_R1)[:, 0]


def top(logits_RV: torch.Tensor, maxima_RB: torch.Tensor, count: int) -> tuple[Array, Array]:
    """The `count` largest and their ids, [R, K], in no order; of equals at the edge any.

    Where too few are more than -inf, and the last block is not full, its last token may fill up.
    """
    vocabulary, hosted = logits_RV.shape[1], arrays.hosted(logits_RV.device)
    if count >= vocabulary:
        ids_V = torch.arange(vocabulary, device=logits_RV.device)
        return arrays.of(logits_RV), arrays.of(ids_V.expand(logits_RV.shape))
    if count >= maxima_RB.shape[1]:
        if hosted:
            return _largest(logits_RV.numpy(), count)
        values_RK, ids_RK = logits_RV.topk(count, sorted=False)
        return values_RK, ids_RK
    missing = -vocabulary % _BLOCK
    if missing:
        logits_RV = torch.nn.functional.pad(logits_RV, (0, missing), value=-torch.inf)
    values_RK, ids_RK = (_top_on_host if hosted else _top)(
        logits_RV.unflatten(1, (-1, _BLOCK)), maxima_RB, count
    )
    if missing:
        ids_RK = ids_RK.clip(None, vocabulary - 1)
    return values_RK, ids_RK


def _top(
    whole_RBW: torch.Tensor, maxima_RB: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    blocks_RK1 = maxima_RB.topk(count, sorted=False).indices[:, :, None]
    found_RKW = whole_RBW.gather(1, blocks_RK1.expand(-1, -1, _BLOCK))
    values_RK, at_RK = found_RKW.flatten(1).topk(count, sorted=False)
    block_RK = blocks_RK1[:, :, 0].gather(1, at_RK // _BLOCK)
    return values_RK, block_RK * _BLOCK + at_RK % _BLOCK


def _top_on_host(
    whole_RBW: torch.Tensor, maxima_RB: torch.Tensor, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numpy partitions with the processor's vectors: a tenth of the time of torch's topk."""
    _, blocks_RK = _largest(maxima_RB.numpy(), count)
    rows_R1 = np.arange(len(blocks_RK))[:, None]
    found_RKW = whole_RBW.numpy()[rows_R1, blocks_RK]
    values_RK, at_RK = _largest(found_RKW.reshape(len(found_RKW), -1), count)
    return values_RK, blocks_RK[rows_R1, at_RK // _BLOCK] * _BLOCK + at_RK % _BLOCK


def _largest(values_RN: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest of every row and where they are. A NaN is larger than everything."""
    least = values_RN.shape[1] - count
    at_RK = values_RN.argpartition(least, axis=1)[:, least:]
    return values_RN[np.arange(len(at_RK))[:, None], at_RK], at_RK


def bound(values_RK: Array) -> Array:
    """[R, 1]: no logit that is not among them is larger."""
    return arrays.library(values_RK).amin(values_RK, 1)[:, None]


def ordered(values_RK: Array, ids_RK: Array) -> tuple[Array, Array]:
    """Largest first; of equals the lowest id, whatever order they came in.

    Both are sorted at once, as one whole number: the bits of a float32, its sign aside, grow with
    it. The upper half falls with the value, the lower is the id.

    Args:
        values_RK: float32.
    """
    xp = arrays.library(values_RK)
    bits_RK = (values_RK + 0.0).view(xp.int32)  # -0 and 0 are equal
    rising_RK = bits_RK ^ ((bits_RK >> 31) & _MAGNITUDE)
    key_RK = arrays.ascending((arrays.cast(~rising_RK, "int64") << 32) | ids_RK)
    rising_RK = arrays.cast(~(key_RK >> 32), "int32")
    bits_RK = rising_RK ^ ((rising_RK >> 31) & _MAGNITUDE)
    return bits_RK.view(xp.float32), key_RK & 0xFFFFFFFF


def keep(
    values_RK: Array,
    ids_RK: Array,
    bound_R1: Array,
    rule: Filters,
    others_R1: Array | None = None,
) -> Kept:
    """Temperature, then top_k, top_p and min_p, as the common engines have them.

    top_p looks at the probabilities that top_k leaves, min_p at the share of the likeliest token,
    which always stays.

    Args:
        values_RK: logits, of `ordered`.
        bound_R1: at least every logit that is not among them; -inf where there is none.
        others_R1: of `others`; anything for rows that `needs_sum` leaves out, None where no row
            needs it.
    """
    xp = arrays.library(values_RK)
    scaled_RK = (arrays.cast(values_RK, "float64") - values_RK[:, :1]) / rule.temperature
    weights_RK = xp.exp(scaled_RK)
    kept_RK = (arrays.up_to(values_RK.shape[1], values_RK) < rule.top_k) & (weights_RK > 0)
    most_RK = xp.where(kept_RK, weights_RK, 0.0).cumsum(1)
    whole_R1 = most_RK[:, -1:]
    rest_R1 = xp.zeros_like(whole_R1)
    above_RK = values_RK > bound_R1
    if others_R1 is not None:
        above_R1 = xp.where(above_RK, weights_RK, 0.0).sum(1)[:, None]
        whole_R1 = xp.where(xp.isinf(rule.top_k), above_R1 + others_R1, whole_R1)
        rest_R1 = xp.where(rule.open, others_R1, rest_R1)
    kept_RK[:, 1:] &= most_RK[:, :-1] < rule.top_p * whole_R1
    kept_RK &= weights_RK >= rule.min_p
    kept_RK &= ~rule.open | above_RK  # those at the bound are the rest's, all of them
    sure_R = ~(kept_RK & ~above_RK).any(1)
    scaled_RK = xp.where(kept_RK, scaled_RK, -math.inf)
    return Kept(ids_RK, scaled_RK, rest_R1, sure_R)


def others(
    logits_RV: torch.Tensor, values_RK: Array, bound_R1: Array, temperature_R1: Array
) -> Array:
    """Sums [R, 1] of exp of logits up to the bound over temperature, the largest 1; float64."""
    values_RK, bound_R1 = arrays.tensor(values_RK), arrays.tensor(bound_R1)
    largest_R1 = values_RK[:, :1]
    temperature_R1 = arrays.tensor(temperature_R1).to(logits_RV.dtype)
    weights_RV = (torch.minimum(logits_RV, bound_R1) - largest_R1).div_(temperature_R1).exp_()
    # Those above the bound were counted as if they were at it.
    above_R1 = (values_RK > bound_R1).sum(1, keepdim=True)
    at_bound_R1 = ((bound_R1 - largest_R1) / temperature_R1).exp().double()
    sums_R1 = weights_RV.sum(1, keepdim=True).double()
    return arrays.of((sums_R1 - above_R1 * at_bound_R1).clamp_min_(0.0))


def other(
    logits_RV: torch.Tensor, maxima_RB: torch.Tensor, temperature_R1: Array, share_R1: Array
) -> torch.Tensor:
    """Tokens [R] among those that `others` adds up for open rows.

    Args:
        share_R1: where between 0 and 1 to draw, by their ids.
    """
    bound_R1 = arrays.tensor(bound(top(logits_RV, maxima_RB, _SUMMED)[0]))
    temperature_R1 = arrays.tensor(temperature_R1).to(logits_RV.dtype)
    weights_RV = (logits_RV - bound_R1).div_(temperature_R1).exp_()
    weights_RV = weights_RV.masked_fill_(logits_RV > bound_R1, 0.0)
    up_to_RV = weights_RV.cumsum(1, dtype=torch.float64)
    share_R1 = arrays.tensor(share_R1) * up_to_RV[:, -1:]
    return torch.searchsorted(up_to_RV, share_R1, right=True)[:, 0]
