"""Keys and values at a byte a number: rows of bytes, each with its own scale behind it.

    row = [n_0 ... n_(D-1), s]      x_d = s n_d,   s = max|x| / 127 as a bfloat16 of two bytes

So a row is a key like any other, of D + ROOM bytes: it is written, shared, copied, stored and
mapped as those of floats are. It depends on its token alone, not on what it was written with.
decode.c reads rows as they lie; other kernels get them widened, a piece at a time (`InInt8`).

Shape legend: B batch, K key/value heads, H query heads, L tokens or queries, M key slots, D head
dimension, R = D + ROOM.
"""

from __future__ import annotations

from typing import Any

import torch

from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.merge import merge

ROOM = torch.bfloat16.itemsize  # bytes of a scale
LARGEST = 127
# So many keys are widened at a time: what that takes does not grow with the context.
PIECE = 2048
# Of a scale: rows of zeros stay zeros.
_TINY = 1e-30
# The nearest bfloat16 of more by this is no smaller than the number.
_UP = 1 + 2.0**-8


def row_bytes(dim: int) -> int:
    """Of a key of `dim` numbers."""
    return dim + ROOM


def round_into(rows_KLR: torch.Tensor, x_KLD: torch.Tensor) -> None:
    """Write floats as rows. One with a NaN or an infinity has such a scale, and reads as NaNs."""
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


class InInt8:
    """A kernel whose keys are rows: what it does not read itself is widened to the query's dtype.

    Keys before the queries' own are taken in pieces, and merged.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._kernel = kernel
        # One that decodes reads rows itself.
        self.decodes: Any = getattr(kernel, "decodes", None)
        self.decode: Any = getattr(kernel, "decode", None)

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"reads keys in int8 on a CPU alone, not on {device.type}"
        return self._kernel.unavailable(device, dtype)

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        keys, own = k_BKMD.shape[2], q_BHLD.shape[2] if causal else 0
        found, at = None, 0
        while at < keys or found is None:
            # The queries' own keys stay together: causal attention is aligned to the last one.
            stop = keys if keys - at <= max(PIECE, own) else min(at + PIECE, keys - own)
            pair = (widen(x[:, :, at:stop], q_BHLD.dtype) for x in (k_BKMD, v_BKMD))
            part = self._kernel(q_BHLD, *pair, causal=causal and stop == keys, scale=scale)
            found = part if found is None else merge((found, part))
            at = stop
        return found
