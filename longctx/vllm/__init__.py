"""Dual Chunk Attention inside vLLM: what its `vllm.general_plugins` entry point loads.

vLLM calls `register` in the API server, the engine core, every worker and the process that inspects
models. A module that fails to import would only be logged there, and the model would run without
chunks: nothing is imported at the top. What `register` raises ends the process.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Teach this process's vLLM the method; may be called again.

    Raises:
        RuntimeError: another version of vLLM than those that were tried, or one that has come to
            use a hook of ours itself.
    """
    from longctx.vllm.install import install

    install()
