"""Attention over one step's packed tokens: each sequence's rows against its own keys, in place.

The step's plan travels as a keyword argument through the model's own layers to the function that is
registered with transformers here. The function stores the new keys and values in the sequences'
buffers, all rows at once where these are runs of one arena, and hands the tensors to
`attention/step.py`: nothing is gathered, concatenated or repeated.

Keys arrive rotated at p mod S (at p without Dual Chunk Attention) and unscaled. Knows no scheduling
and no sampling.

Shape legend: B batch, H query heads, K key/value heads, T packed tokens of the step, L tokens of
one sequence, M its keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from transformers import AttentionInterface

from longctx.attention.chunks import Turns
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.step import Run, StepPlan, StepRow, attend_step, plan_step
from longctx.attention.upload import upload
from longctx.engine.arena import Arena
from longctx.engine.buffer import KvBuffer, Segment, spans
from longctx.engine.key_factors import KeyFactors

# The loader takes a name with "flash" in it for a kernel to download.
ATTENTION_NAME = "longctx_batch"


class RowInput(NamedTuple):
    """One sequence's part of a step.

    Attributes:
        start: position of the first token.
        own: where the new keys go.
        segments: all keys, the new ones included.
        logit_scale: m^2; multiplies softmax_scale, never a key.
    """

    start: int
    length: int
    own: KvBuffer
    segments: Sequence[Segment]
    logit_scale: float


@dataclass(frozen=True)
class BatchPlan:
    """What every layer of one step follows.

    Attributes:
        rows: one sequence behind the other in the packed tokens.
        homes: the key stacks that the runs of `step` name.
        slots_T: where the arena takes the step's tokens, on the host.
        factors: of each layer's keys; empty: of none.
    """

    rows: tuple[RowInput, ...]
    homes: tuple[KvBuffer | Arena, ...]
    step: StepPlan
    kernel: Kernel
    slots_T: torch.Tensor
    factors: Sequence[KeyFactors | None] = ()

    def __str__(self) -> str:
        return str(self.step)


def plan_batch(
    rows: Sequence[RowInput],
    turns: Turns | None,
    kernel: Kernel,
    factors: Sequence[KeyFactors | None] = (),
) -> BatchPlan:
    """Lay the sequences' tokens one behind the other."""
    stacks: dict[int, int] = {}
    homes: list[KvBuffer | Arena] = []
    steps, slots, first = [], [], 0
    for row in rows:
        runs: list[Run] = []
        for buffer, start, stop in spans(row.segments, row.start + row.length):
            stack = stacks.setdefault(id(buffer.home), len(homes))
            if stack == len(homes):
                homes.append(buffer.home)
            runs.extend(buffer.runs(stack, start, stop))
        columns = slice(first, first + row.length)
        steps.append(StepRow(row.start, row.length, tuple(runs), row.logit_scale, columns=columns))
        slots.append(row.own.slots(row.start, row.start + row.length))
        first = columns.stop
    plan = plan_step(steps, turns)
    return BatchPlan(tuple(rows), tuple(homes), plan, kernel, torch.cat(slots), factors)


def _write(
    plan: BatchPlan, layer: int, k_1KTD: torch.Tensor, v_1KTD: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Store a layer's new keys and values; all stacks that the step reads."""
    home = plan.homes[0]
    if isinstance(home, Arena):
        device = k_1KTD.device
        if ("slots", device) not in plan.step.kept:
            plan.step.kept["slots", device] = upload(plan.slots_T, device)
        home.write(layer, plan.step.kept["slots", device], k_1KTD[0], v_1KTD[0])
    else:
        first = 0
        for row in plan.rows:
            span = slice(first, first + row.length)
            row.own.write(layer, row.start, k_1KTD[0, :, span], v_1KTD[0, :, span])
            first = span.stop
    keys, values = zip(*(home.stack(layer) for home in plan.homes), strict=True)
    return keys, values


def batch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    longctx_batch: BatchPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function behind transformers' attention interface.

    Args:
        query: [1, H, T, D], key and value: [1, K, T, D].

    Returns:
        [1, T, H, D] contiguous, and no attention weights.

    Raises:
        RuntimeError: no plan: somebody else called the model while the engine owns it.
        ValueError: attention features that are not computed here.
    """
    if longctx_batch is None:
        raise RuntimeError(
            "the model belongs to a longctx engine: submit requests to it, or close() it before "
            "calling the model"
        )
    for name in ("softcap", "s_aux", "position_bias", "sliding_window"):
        if kwargs.get(name) is not None:
            raise ValueError(f"the engine's attention does not support {name}={kwargs[name]!r}")
    if attention_mask is not None:
        raise ValueError(
            f"{type(module).__name__} makes an attention mask of its own (shape "
            f"{tuple(attention_mask.shape)}): the engine's attention does not support it"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = cast(int, module.layer_idx)
    plan = longctx_batch
    if plan.factors and (factors := plan.factors[layer]) is not None:
        query, key = query * factors.queries_H1D, key * factors.keys_K1D
    keys, values = _write(plan, layer, key, value)
    return attend_step(plan.step, query, keys, values, plan.kernel, scale), None


class InKeysDtype:
    """A kernel whose keys are kept in another dtype than the model's: queries are cast to it.

    Rotations and the merge stay in the model's arithmetic.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._kernel = kernel
        # One that decodes widens keys itself, and takes queries as they are.
        self.decodes = getattr(kernel, "decodes", None)
        self.decode = getattr(kernel, "decode", None)

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return self._kernel.unavailable(device, dtype)

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        return self._kernel(q_BHLD.to(k_BKMD.dtype), k_BKMD, v_BKMD, causal=causal, scale=scale)


def register() -> None:
    """Make the function known to transformers (idempotent).

    No mask function goes with it: without one transformers makes no mask at all.
    """
    AttentionInterface.register(ATTENTION_NAME, batch_attention)
