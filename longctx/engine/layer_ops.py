"""The functions of layer.c on tensors: RMSNorm and rotary embedding.

Knows no modules: what may be computed here, and where, is for fused.py to say.

Shape legend: W width of a row, T tokens, H query heads, K key/value heads, D head dimension.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from longctx.attention.native import library

SOURCE = Path(__file__).with_name("layer.c")
# As the first enum of layer.c has them: what it computes in.
TYPES = {torch.float32: 0, torch.bfloat16: 1}
# Fewer numbers are computed faster than a second thread wakes.
_ALONE = 1 << 15


@dataclass(frozen=True)
class LayerOps(library.Machine):
    """All tensors of a call are on the CPU, of one dtype of TYPES; nothing is checked here."""

    functions: ctypes.CDLL

    def rms_norm(self, x: torch.Tensor, weight_W: torch.Tensor, epsilon: float) -> torch.Tensor:
        """[..., W], each row divided by the root of its mean square, times the weight.

        In float32; what was divided is rounded to x's dtype before it meets the weight.
        """
        if not x.is_contiguous():
            x = x.contiguous()
        out, numbers, width = torch.empty_like(x), x.numel(), weight_W.shape[0]
        self.functions.longctx_rms_norm(
            *(x.data_ptr(), weight_W.data_ptr(), out.data_ptr(), numbers // width, width),
            *(epsilon, TYPES[x.dtype], self.level, self.parallel, _threads(numbers)),
        )
        return out

    def rotate(
        self,
        q_1TW: torch.Tensor,
        k_1TW: torch.Tensor,
        cos_1TD: torch.Tensor,
        sin_1TD: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [1, H, T, D] and keys [1, K, T, D], each token's heads side by side in memory.

        Args:
            q_1TW, k_1TW: a token's heads one behind the other; or [1, T, heads, D].
            cos_1TD, sin_1TD: both halves of D alike, as transformers makes them.
        """
        _, tokens, dim = cos_1TD.shape
        (q, q_stride), (k, k_stride) = _tokens(q_1TW), _tokens(k_1TW)
        numbers = q.numel()
        heads, kv_heads = numbers // (tokens * dim), k.numel() // (tokens * dim)
        q_1HTD, k_1KTD = (
            torch.empty_strided(
                (1, count, tokens, dim), (count * tokens * dim, dim, count * dim, 1), dtype=q.dtype
            )
            for count in (heads, kv_heads)
        )
        self.functions.longctx_rotate(
            *(q.data_ptr(), k.data_ptr(), cos_1TD.data_ptr(), sin_1TD.data_ptr()),
            *(q_1HTD.data_ptr(), k_1KTD.data_ptr(), tokens, dim, heads, kv_heads),
            *(q_stride, k_stride, TYPES[q.dtype]),
            *(self.level, self.parallel, _threads(numbers)),
        )
        return q_1HTD, k_1KTD


def _tokens(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Numbers from a token to the next; a copy only where a token's do not lie side by side."""
    if x.ndim == 3 and x.stride(2) == 1:
        return x, x.stride(1)
    x = x.contiguous()
    return x, x.stride(1)


def _threads(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= _ALONE else 1


@cache
def load() -> LayerOps | str:
    """The library, or why there is none, as a clause."""
    functions = library.opened(SOURCE)
    if isinstance(functions, str):
        return functions
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    how = (ctypes.c_int, ctypes.c_int, pointer, ctypes.c_int)
    functions.longctx_rms_norm.argtypes = (*3 * (pointer,), *2 * (number,), ctypes.c_float, *how)
    functions.longctx_rotate.argtypes = (*6 * (pointer,), *6 * (number,), *how)
    for each in ("rms_norm", "rotate"):
        getattr(functions, f"longctx_{each}").restype = None
    return LayerOps(library.level_of(functions), library.gomp_parallel(), functions)
