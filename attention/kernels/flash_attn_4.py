"""FlashAttention-4, the package flash-attn-4 (module `flash_attn.cute`): Hopper and Blackwell.

Called by its documented function. Facts relied on (its interface.py): tensors are (B, L, H, D) in
float16 or bfloat16, the head dimension in eights, at most 256; causal is aligned bottom-right;
grouped queries are native; lse is (B, H, L) float32, natural log, and has no gradient. A call
without keys is answered before the package.

It has no test without such a GPU, so `auto` never picks it: it runs where it is asked for. The
package is imported at the first question, not at import. Shape legend in base.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import torch
from torch.nn.functional import pad

from longctx.attention.kernels.base import Partial, broken, check_shapes, empty_partial
from longctx.attention.kernels.torch_cuda import flash_ready, no_flash

MOST_DIM = 256
_MAJORS = (9, 10, 11)  # compute capabilities

_Attend = Callable[..., tuple[torch.Tensor, ...]]


class FlashAttn4Kernel:
    """Flash attention by flash-attn-4, for float16 and bfloat16.

    Args:
        devices: device types to accept. The package is for CUDA; a test that gives it a CPU
            implementation says so here.
    """

    name = "flash_attn_4"

    def __init__(self, devices: tuple[str, ...] = ("cuda",)) -> None:
        self._devices = devices

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type not in self._devices:
            return f"runs on {' or '.join(self._devices)}, not on {device.type}"
        reason = no_flash(device, dtype)
        if reason is not None:
            return reason
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            if major not in _MAJORS:
                return f"is for Hopper and Blackwell, {device} has {major}.{minor}"
        attend = _load()
        return attend if isinstance(attend, str) else None

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        """As the interface says.

        Raises:
            ValueError: besides, heads wider than the package takes.
            RuntimeError: the package cannot be imported; the message says why.
        """
        check_shapes(q_BHLD, k_BKMD, v_BKMD, causal)
        dim = q_BHLD.shape[3]
        if dim > MOST_DIM:
            raise ValueError(f"kernel 'flash_attn_4' takes heads up to {MOST_DIM} wide, not {dim}")
        if q_BHLD.numel() == 0 or k_BKMD.shape[2] == 0:
            return empty_partial(q_BHLD)
        attend = _load()
        if isinstance(attend, str):
            raise RuntimeError(f"kernel 'flash_attn_4' {attend}")
        # Zeros add nothing to q.k, and `scale` is explicit.
        q_BLHD, k_BMKD, v_BMKD = (
            (pad(x, (0, -dim % 8)) if dim % 8 else flash_ready(x)).transpose(1, 2)
            for x in (q_BHLD, k_BKMD, v_BKMD)
        )
        out_BLHD, lse_BHL, *_ = attend(
            q_BLHD, k_BMKD, v_BMKD, softmax_scale=scale, causal=causal, return_lse=True
        )
        return Partial(out_BLHD.transpose(1, 2)[..., :dim], lse_BHL)


@cache
def _load() -> _Attend | str:
    """The function to call, or a clause that says why there is none."""
    try:
        attend: _Attend = importlib.import_module("flash_attn.cute").flash_attn_func
    except ModuleNotFoundError as error:
        if error.name in ("flash_attn", "flash_attn.cute"):
            return "is not installed"
        return broken(error)
    except Exception as error:
        return broken(error)
    return attend
