"""The attention function that transformers calls, and the per-forward plan that it follows.

The plan travels as a keyword argument from the pre-hook of head or decoder through every layer to
the attention function, so nothing about one request can leak into the next.

Shape legend: B batch, H query heads, K key/value heads, L query tokens, M key tokens, D head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from longctx.attention import kernels
from longctx.attention.chunks import Turns
from longctx.attention.hf import compiled
from longctx.attention.hf.autocast import one_dtype
from longctx.attention.hf.hooks import PlanInputs
from longctx.attention.padding import Padding, RowGroup
from longctx.attention.step import Run, StepPlan, StepRow, attend_step, plan_step
from longctx.attention.upload import upload

# The loader takes a name with "flash" in it for a kernel to download.
ATTENTION_NAME = "longctx_dca"


# Keys in more pieces than this, because padding lies between real tokens, are read from a copy.
MOST_PIECES = 4


@dataclass(frozen=True)
class ForwardPlan:
    """Everything the layers of one forward pass need; made once, read by all."""

    step: StepPlan
    logit_scales: tuple[float, ...]  # m^2 per batch row, of rows without a token too
    kernel: str
    inputs: PlanInputs = field(compare=False, repr=False)
    of_head: bool  # made for the forward of the head around the decoder
    slots_BM: torch.Tensor | None = None  # the copy's slots: each row's sequence from 0 on
    ticket: torch.Tensor = field(init=False, compare=False, repr=False)  # for compiled layers

    def __post_init__(self) -> None:
        object.__setattr__(self, "ticket", compiled.enter(self))

    def run(
        self, q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attention of one layer; [B, L, H, D] in q's dtype."""
        return _run(q_BHLD, k_BKMD, v_BKMD, self, scale)

    def __str__(self) -> str:
        return str(self.step)


def plan_forward(
    turns: Turns,
    padding: Padding,
    logit_scales: tuple[float, ...],
    kernel: str,
    *,
    inputs: PlanInputs,
    of_head: bool,
) -> ForwardPlan:
    """The plan of one forward: a group's rows are split where their temperatures differ.

    Args:
        logit_scales: m^2 per batch row.
        inputs: what the decoder is going to be given.
    """
    pieces = max((len(group.keys) for group in padding.groups), default=1)
    slots_BM = _slots(padding, len(logit_scales)) if pieces > MOST_PIECES else None
    rows = []
    for group in padding.groups:
        runs = _runs(group) if slots_BM is None else (Run(0, 0, group.start + group.length, 0),)
        first = group.rows.start
        for row in range(group.rows.start, group.rows.stop):
            if row + 1 == group.rows.stop or logit_scales[row + 1] != logit_scales[first]:
                alike, scale = slice(first, row + 1), logit_scales[first]
                rows.append(StepRow(group.start, group.length, runs, scale, alike, group.queries))
                first = row + 1
    return ForwardPlan(plan_step(rows, turns), logit_scales, kernel, inputs, of_head, slots_BM)


def _runs(group: RowGroup) -> tuple[Run, ...]:
    runs, position = [], 0
    for keys in group.keys:
        stop = position + keys.stop - keys.start
        runs.append(Run(0, position, stop, keys.start))
        position = stop
    return tuple(runs)


def _slots(padding: Padding, batch: int) -> torch.Tensor:
    """[B, M] int64: the slots of each row's tokens in order; 0 behind the last."""
    slots_BM = torch.zeros(batch, max(g.start + g.length for g in padding.groups), dtype=torch.long)
    for group in padding.groups:
        slots_M = torch.cat([torch.arange(keys.start, keys.stop) for keys in group.keys])
        slots_BM[group.rows, : len(slots_M)] = slots_M
    return slots_BM


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
    if torch.compiler.is_compiling():
        out_BLHD = compiled.attend_by_ticket(query, key, value, longctx_plan.ticket, scale)
    elif torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
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
    if plan.inputs.cache is None and k_BKMD.shape[2] != q_BHLD.shape[2]:
        raise RuntimeError(
            f"{k_BKMD.shape[2]} keys for {q_BHLD.shape[2]} queries, and the decoder was given no "
            "cache that is known here: positions would be wrong; please report this with the "
            "versions that `longctx info` prints"
        )
    asked = ("kernel", q_BHLD.device, q_BHLD.dtype)
    if (kernel := plan.step.kept.get(asked)) is None:
        kernel = plan.step.kept[asked] = kernels.resolve(plan.kernel, *asked[1:])
    if plan.slots_BM is not None:
        k_BKMD, v_BKMD = (_gathered(plan, x) for x in (k_BKMD, v_BKMD))
    return attend_step(plan.step, q_BHLD, (k_BKMD,), (v_BKMD,), kernel, scale)


def _gathered(plan: ForwardPlan, x_BKMD: torch.Tensor) -> torch.Tensor:
    """A copy without the holes."""
    assert plan.slots_BM is not None
    key = ("slots", x_BKMD.device)
    if key not in plan.step.kept:
        plan.step.kept[key] = upload(plan.slots_BM[:, None, :, None], x_BKMD.device)
    return x_BKMD.take_along_dim(plan.step.kept[key], 2)


class _ForwardOnly(torch.autograd.Function):
    """Forward under grad mode; the merge's lse has no gradient, so backward must not be silent."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, plan: ForwardPlan, scale: float) -> torch.Tensor:
        return _run(q, k, v, plan, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(compiled.NO_BACKWARD)


def padding_mask(attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor | None:
    """Keep the 2-D padding mask as it is; without a mask function transformers would drop it."""
    return attention_mask


def register() -> None:
    """Make the attention and mask functions known to transformers (idempotent)."""
    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, padding_mask)
