"""Drop-in for transformers: `extend` a model in place, reversibly.

Route: the model's own rotary gets position_ids % S from a pre-hook, so keys are cached rotated at
p mod S; queries are rotated on inside the attention function. A pre-hook makes one plan per
forward. Nothing is patched at import, no other model is touched, `remove()` puts everything
back. This file and its neighbours are the only ones that know transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from longctx.attention import kernels
from longctx.attention.chunks import Turns
from longctx.attention.config import Scheme, check_positive, resolve
from longctx.attention.hf import forward
from longctx.attention.hf.cache import (
    Tag,
    cache_argument,
    check_cache,
    open_cache,
    tag_cache,
)
from longctx.attention.hf.compiled import outside
from longctx.attention.hf.forward import ATTENTION_NAME, ForwardPlan, plan_forward
from longctx.attention.hf.hooks import PLAN, ModelHooks, inputs_of
from longctx.attention.hf.model import ModelParts, check_model, find_parts
from longctx.attention.hf.patch import SchemePatch, owner
from longctx.attention.hf.prompt_length import (
    lengths_for,
    logit_scales,
    outer_lengths,
    prompt_lengths,
    serving,
)
from longctx.attention.methods import DCA_METHODS
from longctx.attention.padding import read_padding

_METHODS = ("generate", "init_continuous_batching")  # replaced on the model while DCA is active


def extend(
    model: Any,
    method: str,
    *,
    chunk_size: int | None = None,
    local_size: int | None = None,
    original_length: int | None = None,
    factor: float | None = None,
    cap: str = "chunk_size",
    kernel: str = "auto",
    request_length: int | None = None,
) -> Handle:
    """Give a transformers model a position scheme, in place, until `handle.remove()`.

    Args:
        model: a causal LM or its decoder with one shared rotary (Qwen2, Qwen2-MoE, Qwen3, Llama,
            Mistral without active sliding window), or an adapter around one (PEFT).
        method: one of `longctx.attention.METHODS`; "none" is a no-op.
        chunk_size, local_size: C and w of Dual Chunk Attention, tokens; by default from the
            config's dual_chunk_attention_config or the family's rule.
        original_length: L0, tokens of the trained window.
        factor: extension of the trained window, of methods that have one.
        cap: largest relative position, "chunk_size" or "chunk_size-1".
        kernel: "auto" or a name of `longctx.attention.kernels.names()`; DCA methods only.
        request_length: tokens of the prompt; fixes YaRN's temperature for every forward, and the
            default factor. By default generate() takes its input's length per row and forward()
            on an empty cache its own.

    Returns:
        A handle: prints itself, is a context manager, has `.remove()`.

    Raises:
        TypeError: not a transformers model.
        ValueError: a scheme, kernel or model that cannot run; one line says what to change.
        RuntimeError: the model is extended already.
    """
    model = check_model(model)
    base: Any = model.base_model
    if (other := owner(model)) is not None:
        raise RuntimeError(
            f"the model is extended already ({other.scheme.method!r}): call .remove() on its "
            "handle first"
        )
    scheme = resolve(
        base.config,
        method,
        chunk_size=chunk_size,
        local_size=local_size,
        original_length=original_length,
        factor=factor,
        cap=cap,
        request_length=request_length,
    )
    if method not in DCA_METHODS and kernel != "auto":
        raise ValueError(
            f"kernel={kernel!r} has no effect with method {method!r}: kernels serve "
            f"{', '.join(DCA_METHODS)}"
        )
    if method == "none":
        return Handle(None, scheme, type(model).__name__, kernel, request_length)
    parts = find_parts(model)
    if method in DCA_METHODS:
        kernels.resolve(kernel, parts.rotary.inv_freq.device, parts.model.dtype)
        cache_argument(parts.base)
    handle = Handle(parts, scheme, type(model).__name__, kernel, request_length)
    handle._apply()
    return handle


def active(model: Any) -> Handle | None:
    """The handle of an extended model (also of a deep copy of one), else None."""
    found: Handle | None = owner(model)
    return found


class Handle:
    """An extended model's scheme, and the way back. Made by `extend`.

    Attributes:
        scheme: every number of the scheme, with sources.
        request_length: what `extend` was given; None follows each prompt.
    """

    def __init__(
        self,
        parts: ModelParts | None,
        scheme: Scheme,
        model_name: str,
        kernel: str,
        request_length: int | None,
    ) -> None:
        self.scheme = scheme
        self.request_length = request_length
        self._parts = parts
        self._model_name = model_name
        self._kernel = kernel
        self._active = False
        self._hooks: ModelHooks | None = None
        self._patch: SchemePatch | None = None
        self._replaced: dict[str, Any] = {}  # what the model itself had under _METHODS
        self._turns: Turns | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy or an unpickled model needs the attention function in its process."""
        self.__dict__.update(state)
        forward.register()

    @property
    def active(self) -> bool:
        """False for "none" and after remove()."""
        return self._active

    @property
    def kernel_name(self) -> str | None:
        """The kernel in use, resolved for the model's device and dtype; None without DCA."""
        if self.scheme.chunk_map is None or self._parts is None:
            return None
        device = self._parts.rotary.inv_freq.device
        return kernels.resolve(self._kernel, device, self._parts.model.dtype).name

    def __repr__(self) -> str:
        state = "active" if self._active else "not active"
        kernel = f", kernel {self.kernel_name}" if self.kernel_name else ""
        return f"<longctx {self._model_name}: {self.scheme}{kernel}; {state}>"

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    @contextmanager
    def request(self, length: int) -> Iterator[None]:
        """Fix request_length, in tokens, for the forwards inside (one prompt and its answer).

        Holds in this thread or task: a thread started inside enters its own.

        Raises:
            ValueError: a length that is not a positive whole number.
        """
        check_positive(request_length=length)
        with serving(self, (int(length),)):
            yield

    # -- applying and removing ------------------------------------------------------------------

    def _apply(self) -> None:
        parts = self._parts
        assert parts is not None
        chunked = self.scheme.chunk_map is not None
        if chunked:
            forward.register()
        self._patch = SchemePatch(parts, self.scheme, self, ATTENTION_NAME if chunked else None)
        self._active = True
        if not chunked:
            return
        self._hooks = ModelHooks(
            parts, self._before_forward, self._after_forward, self._fold_positions
        )
        if hasattr(parts.model, "generate"):
            own = parts.model.__dict__
            self._replaced = {name: own[name] for name in _METHODS if name in own}
            parts.model.generate = self._generate
            parts.model.init_continuous_batching = self._refuse_continuous_batching

    def remove(self) -> None:
        """Put the model back, bit for bit. Removing twice is harmless.

        A cache that was filled meanwhile belongs to the scheme: it refuses to be continued, unless
        its tokens fit one chunk and are what the model by itself would have written.
        """
        if not self._active or self._parts is None or self._patch is None:
            return
        parts = self._parts
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        for name in _METHODS:
            parts.model.__dict__.pop(name, None)
        parts.model.__dict__.update(self._replaced)
        self._patch.remove()
        self._active = False

    # -- one forward ----------------------------------------------------------------------------

    def _fold_positions(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The rotary sees p mod S."""
        chunk_len = self.scheme.chunk_len
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": kwargs["position_ids"] % chunk_len}
        x, position_ids, *rest = args
        return (x, position_ids % chunk_len, *rest), kwargs

    @outside
    def _before_forward(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positions from mask and cache, one plan for all layers."""
        assert self._parts is not None
        assert self._hooks is not None
        kwargs = self._hooks.named(module, args, kwargs)
        self._check_call(kwargs)
        older: ForwardPlan | None = kwargs.pop(PLAN, None)
        if older is not None and kwargs.get("position_ids") is older.inputs.position_ids:
            del kwargs["position_ids"]  # ours, and of other tokens
        inputs = inputs_of(kwargs)
        tokens, cache = inputs.tokens, inputs.cache
        if tokens is None or tokens.ndim < 2:
            return (), kwargs  # the model says itself what is missing
        past = int(cache.get_seq_length()) if cache is not None else 0
        mask = inputs.mask
        if isinstance(mask, dict):  # prepared by generate() for a StaticCache
            mask = next(iter(mask.values()))
        padding = read_padding(
            tokens.shape[0], tokens.shape[1], past, mask, inputs.position_ids, tokens.device
        )
        scales = logit_scales(self.scheme, padding.lengths, past, self._given_lengths())
        tag = Tag(self.scheme, scales)
        check_cache(cache, past, tag)
        kwargs["position_ids"] = padding.position_ids_BL
        kwargs[PLAN] = plan_forward(
            self._current_turns(),
            padding,
            scales,
            self._kernel,
            inputs=inputs._replace(position_ids=padding.position_ids_BL),
            of_head=module is not self._parts.base,
        )
        open_cache(cache, tag)
        return (), kwargs

    @outside
    def _after_forward(
        self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> None:
        """Remember on the cache which scheme and temperature its contents belong to.

        Runs after a forward that failed too, then without an output.
        """
        plan: ForwardPlan | None = kwargs.get(PLAN)
        if plan is not None:
            tag = Tag(self.scheme, plan.logit_scales)
            tag_cache(output, plan.inputs.cache, tag)

    def _current_turns(self) -> Turns:
        """Of the frequencies and the dtype that the model has now."""
        assert self._parts is not None
        inv_freq_F, turns = self._parts.rotary.inv_freq, self._turns
        if turns is None or turns.inv_freq_F is not inv_freq_F:  # a cast of the model casts them
            assert self.scheme.chunk_map is not None
            dtype = torch.promote_types(self._parts.model.dtype, torch.float32)
            self._turns = turns = Turns(self.scheme.chunk_map, inv_freq_F, dtype)
        return turns

    def _check_call(self, kwargs: dict[str, Any]) -> None:
        assert self._parts is not None
        selected = self._parts.base.config._attn_implementation
        if selected != ATTENTION_NAME:
            raise RuntimeError(
                f"the attention implementation was switched to {selected!r} while "
                f"{self.scheme.method!r} is active, so keys would be rotated for another "
                "attention: call remove() on the longctx handle first"
            )
        if kwargs.get("output_attentions"):
            raise ValueError(
                "output_attentions=True: Dual Chunk Attention never forms the weights; call "
                "remove() and use the eager implementation to look at them"
            )

    def _given_lengths(self) -> tuple[int, ...] | None:
        """Prompt lengths of the innermost request of this handle, else what extend() was given."""
        lengths = lengths_for(self)
        if lengths is not None:
            return lengths
        return None if self.request_length is None else (self.request_length,)

    # -- generate -------------------------------------------------------------------------------

    def _generate(
        self, inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """transformers' generate with the prompt's length known, compilation off."""
        assert self._parts is not None
        model = self._parts.model
        if model.device.type != "cpu":  # a static cache would compile: plans are host-side
            if generation_config is None:
                kwargs.setdefault("disable_compile", True)
            else:
                generation_config = copy.deepcopy(generation_config)
                generation_config.disable_compile = True
        generate = self._replaced.get("generate") or partial(type(model).generate, model)
        lengths = None
        if self.scheme.uses_request_length and self._given_lengths() is None:
            lengths = outer_lengths() or prompt_lengths(
                model.generation_config, inputs, generation_config, kwargs
            )
        if lengths is None:
            return generate(inputs, generation_config, *args, **kwargs)
        with serving(self, lengths):
            return generate(inputs, generation_config, *args, **kwargs)

    def _refuse_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            "generate_batch (continuous batching) replaces the attention implementation and would "
            f"drop {self.scheme.method!r}: use model.generate, or remove() the longctx handle"
        )
