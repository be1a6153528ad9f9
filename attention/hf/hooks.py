"""Where an extended model is hooked into, and who makes a forward's plan: the outermost module.

    head      before: the plan, for the decoder inside        after: the cache is tagged
    decoder   before: the plan, where no head has made one    after: as above
    rotary    before: positions mod S

torch.compile runs the hooks of the module that it was given as Python, and compiles what is behind
them. With the plan made there, no graph breaks: a head's forward is one graph, in which the
decoder's own hooks find a plan and do nothing. What lies deeper, inside other compiled code, has
breaks around its plan.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from longctx.attention.hf.cache import cache_argument, given_cache
from longctx.attention.hf.compiled import beside, refuse_one_graph
from longctx.attention.hf.model import ModelParts

PLAN = "longctx_plan"  # the keyword in which a plan travels


class PlanInputs(NamedTuple):
    """What a plan was made from, the very objects."""

    tokens: Any
    mask: Any
    cache: Any
    position_ids: Any


def inputs_of(kwargs: Mapping[str, Any]) -> PlanInputs:
    """Of a forward's keywords; `tokens` are input_ids, or inputs_embeds without them."""
    tokens = kwargs.get("input_ids")
    return PlanInputs(
        kwargs.get("inputs_embeds") if tokens is None else tokens,
        kwargs.get("attention_mask"),
        given_cache(kwargs),
        kwargs.get("position_ids"),
    )


class ModelHooks:
    """On a model's parts until remove().

    Args:
        before: a pre-hook with keywords, which plans.
        after: a forward hook with keywords, also called when a forward has failed.
        fold: a pre-hook of the rotary.
    """

    def __init__(
        self,
        parts: ModelParts,
        before: Callable[..., Any],
        after: Callable[..., Any],
        fold: Callable[..., Any],
    ) -> None:
        base, head = parts.base, parts.model
        self._before, self._after = before, after
        self._base, self._names = base, {False: _names(head), True: _names(base)}
        self._hooks = [
            parts.rotary.register_forward_pre_hook(fold, with_kwargs=True),
            base.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            base.register_forward_hook(self._after_decoder, with_kwargs=True, always_call=True),
        ]
        if head is not base and _hands_on(head):
            self._hooks += [
                head.register_forward_pre_hook(refuse_one_graph),
                head.register_forward_pre_hook(before, with_kwargs=True),
                head.register_forward_hook(after, with_kwargs=True, always_call=True),
            ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def named(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments of a call of the head or the decoder by name."""
        return {**dict(zip(self._names[module is self._base], args, strict=False)), **kwargs}

    @beside
    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        plan = kwargs.get(PLAN)
        if plan is not None:
            given = inputs_of(self.named(module, args, kwargs))
            if all(map(_same, plan.inputs, given)):
                return None  # else something on the way has changed what the head was given
        refuse_one_graph()
        return self._before(module, args, kwargs)

    @beside
    def _after_decoder(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        plan = kwargs.get(PLAN)
        if plan is not None and not plan.of_head:
            self._after(module, args, kwargs, output)


def _same(one: object, other: object) -> bool:
    return one is other


def _names(module: Any) -> tuple[str, ...]:
    """A forward's parameters in order, without self."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def _hands_on(head: Any) -> bool:
    """Whether a head's forward takes what a plan needs, and keywords that it does not know."""
    parameters = inspect.signature(type(head).forward).parameters
    takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    needed = {"input_ids", "attention_mask", "position_ids"}
    try:
        cache_argument(type(head))
    except ValueError:
        return False
    return takes_more and needed <= set(parameters)
