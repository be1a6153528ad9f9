"""Which attention a model gets on the CPU platform, which has one name for it.

vLLM resolves `longctx.vllm.choice.CpuBackend` once for each kind of layer, while the model's
configuration is the current one. A model without chunks gets vLLM's own class: installing longctx
changes nothing for it.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "CpuBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vllm.config import get_current_vllm_config_or_none
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    from longctx.vllm.cpu import DualChunkCpuBackend
    from longctx.vllm.settings import scheme_of

    config = get_current_vllm_config_or_none()
    if config is None or scheme_of(config) is None:
        return CPUAttentionBackend
    return DualChunkCpuBackend
