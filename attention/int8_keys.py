"""Keys and values at a byte a number: rows of bytes, each with its own scale behind it.

    row = [n_0 ... n_(D-1), s]      x_d = s n_d,   s = max|x| / 127 as a bfloat16 of two bytes

So a row is a key like any other, of D + ROOM bytes: it is written, shared, copied, stored and
mapped as those of floats are. It depends on its token alone, not on what it was written with.
decode.c and prefill.c read rows as they lie, and take x_d in float32; other kernels get them
widened to the queries' dtype (kernels/in_int8.py). round.c writes them in inference mode, with the
same bits.

Shape legend: K key/value heads, L tokens, D head dimension, R = D + ROOM.
"""

from __future__ import annotations

import torch

from longctx.attention.native import rounding

ROOM = torch.bfloat16.itemsize  # bytes of a scale
LARGEST = 127
# Of a scale: rows of zeros stay zeros.
_TINY = 1e-30
# The nearest bfloat16 of more by this is no smaller than the number.
_UP = 1 + 2.0**-8


def row_bytes(dim: int) -> int:
    """Of a key of `dim` numbers."""
    return dim + ROOM


def round_into(rows_KLR: torch.Tensor, x_KLD: torch.Tensor) -> None:
    """Write floats as rows. One with a NaN or an infinity has such a scale, and reads as NaNs."""
    if rows_KLR.shape == (*x_KLD.shape[:-1], row_bytes(x_KLD.shape[-1])) and rounding.takes(
        rows_KLR, x_KLD
    ):
        rounding.write(rows_KLR, x_KLD)
        return
    x_KLD = x_KLD.float()
    scale_KL1 = torch.linalg.vector_norm(x_KLD, torch.inf, -1, keepdim=True)
    scale_KL1 = scale_KL1.clamp_min_(_TINY).mul_(_UP / LARGEST).to(torch.bfloat16)
    dim = x_KLD.shape[-1]
    rows_KLR[..., :dim] = (x_KLD / scale_KL1).round_()
    rows_KLR[..., dim:] = scale_KL1.view(torch.int8)


def widen(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[..., R] of int8 to [..., D] of `dtype`, contiguous; products are taken in float32."""
    dim = rows.shape[-1] - ROOM
    wide = rows[..., :dim].float()
    scale = rows[..., dim:].view(torch.bfloat16)
    return wide.mul_(scale.float()).to(dtype)


def put(into_KLD: torch.Tensor, x_KLD: torch.Tensor) -> None:
    """Write tokens to where they are kept: rounded, where floats come and rows are kept."""
    if into_KLD.dtype == torch.int8 and x_KLD.dtype != torch.int8:
        round_into(into_KLD, x_KLD)
    else:
        into_KLD[:] = x_KLD
