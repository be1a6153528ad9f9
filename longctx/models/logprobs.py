"""Log-probabilities of a long text's tokens from a transformers model, in memory linear in length.

    ids       one block after another, on one cache         keys and values: linear
    logits    of one block, block x vocabulary               constant
    float64   of a few rows of them, for the log-softmax     constant

A rotary whose frequencies follow the length allows no cache: cached keys would keep the turn that
they had when the text was shorter. Then the decoder runs once over all ids, and only the output
layer goes block by block. Knows nothing of methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel

from longctx.attention.hf.cache import cache_argument
from longctx.engine import NonFiniteLogitsError
from longctx.errors import UserError

# 512 x 152K float32 logits are 300 MB; a whole text's would be tens of GB.
DEFAULT_BLOCK = 512
_ROWS = 64  # of logits in float64 at a time
_PROBE_TOKENS = 8
# Types of rotary whose keys are a function of token and position alone.
_FIXED_ROPES = ("default", "linear", "llama3", "yarn", "proportional")


def moving_rope(config: Any) -> str | None:
    """The rope_type that turns keys by the length of their text; None where none does."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    types = (part.get("rope_type", "default") for part in parts)
    return next((kind for kind in types if kind not in _FIXED_ROPES), None)


def token_logprobs(
    model: PreTrainedModel, ids_L: torch.Tensor, block: int = DEFAULT_BLOCK
) -> npt.NDArray[np.float64]:
    """Natural log-probability of each of ids_L[1:], given what stands before it."""
    inputs, targets = ids_L[:-1], ids_L[1:]  # the last token predicts one that is not there
    if not len(inputs):
        return np.zeros(0)
    logits_of = _whole(model, ids_L) if moving_rope(model.config) else _cached(model)
    found = []
    for block_ids, block_targets in zip(inputs.split(block), targets.split(block), strict=True):
        logits_LV = logits_of(block_ids)
        wanted = block_targets.to(logits_LV.device)
        for rows, ids in zip(logits_LV.split(_ROWS), wanted.split(_ROWS), strict=True):
            logprobs = torch.log_softmax(rows.double(), dim=-1)
            found.append(logprobs.gather(1, ids[:, None])[:, 0].cpu())
    logprobs_L = torch.cat(found).numpy()
    if np.isnan(logprobs_L).any():  # as every row with a NaN or an infinity has become
        raise NonFiniteLogitsError
    return logprobs_L


def peak_bytes(
    tokens: int, block: int, vocabulary: int, kv_bytes_per_token: int, bytes_per_value: int
) -> int:
    """What one pass holds beside weights and one block's activations."""
    logits = min(block, tokens) * vocabulary * bytes_per_value
    # The rows, and their log-softmax.
    doubles = 2 * min(_ROWS, block, tokens) * vocabulary * 8
    return tokens * kv_bytes_per_token + logits + doubles


def _cached(model: PreTrainedModel) -> Any:
    cache, name = DynamicCache(config=model.config), cache_argument(model)

    def logits_of(block_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(block_ids[None], **{name: cache}, use_cache=True).logits[0]
        return logits

    return logits_of


def _whole(model: PreTrainedModel, ids_L: torch.Tensor) -> Any:
    base, head = model.base_model, model.get_output_embeddings()
    _check_output_layer(model, ids_L[:_PROBE_TOKENS])
    # A rotary of type `dynamic` keeps the frequencies of the longest text so far; a short one
    # puts it back, and the probe above was one.
    states_LD = base(ids_L[None], use_cache=False).last_hidden_state[0]
    position = 0

    def logits_of(block_ids: torch.Tensor) -> torch.Tensor:
        nonlocal position
        states = states_LD[position : position + len(block_ids)]
        position += len(block_ids)
        logits: torch.Tensor = head(states)
        return logits

    return logits_of


def _check_output_layer(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Some models scale or cap what their output layer gives; for them the two calls differ."""
    own = model(ids[None], use_cache=False).logits[0]
    states = model.base_model(ids[None], use_cache=False).last_hidden_state
    if not torch.equal(own, model.get_output_embeddings()(states)[0]):
        raise UserError(
            f"MODEL: under rope_type {moving_rope(model.config)!r} the logits of a long text "
            f"need the plain output layer that {type(model).__name__} lacks: name another model"
        )
