"""Floats rounded to rows of bytes by round.c: int8_keys.py says what a row is.

Shape legend: K key/value heads, L tokens, D head dimension, R bytes of a row.
"""

from __future__ import annotations

import torch

from longctx.attention.native import library

# Below so many numbers a second thread costs more to wake than it saves.
_ALONE = 1 << 17


def takes(rows_KLR: torch.Tensor, x_KLD: torch.Tensor) -> bool:
    """Whether the library is there and reads and writes these tensors, whose sizes fit.

    In inference mode alone: it knows no gradients and no graphs.
    """
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return False
    if x_KLD.ndim != 3 or x_KLD.dtype not in library.TYPES or isinstance(library.load(), str):
        return False
    strides = x_KLD.stride(2), rows_KLR.stride(2)
    return strides == (1, 1) and x_KLD.device.type == rows_KLR.device.type == "cpu"


def write(rows_KLR: torch.Tensor, x_KLD: torch.Tensor) -> None:
    """Tensors that `takes` admits."""
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    heads, tokens, dim = x_KLD.shape
    threads = torch.get_num_threads() if heads * tokens * dim >= _ALONE else 1
    loaded.rounding.longctx_round(
        *(x_KLD.data_ptr(), rows_KLR.data_ptr(), heads, tokens, dim),
        *(library.TYPES[x_KLD.dtype], *x_KLD.stride()[:2], *rows_KLR.stride()[:2]),
        *(loaded.level, loaded.parallel, threads),
    )
