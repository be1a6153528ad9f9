"""A position scheme on a model, reversibly: frequencies, attention and who owns it.

The one place where a model is changed: the drop-in and the engine both go through it. The rotary
gets the scheme's frequencies; the attention function is selected on a copy of the config, because
other models may share the object; a mark on the decoder says whose it is. Knows no forward.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from longctx.attention.config import Scheme
from longctx.attention.hf.model import ModelParts, unwrap
from longctx.attention.hf.rope import EXACT_FROM, exact_rotary, scaled_inv_freq

_MARK = "_longctx_handle"  # on the decoder: its owner


def owner(model: Any) -> Any:
    """Whoever put a scheme on the model (also on a deep copy, or inside an adapter), else None."""
    return getattr(getattr(unwrap(model), "base_model", None), _MARK, None)


class SchemePatch:
    """Applied when made; remove() puts the model back, bit for bit.

    Args:
        owner: what `owner(model)` answers meanwhile.
        attention: a name that is registered with transformers, or None to leave the model's own.

    Raises:
        RuntimeError: the model has an owner.
        ValueError: frequencies that cannot be computed. Nothing was changed then.
    """

    def __init__(
        self, parts: ModelParts, scheme: Scheme, owner: Any, attention: str | None
    ) -> None:
        other = getattr(parts.base, _MARK, None)
        if other is not None:
            raise RuntimeError(
                f"the model has a longctx scheme already ({other.scheme.method!r}): remove() or "
                "close() that first"
            )
        rotary = parts.rotary
        inv_freq_F, attention_scaling = scaled_inv_freq(scheme, rotary, parts.base.config)
        self._parts = parts
        self._config: Any = None  # the model's own object
        self._config_before: dict[str, Any] = {}
        self._trained: tuple[torch.Tensor, float] | None = None
        setattr(parts.base, _MARK, owner)
        self._hook: Any = None
        # The plain methods are what transformers makes of them.
        if scheme.chunk_map is not None and scheme.chunk_map.chunk_len > EXACT_FROM:
            self._hook = rotary.register_forward_hook(exact_rotary, with_kwargs=True)
        if inv_freq_F is not rotary.inv_freq:
            self._trained = (rotary.inv_freq, rotary.attention_scaling)
            rotary.inv_freq, rotary.attention_scaling = inv_freq_F, attention_scaling
        if attention is not None:
            self._select(attention)

    def remove(self) -> None:
        parts = self._parts
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._trained is not None:
            trained_F, attention_scaling = self._trained
            # the model may have been moved or cast since
            parts.rotary.inv_freq = trained_F.to(parts.rotary.inv_freq)
            parts.rotary.attention_scaling = attention_scaling
            self._trained = None
        if self._config is not None:
            self._restore_config()
        delattr(parts.base, _MARK)

    def _select(self, attention: str) -> None:
        self._config = self._parts.base.config
        own = copy.copy(self._config)
        own._attn_implementation = attention
        self._config_before = dict(own.__dict__)
        self._rebind(self._config, own)

    def _restore_config(self) -> None:
        """The model's own object again, with what was set on the copy meanwhile."""
        own = self._parts.base.config
        for name, value in own.__dict__.items():
            if name == "_attn_implementation_internal":
                continue
            if name not in self._config_before or self._config_before[name] is not value:
                setattr(self._config, name, value)
        self._rebind(own, self._config)
        self._config = None

    def _rebind(self, old: Any, new: Any) -> None:
        for module in self._parts.model.modules():
            if getattr(module, "config", None) is old:
                module.config = new
