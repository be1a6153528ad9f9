"""Prompts whose keys differ are kept apart in vLLM's prefix cache, by its own `cache_salt`.

The one function of vLLM that is wrapped: where the engine core makes its request, before any block
is hashed. So it holds for every front end and scheduler, and for stores of blocks outside vLLM. The
salt is hashed into a prompt's first block, and through it into all.
"""

from __future__ import annotations

import functools
from typing import Any

from vllm.v1.engine.core import EngineCore

from longctx.vllm.settings import salt_of, scheme_of


def install() -> None:
    """Wrap `EngineCore.preprocess_add_request` (idempotent)."""
    made = EngineCore.preprocess_add_request
    if made.__module__ == __name__:
        return

    @functools.wraps(made, assigned=("__name__", "__qualname__", "__doc__"))
    def preprocess_add_request(self: Any, core_request: Any) -> Any:
        scheme = scheme_of(self.vllm_config)
        if scheme is not None:
            if core_request.resumable and scheme.uses_request_length:
                raise ValueError(
                    f"{scheme.method} takes its temperature from the whole prompt's length, and a "
                    "prompt that is still to come has none: send it whole, or use the method dca"
                )
            tokens = core_request.prompt_token_ids
            length = len(core_request.prompt_embeds if tokens is None else tokens)
            core_request.cache_salt = salt_of(scheme, core_request.cache_salt, length)
        return made(self, core_request)

    EngineCore.preprocess_add_request = preprocess_add_request
