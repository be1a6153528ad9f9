"""Weights of linear layers in the layout that the CPU's matrix library computes in.

A plain weight is brought into that layout again at every call, which for one token costs as much
as the product itself. Packed once, a weight takes the place of the plain one, so that memory stays
what it was; unpack() puts the same numbers back. The model's code calls the same layers as before.
"""

from __future__ import annotations

import types
from collections import Counter
from typing import Any

import torch
from torch import nn

from longctx.attention import cpu
from longctx.engine.allocator import give_back

# Numbers of a float32 weight. Below, one row costs up to three times the plain product, and every
# new number of rows keeps half a megabyte of code in the library.
SMALLEST_FLOAT32 = 1 << 16
# So a small one stays, and has a packed copy for the rows of a prompt, which cost a fifteenth less
# so: those of a whole chunk, as most are, in multiples of this.
WHOLE_ROWS = 256
# Freed weights of a few megabytes stay with the allocator, in holes too small for packed ones.
_TRIM_EVERY = 64 << 20


class PackedLinears:
    """Packs what can be packed of a model: nothing on a GPU, nor what `cpu.packs_linear` refuses.

    Left as they are: layers that are not exactly nn.Linear (adapters, quantised ones), tied or
    offloaded weights, and those with hooks. A plain layer computes the same. Small ones of float32
    keep the plain weight beside the packed one. Its length is the number of those that do not.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._layers: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
        self._beside: list[nn.Linear] = []
        self._freed = 0
        if model is None:
            return
        owners = Counter(
            parameter.data_ptr()
            for _, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.device.type == "cpu"
        )
        try:
            for module in model.modules():
                if not isinstance(module, nn.Linear) or not _fits(module):
                    continue
                if owners[module.weight.data_ptr()] != 1:
                    continue
                if _is_small(module.weight):
                    self._pack_beside(module)
                else:
                    self._pack(module)
        except BaseException:
            self.unpack()
            raise

    def __len__(self) -> int:
        return len(self._layers)

    def _pack(self, layer: nn.Linear) -> None:
        with torch.inference_mode():
            packed = torch.ops.mkldnn._reorder_linear_weight.default(layer.weight.detach())
        parameter, compute, bias = layer.weight, _linear(), layer.bias

        def forward(x: torch.Tensor) -> Any:
            return compute(x, packed, bias, "none", [], "")

        self._layers.append((layer, parameter, packed))
        # Shape and dtype stay to be seen; the numbers are in the packed weight alone.
        layer.weight = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        self._free(parameter)
        layer.__dict__["forward"] = forward  # found before the class's, as accelerate does it

    def _pack_beside(self, layer: nn.Linear) -> None:
        with torch.inference_mode():
            packed = torch.ops.mkldnn._reorder_linear_weight.default(layer.weight.detach())
        compute, bias, features = _linear(), layer.bias, layer.in_features
        weight, plain = layer.weight, nn.functional.linear

        def forward(self: nn.Linear, x: torch.Tensor) -> Any:
            rows = x.numel() // features
            # A deep copy of the layer has a weight of its own, which is not the packed one.
            if rows and rows % WHOLE_ROWS == 0 and self.weight is weight:
                return compute(x, packed, bias, "none", [], "")
            return plain(x, self.weight, self.bias)

        self._beside.append(layer)
        layer.__dict__["forward"] = types.MethodType(forward, layer)

    def unpack(self) -> None:
        """The layers as they were, bit for bit, the same parameters included."""
        while self._beside:
            self._beside.pop().__dict__.pop("forward", None)  # somebody may have taken it off
        while self._layers:
            layer, parameter, packed = self._layers.pop()
            layer.__dict__.pop("forward", None)
            parameter.data = packed.to_dense()
            layer.weight = parameter

    def _free(self, parameter: torch.Tensor) -> None:
        self._freed += parameter.nbytes
        parameter.data = torch.empty(0, dtype=parameter.dtype)
        if self._freed >= _TRIM_EVERY:
            self._freed = 0
            give_back()


def _fits(module: nn.Linear) -> bool:
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    weight = module.weight
    if weight.device.type != "cpu" or not weight.is_contiguous():
        return False
    return bool(cpu.packs_linear(weight.dtype))


def _is_small(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.numel() < SMALLEST_FLOAT32


def _linear() -> Any:
    return torch.ops.mkldnn._linear_pointwise.default
