"""What a layer of vLLM may ask of its attention. Imports nothing of vLLM."""

from __future__ import annotations

from typing import Any


def check_layer(key: dict[str, Any] | None, **features: Any) -> None:
    """Refuse a layer that asks for more than causal attention.

    Raises:
        ValueError: no key, so that its rotary has not folded positions; or a feature with a value.
    """
    if not key:
        raise ValueError(
            "longctx: a layer was built without dual_chunk_attention_config, so its rotary does "
            "not fold positions: Dual Chunk Attention cannot run in this class"
        )
    for name, value in features.items():
        if value is not None and value != 0:
            raise ValueError(f"longctx: Dual Chunk Attention has no {name}, and got {value!r}")
