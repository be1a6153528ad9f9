"""Merge partial attentions over disjoint key sets into one softmax, in float32.

Knows nothing of positions or models: only outputs and their log-sum-exps.
Shape legend: B batch, H query heads, L query tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longctx.attention.kernels.base import Partial


def merge(partials: Sequence[Partial]) -> Partial:
    """Softmax over the union of the parts' keys.

        lse = logsumexp_a lse_a        out = sum_a exp(lse_a - lse) out_a

    The arithmetic is float32 whatever the parts' dtype (float64 for float64 parts): a bf16
    log-sum-exp near 10 has steps of 1/16, so weights would be off by 6 %. The result keeps that
    precision; the caller casts once, at the end. A part that saw no key has lse -inf and weight 0;
    where every part is empty, out is 0 and lse -inf, never NaN.

    Args:
        partials: at least one; out_BHLD and lse_BHL of equal shapes.
    """
    if len(partials) == 1:
        return partials[0]
    lse_ABHL = torch.stack([part.lse_BHL for part in partials])
    lse_BHL = torch.logsumexp(lse_ABHL, dim=0)
    # -inf - -inf is NaN: an all-empty row takes its weights relative to 0 instead.
    finite_BHL = torch.where(lse_BHL == -torch.inf, 0.0, lse_BHL)
    weights_ABHL1 = torch.exp(lse_ABHL - finite_BHL).unsqueeze(-1)
    out_BHLD = partials[0].out_BHLD * weights_ABHL1[0]  # a fp32 weight promotes a bf16 part
    for part, weight_BHL1 in zip(partials[1:], weights_ABHL1[1:], strict=True):
        out_BHLD.addcmul_(part.out_BHLD.to(out_BHLD.dtype), weight_BHL1)
    return Partial(out_BHLD, lse_BHL)
