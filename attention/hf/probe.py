"""Ask an attention layer what it does to queries and keys, with real numbers.

Re-rotating a query is right only where rotation is the last thing that happened to it. A layer
without rotary (NoPE), with a norm after it, or with a mask of its own looks like any other from
outside; run once with no rotation and once with one, it shows.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from longctx.attention.rope import rotate, rotation

_PROBE_NAME = "longctx_probe"
_TOKENS = 3


class _Seen(Exception):
    """Carries what the attention function was called with out of the layer."""

    def __init__(self, query: torch.Tensor, key: torch.Tensor, mask: Any, more: dict[str, Any]):
        super().__init__()
        self.query, self.key, self.mask, self.more = query, key, mask, more


def _capture(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
    raise _Seen(query, key, mask, more)


def probe_layer(attention: Any, hidden_size: int, head_dim: int) -> str | None:
    """Why a layer's queries cannot be rotated on, in one clause; None where they can."""
    parameter = next((p for p in attention.parameters() if p.device.type != "meta"), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = next(attention.parameters()).dtype
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, _TOKENS, hidden_size, generator=generator).to(device, dtype)
    inv_freq_F = torch.rand(head_dim // 2, generator=generator)
    table_2LF = rotation(torch.arange(1, _TOKENS + 1), inv_freq_F)
    cos_1LD, sin_1LD = (x.repeat(1, 2)[None].to(device, dtype) for x in table_2LF)
    still = _ask(attention, hidden, torch.ones_like(cos_1LD), torch.zeros_like(sin_1LD))
    turned = _ask(attention, hidden, cos_1LD, sin_1LD)
    if still is None or turned is None:
        return "it does not call the attention interface like the supported ones"
    if turned.mask is not None:
        return "it makes an attention mask of its own"
    for name in ("softcap", "s_aux", "position_bias"):
        if turned.more.get(name) is not None:
            return f"its attention uses {name}"
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 5e-2
    table_2LF = table_2LF.to(device)
    for before, after in ((still.query, turned.query), (still.key, turned.key)):
        if before.ndim != 4 or before.shape[2:] != (_TOKENS, head_dim):
            return f"its heads have shape {tuple(before.shape)}"
        expected = rotate(before, table_2LF)
        scale = before.float().abs().max().clamp_min(1e-6)
        if float((expected.float() - after.float()).abs().max() / scale) > tolerance:
            return "rotation is not the last thing it does to queries and keys"
    return None


def _ask(
    attention: nn.Module, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> _Seen | None:
    AttentionInterface.register(_PROBE_NAME, _capture)
    config: Any = attention.config
    own = copy.copy(config)
    own._attn_implementation = _PROBE_NAME
    attention.config = own
    try:
        with torch.no_grad():
            attention(
                hidden_states=hidden,
                position_embeddings=(cos, sin),
                attention_mask=None,
            )
    except _Seen as seen:
        return seen
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
        return None
    finally:
        attention.config = config
    return None
