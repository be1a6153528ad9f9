"""Tiny models on CUDA devices that are only said to be there, and a packing kernel for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import accelerate
import tiny_models
import torch
from fake_cuda import FakeCuda, at, real
from fake_cuda_ops import check_flash
from packing_kernel import PackingReference
from torch import nn
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
    """Spread a model's layers evenly over devices, in order, by accelerate's own hooks.

    Embedding and rotary lie on the first, norm and head on the last; logits come back to the first.
    """
    first, last = devices[0].index, devices[-1].index
    where = {"model.embed_tokens": first, "model.rotary_emb": first}
    where |= {"model.norm": last, "lm_head": last}
    for number in range(LAYERS):
        where[f"model.layers.{number}"] = devices[number * len(devices) // LAYERS].index
    for name, index in where.items():
        _put(model.get_submodule(name), torch.device("cuda", index))
    if len(devices) > 1:
        skipped = list(model._skip_keys_device_placement)  # as from_pretrained has it
        accelerate.dispatch_model(model, where, main_device=first, skip_keys=skipped)
    for number, layer in enumerate(model.base_model.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: _inside(number))
        layer.register_forward_hook(lambda *_: _inside(None), always_call=True)
    return model


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
