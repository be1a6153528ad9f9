"""Where torch.compile meets the drop-in: what is compiled around, and what is one node of a graph.

Plans are host work that differs from one forward to the next, so a compiler that looks into them
compiles every step anew. Two things keep it out. The hooks that plan are compiled around
(`outside`), from where nothing is left to compile before them (hooks.py). Attention is one
operator, whose graph is given a ticket, a tensor with the number of this forward's plan: its value
is read when the graph runs, so one graph serves every plan. Where gradients are off it is a plain
operator: what refuses a backward pass is Python around every call.

The plan itself still travels by keyword, from the hook to every layer, and carries its ticket. The
table here holds plans weakly, so each ends with its forward; forwards in other threads, of other
models or of copies have other numbers.

Shape legend: B batch, H query heads, K key/value heads, L query tokens, M key tokens, D head
dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import torch
from torch._dynamo import exc, symbolic_convert
from torch._dynamo.eval_frame import skip_code

_Hook = TypeVar("_Hook", bound=Callable[..., Any])
_HOW = (
    "an extended model plans each forward on the host, outside any graph: compile the transformers "
    "model by itself, not what calls it, or leave out fullgraph=True"
)
NO_BACKWARD = (
    "Dual Chunk Attention is inference only: it has no backward pass; call handle.remove() to "
    "train, or run under torch.no_grad()"
)


class Planned(Protocol):
    """One forward's plan."""

    def run(
        self, q_BHLD: torch.Tensor, k_BKMD: torch.Tensor, v_BKMD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attention of one layer; [B, L, H, D] in q's dtype."""


_numbers = itertools.count(1)
_plans: WeakValueDictionary[int, Planned] = WeakValueDictionary()


def outside(hook: _Hook) -> _Hook:
    """A hook that compiled code calls and never looks into."""
    disabled: _Hook = torch.compiler.disable(hook, reason=_HOW)
    return disabled


def beside(hook: _Hook) -> _Hook:
    """A hook that compiled code looks into, and that is not worth a graph of its own."""
    skip_code(hook.__code__)
    return hook


@torch.compiler.assume_constant_result
def _refuse_one_graph() -> None:
    """Called by the compiler, when it meets a forward.

    Raises:
        Unsupported: it was told fullgraph=True; in our words, before it finds its own.
    """
    translator = getattr(symbolic_convert.InstructionTranslator, "current_tx", lambda: None)()
    if getattr(translator, "one_graph", False):
        raise exc.Unsupported(_HOW)


@beside
def refuse_one_graph(*_: Any) -> None:
    """A hook before those that are compiled around, to be first with what there is to say."""
    if torch.compiler.is_compiling():
        _refuse_one_graph()


def enter(plan: Planned) -> torch.Tensor:
    """The plan's ticket, int64 [1] on the host; good for as long as somebody holds the plan."""
    number = next(_numbers)
    _plans[number] = plan
    return torch.tensor([number])


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ticket: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    plan = _plans.get(int(ticket))
    if plan is None:
        raise RuntimeError(
            "compiled attention was given the plan of a forward that is over: call the model "
            "that extend() was given, not a graph of it that was kept"
        )
    return plan.run(query, key, value, scale).contiguous()


def _shape(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ticket: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    batch, heads, columns, dim = query.shape
    return query.new_empty(batch, columns, heads, dim)


# A CUDA graph would repeat the launches of the plan that it was recorded with.
_MARKS = (torch.Tag.cudagraph_unsafe, torch.Tag.pt2_compliant_tag)
_LIBRARY = torch.library.Library("longctx", "FRAGMENT")  # its operators live as long as it does
_LIBRARY.define(
    "attend(Tensor query, Tensor key, Tensor value, Tensor ticket, float scale) -> Tensor",
    tags=_MARKS,
)
_LIBRARY.impl("attend", _attend, "CompositeExplicitAutograd")
torch.library.register_fake("longctx::attend", _shape, lib=_LIBRARY)

_attend_under_grad = torch.library.custom_op(
    "longctx::attend_under_grad", _attend, mutates_args=(), tags=_MARKS[0]
)
_attend_under_grad.register_fake(_shape)


def attend_by_ticket(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ticket: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """What a compiled layer calls: attention by the plan that `ticket` names."""
    plain: Any = torch.ops.longctx.attend.default
    attend = _attend_under_grad if torch.is_grad_enabled() else plain
    made: torch.Tensor = attend(query, key, value, ticket, scale)
    return made


@torch.library.custom_op("longctx::refuse_backward", mutates_args=())
def _refuse_backward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    raise RuntimeError(NO_BACKWARD)


@_refuse_backward.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx: Any, grad: torch.Tensor) -> Any:
    # An operator, because a compiler traces this together with a forward that nobody may go back
    # through: only running it is an error.
    return (*_refuse_backward(*ctx.saved_tensors), None, None)


_attend_under_grad.register_autograd(_backward, setup_context=_keep)
