"""What int8.c does for layers of bytes: few rows whole, and of many their rounding and scaling.

A step that decodes is bound by the memory that weights come from, and oneDNN's product of two rows
of bytes reads it at a fifth of its speed. The library multiplies oneDNN's own packed weights where
they lie, in the two layouts that it knows; another layout, or none to see, is left to oneDNN, with
the same bits.

Shape legend as in int8.py.
"""

from __future__ import annotations

import ctypes
from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from longctx.attention import cpu
from longctx.attention.native import library

SOURCE = Path(__file__).with_name("int8.c")
TYPES = {torch.float32: 0, torch.bfloat16: 1}
# As the names of int8.c's enum.
BLOCKED, BY_INPUT = 0, 1
_BLOCK = 64  # outputs and inputs of a block
# Of a shape so much is packed to see its layout: whole blocks of it, and the rest behind them.
_SEEN = 16 * _BLOCK
# Below so many bytes of weights, or numbers of rows, a second thread costs more than it saves.
_ALONE = 1 << 18
_AT_A_TIME = 1 << 16  # weights that are summed up at a time


@dataclass(frozen=True)
class Functions(library.Machine):
    library: ctypes.CDLL

    def __str__(self) -> str:
        return super().__str__().replace("AVX-512", "AVX-512 with VNNI")

    def round(
        self, x_RI: torch.Tensor, high_RI: torch.Tensor, low_RI: torch.Tensor, scale_R: torch.Tensor
    ) -> None:
        """Rows as bytes and scales, all contiguous."""
        rows, inputs = x_RI.shape
        self.library.longctx_round(
            *(x_RI.data_ptr(), TYPES[x_RI.dtype], rows, inputs),
            *(high_RI.data_ptr(), low_RI.data_ptr(), scale_R.data_ptr()),
            *self._how(x_RI.numel()),
        )

    def finish(
        self,
        high_RO: torch.Tensor,
        low_RO: torch.Tensor,
        scale_R: torch.Tensor,
        bias_O: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """[R, O] from the products of both halves, which carry their outputs' scales already and
        are written over."""
        rows, outputs = high_RO.shape
        out_RO = low_RO if dtype == torch.float32 else torch.empty(rows, outputs, dtype=dtype)
        self.library.longctx_finish(
            *(high_RO.data_ptr(), low_RO.data_ptr(), scale_R.data_ptr()),
            None if bias_O is None else bias_O.data_ptr(),
            None if out_RO is low_RO else out_RO.data_ptr(),
            *(rows, outputs, *self._how(out_RO.numel())),
        )
        return out_RO

    def _how(self, numbers: int) -> tuple[int, int | None, int]:
        return self.level, self.parallel, 1 if numbers < _ALONE else torch.get_num_threads()


class FewRows:
    """A layer's packed weights as int8.c reads them.

    Args:
        address: where they lie; whoever asks keeps them there.
        whole_OI: the weights before they were packed.

    Attributes:
        most: rows that it takes at most.
    """

    def __init__(
        self,
        functions: Functions,
        layout: int,
        address: int,
        whole_OI: torch.Tensor,
        scale_O: torch.Tensor,
        bias_O: torch.Tensor | None,
    ) -> None:
        outputs, inputs = whole_OI.shape
        self.most = min(_most(), functions.library.longctx_most_rows(layout, functions.level))
        self._functions, self._outputs = functions, outputs
        few = max(1, _AT_A_TIME // inputs)  # their sum takes eight bytes for each
        zero_O = torch.cat([128 * part.sum(-1) for part in whole_OI.split(few)]).to(torch.int32)
        self._held = scale_O, zero_O, bias_O  # what the addresses point into
        bias = 0 if bias_O is None else bias_O.data_ptr()
        self._layer = array(
            "q",
            [inputs, outputs, layout, address, scale_O.data_ptr(), zero_O.data_ptr(), bias],
        )
        self._address = self._layer.buffer_info()[0]
        self._alone = inputs * outputs < _ALONE

    def __call__(self, x_RI: torch.Tensor) -> torch.Tensor:
        """[R, I], contiguous, to [R, O] in the same dtype.

        Raises:
            MemoryError: there is none for the rows as bytes.
        """
        rows, functions = x_RI.shape[0], self._functions
        out_RO = torch.empty(rows, self._outputs, dtype=x_RI.dtype)
        threads = 1 if self._alone else torch.get_num_threads()
        failed = functions.library.longctx_multiply(
            *(self._address, x_RI.data_ptr(), out_RO.data_ptr(), TYPES[x_RI.dtype], rows),
            *(functions.level, functions.parallel, threads),
        )
        if failed:
            raise MemoryError(f"no memory for {rows} rows of {x_RI.shape[1]} bytes")
        return out_RO


def able() -> cpu.Ability:
    """Whether few rows are multiplied here, and how, or why not."""
    functions = load()
    if isinstance(functions, str):
        return cpu.Ability(False, functions)
    if not cpu.multiplies_int8():
        return cpu.Ability(False, cpu.multiplies_int8().reason)
    layout = layout_of(_SEEN, _SEEN)
    if layout is None:
        return cpu.Ability(False, "oneDNN packs weights in a way that is not known")
    if not functions.library.longctx_most_rows(layout, functions.level):
        return cpu.Ability(False, f"not in {functions} where oneDNN computes in AVX-512")
    return cpu.Ability(True, str(functions))


def takes(x: torch.Tensor) -> bool:
    """Whether the library reads such activations. It knows no gradients and no graphs."""
    if x.dtype not in TYPES or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch.is_grad_enabled() and x.requires_grad)


def few_rows(
    packed: torch.Tensor,
    whole_OI: torch.Tensor,
    scale_O: torch.Tensor,
    bias_O: torch.Tensor | None,
) -> FewRows | None:
    """A layer as the library multiplies it; None where it does not.

    Args:
        packed: `whole_OI` as oneDNN keeps it.
    """
    functions = load()
    if isinstance(functions, str):
        return None
    layout = layout_of(*whole_OI.shape)
    if layout is None or not functions.library.longctx_most_rows(layout, functions.level):
        return None
    address = torch.ops.mkldnn.data_ptr(packed)
    if not _lies_so(layout, whole_OI, address, torch.ops.mkldnn._nbytes(packed)):
        return None
    return FewRows(functions, layout, address, whole_OI, scale_O, bias_O)


def _most() -> int:
    """Rows that are few: with more, oneDNN's product is as fast."""
    return 8 if cpu.multiplies_tiles() else 64


@cache
def layout_of(outputs: int, inputs: int) -> int | None:
    """How oneDNN packs weights of this shape: BLOCKED or BY_INPUT; None: in a way of which int8.c
    does not know. The library itself is asked, with weights of the shape's ends."""
    o, i = (size if size <= _SEEN else _SEEN + size % _BLOCK for size in (outputs, inputs))
    generator = torch.Generator().manual_seed(0)
    whole_OI = torch.randint(-127, 128, (o, i), dtype=torch.int8, generator=generator)
    try:
        with torch.inference_mode():
            packed = torch.ops.onednn.qlinear_prepack.default(whole_OI, None)
            size, address = torch.ops.mkldnn._nbytes(packed), torch.ops.mkldnn.data_ptr(packed)
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    for layout in (BLOCKED, BY_INPUT):
        expected = packed_as(layout, whole_OI)
        if size >= len(expected) and ctypes.string_at(address, len(expected)) == expected:
            return layout
    return None


def packed_as(layout: int, whole_OI: torch.Tensor) -> bytes:
    """Weights in a layout of int8.c."""
    if layout == BY_INPUT:
        return whole_OI.T.contiguous().numpy().tobytes()
    outputs, inputs = whole_OI.shape
    filled = torch.zeros(_up(outputs), _up(inputs), dtype=torch.int8)
    filled[:outputs, :inputs] = whole_OI
    blocks = filled.view(_up(outputs) // _BLOCK, _BLOCK, _up(inputs) // 4, 4)
    return blocks.permute(0, 2, 1, 3).contiguous().numpy().tobytes()


def _lies_so(layout: int, whole_OI: torch.Tensor, address: int, size: int) -> bool:
    """Whether the first and the last of a layer's own weights are where the layout has them."""
    outputs, inputs = whole_OI.shape
    if layout == BY_INPUT:
        parts = {0: whole_OI[:, :1], (inputs - 1) * outputs: whole_OI[:, -1:]}
    else:
        last = (outputs - 1) // _BLOCK * _BLOCK
        parts = {0: whole_OI[:_BLOCK], last * _up(inputs): whole_OI[last:]}
    for offset, part_OI in parts.items():
        expected = packed_as(layout, part_OI)
        if size < offset + len(expected):
            return False
        if ctypes.string_at(address + offset, len(expected)) != expected:
            return False
    return True


def _up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


@cache
def load() -> Functions | str:
    """The library, or why there is none, as a clause."""
    functions = library.opened(SOURCE)
    if isinstance(functions, str):
        return functions
    number, pointer, how = ctypes.c_int64, ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    functions.longctx_most_rows.argtypes = (number, ctypes.c_int)
    functions.longctx_most_rows.restype = number
    functions.longctx_round.argtypes = (
        *(pointer, number, number, number, pointer, pointer, pointer),
        *(*how, ctypes.c_int),
    )
    functions.longctx_finish.argtypes = (
        *(pointer, pointer, pointer, pointer, pointer, number, number),
        *(*how, ctypes.c_int),
    )
    functions.longctx_multiply.argtypes = (
        *(pointer, pointer, pointer, number, number),
        *(*how, ctypes.c_int),
    )
    functions.longctx_round.restype = functions.longctx_finish.restype = None
    return Functions(library.level_of(functions), library.gomp_parallel(), functions)
