"""Rows as draw.c reads them, and the call: the tokens of a step in one pass over its logits.

Knows no request: settings come as numbers, tables as addresses. Where there is no library numpy
draws the same tokens (`longctx/engine/sampling.py`).
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from longctx.attention.native import library

SOURCE = Path(__file__).with_name("draw.c")
# As the first and the second name of draw.c's enum.
NOT_FINITE, LEFT = -1, -2
# The struct `Row` of draw.c.
_ROW = struct.Struct("=4Q2q5d")
# Fewer logits than this a row are read faster than a second thread wakes.
_ALONE = 1 << 14


@dataclass(frozen=True)
class Drawer(library.Machine):
    """Attributes:
    widest: candidates of a row that it looks for at most.
    """

    functions: ctypes.CDLL
    widest: int

    def draw(self, rows: Sequence[bytes], vocabulary: int) -> list[int]:
        """Of each row its token, NOT_FINITE, or LEFT where its candidates are too many.

        Args:
            rows: of `packed`.
            vocabulary: logits of each.
        """
        count = len(rows)
        tokens = array("q", bytes(8 * count))
        threads = min(torch.get_num_threads(), count) if vocabulary >= _ALONE else 1
        self.functions.longctx_draw(
            *(b"".join(rows), count, vocabulary, tokens.buffer_info()[0]),
            *(self.level, self.parallel, threads),
        )
        return tokens.tolist()


def packed(
    logits: int,
    seen: int,
    cost: int,
    start: int,
    position: int,
    settings: tuple[int, float, float, float, float, float],
) -> bytes:
    """One row.

    Args:
        logits: address of its first, float32, one beside the other.
        seen: address of one bool a token; 0: none is penalised for it.
        cost: address of one float32 a token; 0: nothing is subtracted.
        start: of `noise.start_of`.
        settings: candidates to ask for at first, 0 for the likeliest token; repetition penalty less
            1; temperature, top_k, top_p and min_p of `candidates.RowFilter`.
    """
    return _ROW.pack(logits, seen, cost, start, position, *settings)


@cache
def load() -> Drawer | str:
    """The library, or why there is none, as a clause."""
    functions = library.opened(SOURCE)
    if isinstance(functions, str):
        return functions
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    functions.longctx_draw.argtypes = (
        *(ctypes.c_char_p, number, number, pointer),
        *(ctypes.c_int, pointer, ctypes.c_int),
    )
    functions.longctx_draw.restype = None
    level, parallel = library.level_of(functions), library.gomp_parallel()
    return Drawer(level, parallel, functions, functions.longctx_widest())
