"""The reference kernel: eager attention in float64, the oracle of every kernel test.

Slow and O(L M) in memory on purpose: each line is the definition.
Shape legend in base.py.
"""

from __future__ import annotations

import torch

from longctx.attention.kernels.base import Partial, check_shapes


class ReferenceKernel:
    """Softmax attention as the textbook writes it, in float64 on any device."""

    name = "reference"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type == "mps":
            return "the device has no float64"
        return None

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        check_shapes(q_BHLD, k_BKMD, v_BKMD, causal)
        group = q_BHLD.shape[1] // k_BKMD.shape[1]
        k_BHMD = k_BKMD.double().repeat_interleave(group, dim=1)
        v_BHMD = v_BKMD.double().repeat_interleave(group, dim=1)
        logits_BHLM = q_BHLD.double() @ k_BHMD.mT * scale
        if causal:
            rows, cols = logits_BHLM.shape[-2:]
            future_LM = torch.ones(rows, cols, dtype=torch.bool, device=q_BHLD.device).triu(
                cols - rows + 1
            )
            logits_BHLM.masked_fill_(future_LM, -torch.inf)
        lse_BHL = torch.logsumexp(logits_BHLM, dim=-1)
        weights_BHLM = torch.exp(logits_BHLM - lse_BHL.unsqueeze(-1)).nan_to_num_(0.0)
        lse_dtype = torch.float64 if q_BHLD.dtype == torch.float64 else torch.float32
        return Partial((weights_BHLM @ v_BHMD).to(q_BHLD.dtype), lse_BHL.to(lse_dtype))
