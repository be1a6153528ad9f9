"""Channels of keys that are larger than the rest, evened out before keys are rounded to bytes.

Qwen2's keys have biases of a hundred times the other numbers in a few channels, and Qwen3's norm
has such weights: rounded by a row's largest number, the others would be lost. So keys are divided
by a factor of each pair of channels that rotate together, and queries multiplied by it:

    q . k = (f q) . (k / f)         f_d = f_(d + D/2), so that it commutes with rotation

Factors are powers of two, so that nothing else is rounded by them, and follow from the weights
alone: what is stored of a document stays right. Knows no requests.

Shape legend: H query heads, K key/value heads, D head dimension, F = D / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

# Numbers without a bias are seldom larger than three times their usual size.
_PEAK = 3.0


class KeyFactors(NamedTuple):
    """Of one layer.

    Attributes:
        queries_H1D: what queries are multiplied by.
        keys_K1D: what keys are multiplied by: one over the factor.
    """

    queries_H1D: torch.Tensor
    keys_K1D: torch.Tensor


def key_factors(
    layers: Iterable[Any], heads: int, kv_heads: int, dim: int
) -> tuple[KeyFactors | None, ...]:
    """Of each layer of a decoder; None where all factors are 1.

    Args:
        layers: as transformers has them, with `self_attn.k_proj`.
        dim: of a head.
    """
    found: list[KeyFactors | None] = []
    for layer in layers:
        factor_KF = _factors(layer, kv_heads, dim)
        if factor_KF is None or bool((factor_KF == 1).all()):
            found.append(None)
            continue
        factor_K1D = factor_KF.repeat(1, 2).unsqueeze(1)
        queries_H1D = factor_K1D.repeat_interleave(heads // kv_heads, 0)
        found.append(KeyFactors(queries_H1D, 1 / factor_K1D))
    return tuple(found)


def _factors(layer: Any, kv_heads: int, dim: int) -> torch.Tensor | None:
    """Powers of two, not below 1."""
    attention = layer.self_attn
    if (norm := getattr(attention, "k_norm", None)) is not None:
        weight = getattr(norm, "weight", None)
        if weight is None or weight.numel() != dim:
            return None
        large_KF = _pairs(weight.detach().float().square().view(1, dim)).expand(kv_heads, -1)
        usual_K1 = large_KF.median(-1, keepdim=True).values
    else:
        bias, norms = getattr(attention.k_proj, "bias", None), row_norms(attention.k_proj)
        if bias is None or norms is None:
            return None
        large_KF = _pairs(bias.detach().float().square().view(kv_heads, dim))
        gain = layer.input_layernorm.weight.detach().float().square().mean().sqrt()
        spread_KF = _pairs((norms * gain).square().view(kv_heads, dim))
        usual_K1 = _PEAK * spread_KF.median(-1, keepdim=True).values
    ratio_KF = large_KF / usual_K1.clamp_min(1e-30)
    return torch.exp2(torch.log2(ratio_KF.clamp_min(1)).round())


def _pairs(squares_KD: torch.Tensor) -> torch.Tensor:
    """[K, F]: how long each pair of numbers is."""
    return squares_KD.unflatten(-1, (2, -1)).sum(-2).sqrt()


def row_norms(layer: Any) -> torch.Tensor | None:
    """[O] of a linear layer's weight; None of one that does not show it."""
    if (kept := getattr(layer, "row_norms_O", None)) is not None:  # of weights in bytes
        return kept
    weight = getattr(layer, "weight", None)
    if weight is None or weight.is_meta or not weight.is_floating_point():
        return None
    return torch.linalg.vector_norm(weight.detach().float(), dim=-1)
