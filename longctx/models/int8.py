"""Linear layers whose weights are bytes: a scale for each output, products in whole numbers.

    y_ro = x_scale_r * w_scale_o * sum_i (256 h_ri + l_ri) w_oi + bias_o

Weights are rounded once, each output by its own largest number; activations at every call, each row
by its own, to whole numbers of 16 bits, as two bytes: h and l are rows of one product. What is
lost is thus what the weights lose. One byte would be half the work of long prompts, with three
times the error; and attention's own rounding, which differs with the chunks that a prompt comes
in, would turn whole steps of it: one in some thousand answers another way.

A row's result depends on that row alone, whatever else is in the step, and as sums of whole numbers
have no order, not on how many rows there are either: every bit. (torch's `quantized.linear_dynamic`
has one scale for all rows of a call.) The products are oneDNN's.

Knows no model. Shape legend: R rows, N rows of bytes, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from longctx.attention import cpu

# oneDNN takes activations from 0 to 255 and weights from -127 to 127.
_ZERO = 128
_LARGEST_ROW = 127 * 256
_AT_A_TIME = 1 << 20  # numbers that are in float32 while weights are rounded
_TINY = 1e-30  # of a scale: rows of zeros stay zeros

_multiply = torch.ops.onednn.qlinear_pointwise.default  # found once


class Rows(NamedTuple):
    """Rows of activations as whole numbers n = 256 h + l, each with its scale.

    Attributes:
        bytes_NI: uint8; h of every row and what fills up, then l likewise; 128 stands for 0.
        scale_R1: float32.
    """

    bytes_NI: torch.Tensor
    scale_R1: torch.Tensor


class Rounding:
    """Rows of activations as bytes. Layers that read the same tensor one after the other, as those
    of queries, keys and values do, share what the first of them made of it."""

    def __init__(self) -> None:
        self._rows: torch.Tensor | None = None
        self._made: Rows

    def __call__(self, x: torch.Tensor) -> Rows:
        if x is not self._rows:
            self._made = round_rows(x.reshape(-1, x.shape[-1]))
            self._rows = x
        return self._made


def round_rows(x_RI: torch.Tensor) -> Rows:
    """Each row by its own largest number.

    A row with a NaN or an infinity has such a scale, and so has all that is computed of it.
    """
    rows, inputs = x_RI.shape
    x_RI = x_RI.float()
    scale_R1 = x_RI.abs().amax(-1, keepdim=True).clamp_min_(_TINY).mul_(1 / _LARGEST_ROW)
    whole_RI = (x_RI / scale_R1).round_()
    high_RI = (whole_RI * (1 / 256)).add_(0.5).floor_()
    filled = filled_up(2 * rows) // 2
    bytes_NI = torch.empty(2 * filled, inputs, dtype=torch.int8)
    bytes_NI[:rows] = high_RI
    bytes_NI[filled : filled + rows] = whole_RI.sub_(high_RI, alpha=256)
    # 128 more is the sign bit turned; a copy of floats to uint8 takes ten times as long.
    return Rows(bytes_NI.view(torch.uint8).bitwise_xor_(_ZERO), scale_R1)


def round_weights(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [O, I] and float32 scales [O]: each output by its own largest number."""
    outputs, inputs = weight_OI.shape
    whole_OI, scale_O = torch.empty(outputs, inputs, dtype=torch.int8), torch.empty(outputs)
    few = max(1, _AT_A_TIME // inputs)  # of a large head no second copy in float32
    for first in range(0, outputs, few):
        part_oI = weight_OI[first : first + few].float()
        scale_o = torch.linalg.vector_norm(part_oI, torch.inf, -1).clamp_min_(_TINY)
        scale_O[first : first + few] = scale_o.div_(cpu.largest_int8_weight())
        whole_OI[first : first + few] = (part_oI / scale_o[:, None]).round_()
    return whole_OI, scale_O


def filled_up(rows: int) -> int:
    """oneDNN makes code for every number of rows, and keeps it: prompts end anywhere, so that few
    numbers must stand for all."""
    step = 1 if rows <= 8 else 8 if rows <= 64 else 32
    return -(-rows // step) * step


class Int8Linear(nn.Module):
    """In place of a linear layer; in and out in the layer's dtype.

    Args:
        layer: a linear layer on a CPU, which may go afterwards.
        rounding: shared by the layers of one model.
    """

    def __init__(self, layer: nn.Linear, rounding: Rounding) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._rounding = rounding
        with torch.inference_mode(False), torch.no_grad():
            whole_OI, scale_O = round_weights(layer.weight.detach())
            packed = torch.ops.onednn.qlinear_prepack.default(whole_OI, None)
            given: torch.Tensor | None = layer.bias
            bias = None if given is None else given.detach().float()
        self.register_buffer("scale", scale_O, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        # In a layout of the library's own, which knows no device and no dtype but this.
        self._packed = packed
        self._zeros = torch.zeros(1, dtype=torch.int64).expand(self.out_features)

    @staticmethod
    def size(layer: nn.Linear | Int8Linear) -> int:
        """Bytes of a layer in this form: weights, scales, bias."""
        bias: torch.Tensor | None = layer.bias
        rest = 4 * layer.out_features * (1 if bias is None else 2)
        return layer.in_features * layer.out_features + rest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O]."""
        bytes_NI, scale_R1 = self._rounding(x)
        rows = scale_R1.shape[0]
        nothing: Any = (None, 1.0, 0, torch.float32, "none", [], "")
        out_NO = _multiply(bytes_NI, 1.0, _ZERO, self._packed, self.scale, self._zeros, *nothing)
        half = out_NO.shape[0] // 2
        out_RO = out_NO[half : half + rows].add_(out_NO[:rows], alpha=256).mul_(scale_R1)
        if self.bias is not None:
            out_RO += self.bias
        out: torch.Tensor = out_RO.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int8"
