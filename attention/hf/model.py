"""What a transformers model must look like to be extended, found by looking, not by name.

Supported: one shared rotary module on the decoder (`rotary_emb`), half-split rotation over the
whole head as the last thing that happens to queries and keys, attention through the attention
interface: Qwen2, Qwen2-MoE, Qwen2.5, Qwen3, Llama, Mistral without active sliding window, and
others whose layers pass the probe. Anything else is refused with the class named.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from longctx.attention.hf.probe import probe_layer

PROVED_FAMILIES = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "llama", "mistral", "mixtral")


class Rotary(nn.Module):
    """What every transformers rotary module has; for types only."""

    inv_freq: torch.Tensor  # [head_dim / 2] float32
    attention_scaling: float  # multiplies cos and sin


@dataclass(frozen=True)
class ModelParts:
    """The modules that position schemes touch."""

    model: PreTrainedModel
    base: PreTrainedModel  # the decoder that owns layers and rotary
    rotary: Rotary


def check_model(model: Any) -> PreTrainedModel:
    """The model itself, or the one that an adapter wraps (`get_base_model()`, as PEFT has it).

    Raises:
        TypeError: not a transformers model.
    """
    inner = unwrap(model)
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(
            f"model must be a transformers PreTrainedModel, got {type(inner).__name__}: of a "
            "wrapper that has no get_base_model(), pass the model inside"
        )
    return inner


def unwrap(model: Any) -> Any:
    """What an adapter wraps; anything else as it is."""
    seen = 0
    while not isinstance(model, PreTrainedModel) and seen < 8:  # wrappers of wrappers, no circle
        inside = getattr(model, "get_base_model", None)
        if not callable(inside):
            break
        model, seen = inside(), seen + 1
    return model


def find_parts(model: Any) -> ModelParts:
    """Locate decoder and rotary, and check every attention layer.

    Raises:
        TypeError: not a transformers model.
        ValueError: a model whose rotary cannot be patched; the message names the class and why.
    """
    model = check_model(model)
    base = model.base_model
    refuse = _Refusal(type(model).__name__)
    rotary = getattr(base, "rotary_emb", None)
    layers = getattr(base, "layers", None)
    if not isinstance(rotary, nn.Module) or not isinstance(layers, nn.ModuleList):
        raise refuse("it has no shared rotary module (`rotary_emb` beside `layers`)")
    inv_freq = getattr(rotary, "inv_freq", None)
    if not isinstance(inv_freq, torch.Tensor) or inv_freq.ndim != 1:
        raise refuse(f"its {type(rotary).__name__} has no 1-D `inv_freq`")
    _check_loaded(model, inv_freq)
    rotaries = [name for name, module in base.named_modules() if hasattr(module, "inv_freq")]
    if len(rotaries) != 1:
        raise refuse(f"it has {len(rotaries)} rotary modules ({', '.join(rotaries[:3])}, ...)")
    attentions = []
    width = 2 * inv_freq.shape[0]
    for layer in layers:
        attention = getattr(layer, "self_attn", None)
        if not isinstance(attention, nn.Module):
            raise refuse("its layers have no `self_attn`")
        if getattr(attention, "sliding_window", None) is not None:
            raise refuse(f"sliding_window={attention.sliding_window} is active in its layers")
        if not getattr(attention, "is_causal", True):
            raise refuse("its attention is not causal")
        head_dim = getattr(attention, "head_dim", None)
        if head_dim != width:
            raise refuse(f"its rotary turns {width} of {head_dim} head dimensions")
        _check_interface(attention, refuse)
        attentions.append(attention)
    # The families that tests cover need no probe; it would load every layer of an offloaded model.
    if getattr(base.config, "model_type", None) not in PROVED_FAMILIES:
        for index, attention in enumerate(attentions):
            why = probe_layer(attention, base.config.hidden_size, width)
            if why is not None:
                raise refuse(f"layer {index} is a {type(attention).__name__}: {why}")
    return ModelParts(model, base, cast(Rotary, rotary))


def _check_loaded(model: nn.Module, inv_freq_F: torch.Tensor) -> None:
    """Weights on the meta device have no numbers; offloaded ones have a hook that brings them in.

    Raises:
        ValueError: a model that was never loaded.
    """
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())
    empty = all(p.device.type == "meta" for p in model.parameters()) and not offloaded
    if inv_freq_F.device.type == "meta" or empty:
        raise ValueError(
            f"{type(model).__name__} is on the meta device, so it has shapes and no numbers: load "
            "its weights first (from_pretrained), then extend it"
        )


class _Refusal:
    def __init__(self, class_name: str) -> None:
        self.class_name = class_name

    def __call__(self, why: str) -> ValueError:
        return ValueError(
            f"{self.class_name} cannot be extended: {why}; supported are models like Qwen2, "
            "Qwen2-MoE, Qwen3, Llama and Mistral without sliding window"
        )


def _check_interface(attention: nn.Module, refuse: _Refusal) -> None:
    """Attention must go through the interface, or a registered function is never called."""
    for needed in ("config", "layer_idx", "scaling"):
        if not hasattr(attention, needed):
            raise refuse(f"its {type(attention).__name__} has no `{needed}`")
    module = sys.modules.get(type(attention).__module__)
    if not hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
        raise refuse(f"its {type(attention).__name__} does not use the attention interface")
