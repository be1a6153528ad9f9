"""Tiny models on CUDA devices that are only said to be there, and a packing kernel for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tiny_models
import torch
from fake_cuda import FakeCuda, at, real
from fake_cuda_ops import check_flash
from packing_kernel import PackingReference
from torch import nn
from torch.utils._pytree import tree_map
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from longctx.attention.kernels.base import Packed, Partial

LAYERS = 4  # each of two devices has a first layer and another one


def build(family: str = "qwen2", experts: str | None = None) -> Any:
    """In bfloat16, on the CPU. `experts`: how transformers computes them; None: its default."""
    sizes = {**tiny_models.SIZES, "num_hidden_layers": LAYERS}
    torch.manual_seed(0)
    model: Any
    if family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    else:
        config = Qwen2MoeConfig(**sizes, **tiny_models.MOE)
        if experts is not None:
            config._experts_implementation = experts
        model = Qwen2MoeForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.mul_(3.0)
    return model.eval().to(torch.bfloat16)


def place(model: Any, devices: Sequence[torch.device]) -> Any:
    """Spread a model's layers evenly over devices, in order; what is behind them goes to the last.

    Embedding and rotary lie on the first. As under a device_map, a module's inputs come to it.
    """
    base, layers = model.base_model, model.base_model.layers
    _put(model, devices[-1])
    for module in (base.embed_tokens, base.rotary_emb):
        _put(module, devices[0])
    for number, layer in enumerate(layers):
        _put(layer, devices[number * len(devices) // len(layers)])
    if len(devices) > 1:
        for module in (*layers, base.norm, model.lm_head):
            module.register_forward_pre_hook(_bring_inputs, with_kwargs=True)
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, number=number: _inside(number))
        layer.register_forward_hook(lambda *_: _inside(None), always_call=True)
    return model


def first_layers(devices: int) -> set[int]:
    """The first layer of each device."""
    return {number * LAYERS // devices for number in range(devices)}


def _put(module: nn.Module, where: torch.device) -> None:
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                moved = at(real(weight.data), where)
                part._parameters[name] = nn.Parameter(moved, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = at(real(buffer), where)


def _inside(number: int | None) -> None:
    FakeCuda.current().layer = number


def _bring_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    where = next(module.parameters()).device

    def bring(x: Any) -> Any:
        return x.to(where) if isinstance(x, torch.Tensor) else x

    return tree_map(bring, args), tree_map(bring, kwargs)


class PackingOnDevice(PackingReference):
    """A packing kernel that demands what FlashAttention does; its numbers are the reference's."""

    name = "packing_on_device"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        where = _together(q_BHLD, k_BKMD, v_BKMD)
        q, k, v = map(real, (q_BHLD, k_BKMD, v_BKMD))
        out_BHLD, lse_BHL = super().__call__(q, k, v, causal=causal, scale=scale)
        return Partial(at(out_BHLD, where), at(lse_BHL, where))

    def packed(
        self,
        q_NHD: torch.Tensor,
        k_MKD: torch.Tensor,
        v_MKD: torch.Tensor,
        sequences: Packed,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tables = sequences[:3]
        where = _together(q_NHD, k_MKD, v_MKD, *tables)
        assert all(x.dtype == torch.int32 and x.is_contiguous() for x in tables)
        q, k, v = map(real, (q_NHD, k_MKD, v_MKD))
        check_flash(q, k, v)
        held = Packed(*map(real, tables), sequences.most_q, sequences.most_k)
        out_NHD, lse_HN = super().packed(q, k, v, held, causal=causal, scale=scale)
        return at(out_NHD, where), at(lse_HN, where)


def _together(*tensors: torch.Tensor) -> torch.device:
    devices = {x.device for x in tensors}
    assert len(devices) == 1, devices
    return devices.pop()
