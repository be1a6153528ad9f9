"""The tokens that can be drawn, found without sorting the vocabulary.

The `count` largest of V numbers lie in the `count` blocks whose largest are largest: one pass over
the logits, then a few thousand numbers a row. What the filters keep of them is the answer if the
smallest kept one is above all that was not looked at; otherwise the caller asks again with more.
Knows no request, no seed and no text.

Shape legend: R rows, V vocabulary, B blocks of it, K candidates, most likely first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from longctx.attention.upload import upload
from longctx.engine.request import Sampling

_BLOCK = 64
# How many candidates are looked at, one after the other, where fewer do not settle a row.
SIZES = (128, 2048, 16384)


class Filters(NamedTuple):
    """Settings of rows, [R, 1] float64.

    Attributes:
        top_k: infinite where all stay.
        top_p: infinite where all stay.
        open: bool; nothing is filtered but by temperature.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    open: torch.Tensor

    @classmethod
    def of(cls, settings: Sequence[Sampling], device: torch.device) -> Filters:
        """Of requests; the greedy ones keep one token."""
        # A temperature of 0 in float32 is none in float64; nor may a tiny one divide 0 by 0.
        coldest = torch.finfo(torch.float32).tiny
        rows = [
            (
                max(each.temperature, coldest),
                (each.top_k or torch.inf) if each.temperature else 1.0,
                each.top_p if each.top_p < 1 else torch.inf,
                each.min_p,
                not filters(each),
            )
            for each in settings
        ]
        columns = upload(torch.tensor(rows, dtype=torch.float64).T.contiguous(), device)
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

    ids_RK: torch.Tensor
    logits_RK: torch.Tensor
    rest_R1: torch.Tensor
    sure_R: torch.Tensor


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


def top(
    logits_RV: torch.Tensor, maxima_RB: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest and their ids, [R, K], in no order; of equals at the edge any.

    Where too few are more than -inf, and the last block is not full, its last token may fill up.
    """
    vocabulary = logits_RV.shape[1]
    if count >= vocabulary:
        return logits_RV, torch.arange(vocabulary, device=logits_RV.device).expand(logits_RV.shape)
    if count >= maxima_RB.shape[1]:
        values_RK, ids_RK = logits_RV.topk(count, sorted=False)
        return values_RK, ids_RK
    blocks_RK1 = maxima_RB.topk(count, sorted=False).indices[:, :, None]
    missing = -vocabulary % _BLOCK
    if missing:
        logits_RV = torch.nn.functional.pad(logits_RV, (0, missing), value=-torch.inf)
    whole_RBW = logits_RV.unflatten(1, (-1, _BLOCK))
    found_RKW = whole_RBW.gather(1, blocks_RK1.expand(-1, -1, _BLOCK))
    values_RK, at_RK = found_RKW.flatten(1).topk(count, sorted=False)
    within_RK = at_RK % _BLOCK
    block_RK = blocks_RK1[:, :, 0].gather(1, at_RK.div(_BLOCK, rounding_mode="floor"))
    return values_RK, (block_RK * _BLOCK + within_RK).clamp_max_(vocabulary - 1)


def ordered(
    values_RK: torch.Tensor, ids_RK: torch.Tensor, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest first; of equals the lowest id, whatever order they came in."""
    if ids_RK.shape[1] < vocabulary:
        ids_RK, order_RK = ids_RK.sort(1)
        values_RK = values_RK.gather(1, order_RK)
    values_RK, again_RK = values_RK.sort(dim=1, descending=True, stable=True)
    return values_RK, ids_RK.gather(1, again_RK)


def keep(
    values_RK: torch.Tensor,
    ids_RK: torch.Tensor,
    bound_R1: torch.Tensor,
    rule: Filters,
    others_R1: torch.Tensor | None = None,
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
    scaled_RK = (values_RK.double() - values_RK[:, :1]) / rule.temperature
    weights_RK = scaled_RK.exp()
    rank_K = torch.arange(values_RK.shape[1], device=values_RK.device)
    kept_RK = (rank_K < rule.top_k) & (weights_RK > 0)
    most_RK = weights_RK.masked_fill(~kept_RK, 0.0).cumsum(1)
    whole_R1 = most_RK[:, -1:]
    rest_R1 = torch.zeros_like(whole_R1)
    above_RK = values_RK > bound_R1
    if others_R1 is not None:
        above_R1 = weights_RK.masked_fill(~above_RK, 0.0).sum(1, keepdim=True)
        whole_R1 = torch.where(rule.top_k.isinf(), above_R1 + others_R1, whole_R1)
        rest_R1 = torch.where(rule.open, others_R1, rest_R1)
    before_RK = torch.nn.functional.pad(most_RK[:, :-1], (1, 0))
    kept_RK &= (before_RK < rule.top_p * whole_R1) & (weights_RK >= rule.min_p)
    kept_RK &= ~rule.open | above_RK  # those at the bound are the rest's, all of them
    last_R1 = (kept_RK.sum(1, keepdim=True) - 1).clamp_min(0)
    sure_R1 = rule.open | above_RK.gather(1, last_R1) | bound_R1.isneginf()
    scaled_RK = scaled_RK.masked_fill(~kept_RK, -torch.inf)
    return Kept(ids_RK, scaled_RK, rest_R1, sure_R1[:, 0])


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
    return (weights_RV.sum(1, keepdim=True).double() - above_R1 * at_bound_R1).clamp_min_(0.0)


def other(
    logits_RV: torch.Tensor,
    maxima_RB: torch.Tensor,
    temperature_R1: torch.Tensor,
    share_R1: torch.Tensor,
) -> torch.Tensor:
    """Tokens [R] among those that `others` adds up for the first of `SIZES`.

    Args:
        share_R1: where between 0 and 1 to draw, by their ids.
    """
    values_RK, _ = top(logits_RV, maxima_RB, SIZES[0])
    bound_R1 = values_RK.amin(1, keepdim=True)
    weights_RV = (logits_RV - bound_R1).div_(temperature_R1.to(logits_RV.dtype)).exp_()
    weights_RV = weights_RV.masked_fill_(logits_RV > bound_R1, 0.0)
    up_to_RV = weights_RV.cumsum(1, dtype=torch.float64)
    return torch.searchsorted(up_to_RV, share_R1 * up_to_RV[:, -1:], right=True)[:, 0]
