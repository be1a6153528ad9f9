"""Any kernel over keys and values in rows of bytes (int8_keys.py). Shape legend in base.py."""

from __future__ import annotations

from typing import Any

import torch

from longctx.attention.int8_keys import widen
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.merge import merge

# So many keys are widened at a time: what that takes does not grow with the context.
PIECE = 2048


class InInt8:
    """A kernel whose keys are rows: where it does not read them itself they are widened to the
    query's dtype. Keys before the queries' own are taken in pieces then, and merged.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._kernel = kernel
        self._reads: Any = getattr(kernel, "reads", None)
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
        if self._reads is not None and self._reads(q_BHLD, k_BKMD, v_BKMD):
            return self._kernel(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=scale)
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
