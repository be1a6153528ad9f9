"""The attention function that transformers calls, and the per-forward plan that it follows.

The plan travels as a keyword argument from the decoder's pre-hook through every layer to the
attention function, so nothing about one request can leak into the next.

Shape legend: B batch, H query heads, K key/value heads, L query tokens, M key tokens, D head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from longctx.attention import kernels
from longctx.attention.chunks import Turns
from longctx.attention.dca import BlockPlan, attend, block_of
from longctx.attention.hf.autocast import one_dtype
from longctx.attention.padding import Padding, RowGroup

# The loader takes a name with "flash" in it for a kernel to download.
ATTENTION_NAME = "longctx_dca"


@dataclass(frozen=True)
class GroupPlan:
    """One row group's computation: where its tokens are, its chunks, its temperature."""

    group: RowGroup
    block: BlockPlan
    logit_scale: float  # m^2; multiplies softmax_scale, never a key


@dataclass(frozen=True)
class ForwardPlan:
    """Everything the layers of one forward pass need; made once, read by all."""

    groups: tuple[GroupPlan, ...]
    logit_scales: tuple[float, ...]  # per batch row, of rows without a group too
    padded: bool
    kernel: str
    cached: bool  # a cache was seen and counted; without one, keys are the block's own

    def __str__(self) -> str:
        return "\n".join(
            f"rows {plan.group.rows.start}..{plan.group.rows.stop - 1}, logits x "
            f"{plan.logit_scale:.6f}: {plan.block}"
            for plan in self.groups
        )


def plan_forward(
    turns: Turns,
    padding: Padding,
    logit_scales: tuple[float, ...],
    kernel: str,
    *,
    cached: bool,
) -> ForwardPlan:
    """The plan of one forward: a group's rows are split where their temperatures differ.

    Args:
        logit_scales: m^2 per batch row.
    """
    groups = []
    for group in padding.groups:
        block = block_of(turns, group.start, group.length)
        first = group.rows.start
        for row in range(group.rows.start, group.rows.stop):
            if row + 1 == group.rows.stop or logit_scales[row + 1] != logit_scales[first]:
                part = replace(group, rows=slice(first, row + 1))
                groups.append(GroupPlan(part, block, logit_scales[first]))
                first = row + 1
    return ForwardPlan(tuple(groups), logit_scales, padding.padded, kernel, cached)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    longctx_plan: ForwardPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Dual Chunk Attention behind transformers' attention interface.

    Args:
        query: [B, H, L, D], key and value: [B, K, >= M, D], rotated at p mod S. `attention_mask`
            is not read: the plan was made from it.

    Returns:
        [B, L, H, D] contiguous, and no attention weights.

    Raises:
        RuntimeError: no plan (a layer called outside the extended decoder).
        ValueError: attention features that Dual Chunk Attention does not compute.
    """
    if longctx_plan is None:
        raise RuntimeError(
            "Dual Chunk Attention was called without a plan: call the extended model, not its "
            "layers, and select it with longctx.attention.extend only"
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"Dual Chunk Attention does not support {name} in attention")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(
            f"{type(module).__name__} makes an attention mask of its own (shape "
            f"{tuple(attention_mask.shape)}): Dual Chunk Attention does not support it"
        )
    if dropout:
        raise ValueError(
            f"attention dropout {dropout} is active: longctx is inference only, call model.eval()"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    query, key, value = one_dtype(query, key, value)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        out_BLHD = _ForwardOnly.apply(query, key, value, longctx_plan, scale)
    else:
        out_BLHD = _run(query, key, value, longctx_plan, scale)
    return out_BLHD, None


def _run(
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    plan: ForwardPlan,
    scale: float,
) -> torch.Tensor:
    if not plan.cached and k_BKMD.shape[2] != q_BHLD.shape[2]:
        raise RuntimeError(
            f"{k_BKMD.shape[2]} keys for {q_BHLD.shape[2]} queries, and the decoder was given no "
            "cache that is known here: positions would be wrong; please report this with the "
            "versions that `longctx info` prints"
        )
    kernel = kernels.resolve(plan.kernel, q_BHLD.device, q_BHLD.dtype)
    if not plan.padded and len(plan.groups) == 1:
        (whole,) = plan.groups
        length = whole.block.key_length  # a StaticCache hands over its full capacity
        out_BHLD = attend(
            q_BHLD,
            k_BKMD[:, :, :length],
            v_BKMD[:, :, :length],
            whole.block,
            kernel,
            scale * whole.logit_scale,
        )
        return out_BHLD.transpose(1, 2).contiguous()

    batch, heads, columns, dim = q_BHLD.shape
    out_BLHD = q_BHLD.new_zeros(batch, columns, heads, dim)
    for part in plan.groups:
        rows, queries, keys = part.group.rows, part.group.queries, part.group.keys
        # Made on the embedding's device; this layer may lie on another.
        if isinstance(queries, torch.Tensor):
            queries = queries.to(q_BHLD.device)
        if isinstance(keys, torch.Tensor):
            keys = keys.to(k_BKMD.device)
        out_BHLD = attend(
            q_BHLD[rows][:, :, queries],
            k_BKMD[rows][:, :, keys],
            v_BKMD[rows][:, :, keys],
            part.block,
            kernel,
            scale * part.logit_scale,
        )
        out_BLHD[rows, queries] = out_BHLD.transpose(1, 2)
    return out_BLHD


class _ForwardOnly(torch.autograd.Function):
    """Forward under grad mode; the merge's lse has no gradient, so backward must not be silent."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, plan: ForwardPlan, scale: float) -> torch.Tensor:
        return _run(q, k, v, plan, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "Dual Chunk Attention is inference only: it has no backward pass; call handle.remove() "
            "to train, or run under torch.no_grad()"
        )


def padding_mask(attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor | None:
    """Keep the 2-D padding mask as it is; without a mask function transformers would drop it."""
    return attention_mask


def register() -> None:
    """Make the attention and mask functions known to transformers (idempotent)."""
    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, padding_mask)
