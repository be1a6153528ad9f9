"""What a key/value cache was filled with, remembered on the cache itself.

Keys depend on the scheme's positions, and in deeper layers on the temperature: a cache that another
scheme or temperature wrote looks the same and gives wrong answers. So every cache that an extended
model fills carries a tag, and is refused where it does not fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from longctx.attention.config import Scheme

_TAG = "_longctx_cache"
# transformers 5.24 renamed argument and output field, and takes the old name for a while.
_NAMES = ("cache", "past_key_values")


class Tag(NamedTuple):
    """The scheme and the temperature, m^2 per batch row, that wrote a cache."""

    scheme: Scheme
    logit_scales: tuple[float, ...]


def cache_argument(model: Any) -> str:
    """What the forward of a model or layer calls its cache in this release of transformers.

    Raises:
        ValueError: neither name is among its parameters, so its cache would go unseen.
    """
    parameters = inspect.signature(model.forward).parameters
    for name in _NAMES:
        if name in parameters:
            return name
    name = getattr(model, "__name__", type(model).__name__)
    raise ValueError(
        f"{name} cannot be extended: its forward takes neither of "
        f"{', '.join(_NAMES)}, so what it has cached could not be counted"
    )


def given_cache(kwargs: Mapping[str, Any]) -> Any:
    """The cache among a forward's keywords or in its output, under either name."""
    return next((kwargs[name] for name in _NAMES if kwargs.get(name) is not None), None)


def tag_cache(output: Any, given: Any, tag: Tag) -> None:
    """Mark the cache of a finished forward: what was given, or what came out."""
    cache = given
    if cache is None and isinstance(output, Mapping):
        # As a plain mapping: asked for the old name, the output itself warns of it.
        cache = given_cache(dict(output.items()))
    if cache is None and isinstance(output, tuple):
        cache = next((item for item in output if hasattr(item, "get_seq_length")), None)
    if cache is not None:
        setattr(cache, _TAG, tag)


def check_cache(cache: Any, past: int, tag: Tag) -> None:
    """Refuse a cache whose `past` tokens another scheme or temperature wrote.

    Raises:
        ValueError: its tag differs, or it has none and is longer than a chunk (within the first
            chunk keys are what the unextended model writes).
    """
    if not past:
        return
    made: Tag | None = getattr(cache, _TAG, None)
    if made is None:
        chunk_len = tag.scheme.chunk_len
        if chunk_len is not None and past > chunk_len:
            raise ValueError(
                f"the cache holds {past} tokens that were not written under {tag.scheme.method!r}, "
                f"so their keys are rotated otherwise (chunk_len is {chunk_len}): start from an "
                "empty cache"
            )
        return
    same_rows = len(made.logit_scales) == len(tag.logit_scales)
    same_scales = (
        made.logit_scales == tag.logit_scales
        if same_rows  # else beams or samples multiplied the rows
        else set(made.logit_scales) == set(tag.logit_scales)
    )
    if made.scheme != tag.scheme or not same_scales:
        raise ValueError(
            f"the cache was filled with {_show(made)}, this forward needs {_show(tag)}: start from "
            "an empty cache, or fix request_length"
        )


def _show(tag: Tag) -> str:
    scales = ", ".join(f"{scale:.6f}" for scale in sorted(set(tag.logit_scales)))
    return f"{tag.scheme} at logits x {scales}"
