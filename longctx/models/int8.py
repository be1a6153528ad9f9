"""Linear layers whose weights are bytes: a scale for each output, products in whole numbers.

    y_ro = x_scale_r * w_scale_o * sum_i (256 h_ri + l_ri) w_oi + bias_o

Weights are rounded once, each output by its own largest number; activations at every call, each row
by its own, to whole numbers of 16 bits, as two bytes: h and l are rows of one product. What is
lost is thus what the weights lose. One byte would be half the work of long prompts; but it loses
more than the weights do, nearly all where single inputs are hundreds of times the rest, and
attention's rounding, which differs with the chunks that a prompt comes in, turns whole steps of it:
of 120 random prompts one got another answer with other chunks, none with two bytes.

A row's result depends on that row alone, whatever else is in the step, and as sums of whole numbers
have no order, not on how many rows there are either: every bit. (torch's `quantized.linear_dynamic`
has one scale for all rows of a call.) The products of many rows are oneDNN's; int8.c does the rest,
and few rows whole. Where it is not, torch does, with the same bits.

Knows no model. Shape legend: R rows, N rows of bytes, I inputs, O outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from longctx.attention import cpu
from longctx.models import int8_native

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


def round_rows(x_RI: torch.Tensor) -> Rows:
    """Each row by its own largest number.

    A row with a NaN or an infinity has such a scale, and so has all that is computed of it.
    """
    rows, inputs = x_RI.shape
    filled = filled_up(2 * rows) // 2
    bytes_NI = torch.empty(2 * filled, inputs, dtype=torch.uint8)
    high_RI, low_RI = bytes_NI[:rows], bytes_NI[filled : filled + rows]
    functions = int8_native.load()
    if isinstance(functions, str) or not int8_native.takes(x_RI):
        return Rows(bytes_NI, _round_in_torch(x_RI.float(), high_RI, low_RI))
    scale_R1 = torch.empty(rows, 1)
    functions.round(x_RI.contiguous(), high_RI, low_RI, scale_R1)
    return Rows(bytes_NI, scale_R1)


def _round_in_torch(
    x_RI: torch.Tensor, high_RI: torch.Tensor, low_RI: torch.Tensor
) -> torch.Tensor:
    """As int8.c does it: writes both bytes of each number, and returns the scales."""
    scale_R1 = x_RI.abs().amax(-1, keepdim=True).clamp_min_(_TINY).mul_(1 / _LARGEST_ROW)
    whole_RI = (x_RI / scale_R1).round_()
    upper_RI = (whole_RI * (1 / 256)).add_(0.5).floor_()
    for half_RI, numbers_RI in ((high_RI, upper_RI), (low_RI, whole_RI.sub_(upper_RI, alpha=256))):
        # 128 more is the sign bit turned; a copy of floats to uint8 takes ten times as long.
        half_RI.view(torch.int8).copy_(numbers_RI)
        half_RI.bitwise_xor_(_ZERO)
    return scale_R1


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


class Int8Weights:
    """The weights of layers that read one input, as of queries, keys and values: one product.

    What it made of the last input is kept until the next: those layers ask one after the other,
    with the same tensor, and so does nobody else.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        made = [round_weights(layer.weight.detach()) for layer in layers]
        biases: list[torch.Tensor | None] = [layer.bias for layer in layers]
        # Of the weights before: who rounds keys wants to know.
        self.norms_O = torch.cat(
            [torch.linalg.vector_norm(layer.weight.detach().float(), dim=-1) for layer in layers]
        )
        self._scale_O = torch.cat([scale_O for _, scale_O in made])
        whole_OI = torch.cat([whole_OI for whole_OI, _ in made]) if len(made) > 1 else made[0][0]
        # In a layout of the library's own.
        self._packed = torch.ops.onednn.qlinear_prepack.default(whole_OI, None)
        self._zeros_O = torch.zeros(1, dtype=torch.int64).expand(len(whole_OI))
        self.bias_O: torch.Tensor | None = None
        if any(bias is not None for bias in biases):
            self.bias_O = torch.cat(
                [
                    torch.zeros(layer.out_features) if bias is None else bias.detach().float()
                    for layer, bias in zip(layers, biases, strict=True)
                ]
            )
        self._few = int8_native.few_rows(self._packed, whole_OI, self._scale_O, self.bias_O)
        self._many = len(layers) > 1
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O] of all layers."""
        last = self._last  # read once: another thread may put its own there, or forget
        if last is not None and last[0] is x:
            return last[1]
        x_RI = x.reshape(-1, x.shape[-1])
        few, rows = self._few, x_RI.shape[0]
        if few is not None and 0 < rows <= few.most and int8_native.takes(x):
            out_RO = few(x_RI.contiguous())
        else:
            out_RO = self._of_many(x_RI)
        out = out_RO.view(*x.shape[:-1], out_RO.shape[1])
        if self._many:
            self._last = x, out
        return out

    def _of_many(self, x_RI: torch.Tensor) -> torch.Tensor:
        bytes_NI, scale_R1 = round_rows(x_RI)
        rows = scale_R1.shape[0]
        nothing: Any = (None, 1.0, 0, torch.float32, "none", [], "")
        out_NO = _multiply(
            bytes_NI, 1.0, _ZERO, self._packed, self._scale_O, self._zeros_O, *nothing
        )
        half = out_NO.shape[0] // 2
        high_RO, low_RO = out_NO[:rows], out_NO[half : half + rows]
        functions = int8_native.load()
        if not isinstance(functions, str) and int8_native.takes(x_RI):
            return functions.finish(high_RO, low_RO, scale_R1, self.bias_O, x_RI.dtype)
        out_RO = low_RO.add_(high_RO, alpha=256).mul_(scale_R1)
        if self.bias_O is not None:
            out_RO += self.bias_O
        return out_RO.to(x_RI.dtype)

    def forget(self) -> None:
        self._last = None


class Int8Linear(nn.Module):
    """In place of a linear layer on a CPU, which may go; in and out in the layer's dtype.

    Args:
        weights: of this layer and of those beside it; of the layer alone where there are none.
        first: of its outputs among theirs.
        last: no layer behind it reads the same input.
    """

    def __init__(
        self,
        layer: nn.Linear,
        weights: Int8Weights | None = None,
        first: int = 0,
        *,
        last: bool = True,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.biased = layer.bias is not None
        self._alone, self._last = weights is None, last
        self._outputs = slice(first, first + layer.out_features)
        with torch.inference_mode(False), torch.no_grad():
            self._weights = weights or Int8Weights([layer])

    @property
    def nbytes(self) -> int:
        return size_of(self.in_features, self.out_features, self.biased)

    @property
    def bias(self) -> torch.Tensor | None:
        """[O], float32."""
        bias_O = self._weights.bias_O
        return None if bias_O is None or not self.biased else bias_O[self._outputs]

    @property
    def row_norms_O(self) -> torch.Tensor:
        """How long each output's weights were before they were rounded."""
        return self._weights.norms_O[self._outputs]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O]."""
        out = self._weights(x)
        if self._alone:
            return out
        if self._last:  # it would live as long as the model's next step
            self._weights.forget()
        return out[..., self._outputs]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int8"


def size_of(inputs: int, outputs: int, biased: bool) -> int:
    """Bytes of a layer in this form: weights, scales, bias."""
    return inputs * outputs + 4 * outputs * (2 if biased else 1)


def side_by_side(layers: Sequence[nn.Linear]) -> list[Int8Linear]:
    """In place of layers that read the same tensor in this order."""
    if len(layers) == 1:
        return [Int8Linear(layers[0])]
    with torch.inference_mode(False), torch.no_grad():
        weights = Int8Weights(layers)
    firsts = itertools.accumulate((layer.out_features for layer in layers), initial=0)
    return [
        Int8Linear(layer, weights, first, last=layer is layers[-1])
        for layer, first in zip(layers, firsts, strict=False)
    ]
