"""What a worker of vLLM tells of itself. Imports nothing of vLLM.

vLLM itself mixes it into its worker's class, with `worker_extension_cls`:
`longctx.vllm.worker.LayerReport`; `collective_rpc("longctx_layers")` asks it.
"""

from __future__ import annotations

from typing import Any


class LayerReport:
    """A worker's own attributes are there beside these."""

    vllm_config: Any

    def longctx_layers(self) -> list[str]:
        """The class that computes each layer's attention, with its module."""
        # Layers of experts lie there too; they have no attention.
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        impls = [type(each.impl) for each in layers if hasattr(each, "impl")]
        return [f"{impl.__module__}.{impl.__name__}" for impl in impls]
