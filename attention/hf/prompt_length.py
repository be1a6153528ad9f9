"""How long the prompts are that are being served: the channel of YaRN's temperature.

generate() knows its prompt, a forward on a cache does not. The lengths travel in a context variable
(so concurrent requests in threads or tasks do not see each other) from the wrapped generate(), or
from `handle.request(length)`, to the decoder's pre-hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from longctx.attention.config import Scheme

# (handle, prompt lengths per row), innermost last
_requests: ContextVar[tuple[tuple[object, tuple[int, ...]], ...]] = ContextVar(
    "longctx_requests", default=()
)


@contextmanager
def serving(handle: object, lengths: tuple[int, ...]) -> Iterator[None]:
    """Forwards of `handle`'s model inside belong to prompts of these lengths, in tokens."""
    token = _requests.set((*_requests.get(), (handle, lengths)))
    try:
        yield
    finally:
        _requests.reset(token)


def lengths_for(handle: object) -> tuple[int, ...] | None:
    """Prompt lengths of the innermost request of this handle."""
    for served, lengths in reversed(_requests.get()):
        if served is handle:
            return lengths
    return None


def outer_lengths() -> tuple[int, ...] | None:
    """Of the request around: an assistant model works on the prompt of the model it assists."""
    requests = _requests.get()
    return requests[0][1] if requests else None


def logit_scales(
    scheme: Scheme, rows: tuple[int, ...], past: int, given: tuple[int, ...] | None
) -> tuple[float, ...]:
    """m^2 per batch row. Fixed by the prompt, never by how far decoding has come.

    Args:
        rows: real tokens per row up to and with the block.
        past: tokens in the cache.
        given: lengths of the prompts that are served, in tokens; None takes the rows' own.

    Raises:
        RuntimeError: a prompt's length is needed and not known, or rows that belong to no prompt.
    """
    if not scheme.uses_request_length:
        return (scheme.logit_scale(0),) * len(rows)
    if given is None:
        if past:
            raise RuntimeError(
                f"method {scheme.method!r} on a non-empty cache needs the prompt's length for its "
                "temperature: pass request_length= to extend(), or run the forward inside "
                "`with handle.request(length):`"
            )
        given = rows
    if len(rows) % len(given):
        raise RuntimeError(f"{len(rows)} rows do not belong to {len(given)} prompts")
    beams = len(rows) // len(given)  # a prompt's beams are neighbours and share its length
    scales = (scheme.logit_scale(n) for n in given)
    return tuple(scale for scale in scales for _ in range(beams))


def prompt_lengths(
    defaults: Any, inputs: Any, generation_config: Any, kwargs: dict[str, Any]
) -> tuple[int, ...] | None:
    """Real tokens of each prompt that generate() was given.

    By the attention mask; without one, as generate() itself infers it: where the pad id occurs and
    is no eos id, it is padding. None where generate() will refuse the arguments.

    Args:
        defaults: the model's generation_config, for what the call leaves open.
    """
    mask = kwargs.get("attention_mask")
    if mask is not None:
        return tuple((mask != 0).sum(-1).tolist()) if mask.ndim == 2 else None
    embeds = kwargs.get("inputs_embeds")
    if embeds is not None:
        return (embeds.shape[1],) * embeds.shape[0]
    ids = inputs if inputs is not None else kwargs.get("input_ids")
    if ids is None:
        return (1,)  # generation from the bos token alone

    def setting(name: str) -> list[int]:
        for value in (kwargs.get(name), getattr(generation_config, name, None)):
            if value is not None:
                break
        else:
            value = getattr(defaults, name, None)
        return [] if value is None else torch.as_tensor(value).flatten().tolist()

    pad, eos = setting("pad_token_id"), setting("eos_token_id")
    if not pad or set(pad) & set(eos):
        return (ids.shape[1],) * ids.shape[0]
    return tuple((ids != pad[0]).sum(-1).tolist())
