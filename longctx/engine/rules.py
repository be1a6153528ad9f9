"""What an engine goes by: the context of a scheme, what ends an answer, what is refused."""

from __future__ import annotations

from typing import Any

from longctx.attention import Scheme
from longctx.attention.config import rope_parameters
from longctx.engine.errors import ContextLengthError, InsufficientMemoryError
from longctx.engine.kv import KvPool
from longctx.engine.request import EngineRequest
from longctx.errors import UserError

# Dual Chunk Attention has no limit of its own; answers beyond this were not published.
DCA_CONTEXT_FACTOR = 4


def check(
    request: EngineRequest, max_context: int, pool: KvPool, vocabulary: int, tokenizer: Any
) -> None:
    """Refuse what can never be served.

    Raises:
        ContextLengthError, InsufficientMemoryError, UserError: with the numbers.
    """
    asked = len(request.prompt_ids) + request.max_new_tokens
    if asked > max_context:
        raise ContextLengthError(max_context, len(request.prompt_ids), request.max_new_tokens)
    if asked > pool.budget_tokens:
        size = pool.bytes_per_token
        raise InsufficientMemoryError(asked, size, pool.budget_tokens * size)
    low, high = min(request.prompt_ids), max(request.prompt_ids)
    if low < 0 or high >= vocabulary:
        raise UserError(
            f"prompt_ids hold {low if low < 0 else high}: ids of this model are 0 to "
            f"{vocabulary - 1}"
        )
    wrong = next((n for n, _ in request.sampling.logit_bias if not 0 <= n < vocabulary), None)
    if wrong is not None:
        raise UserError(f"logit_bias holds {wrong}: ids of this model are 0 to {vocabulary - 1}")
    if request.stop and tokenizer is None:
        raise UserError("stop needs text, and the engine has no tokenizer: use stop_ids")


def default_context(scheme: Scheme, config: Any) -> int:
    """Tokens of prompt and answer that the scheme is good for."""
    factor, rope = scheme.factor, rope_parameters(config)
    if scheme.method == "none" and rope["rope_type"] == "yarn":  # stays active
        factor = rope.get("factor")
    if factor is not None:
        return int(scheme.trained_length * factor)
    if scheme.chunk_size is not None:
        return scheme.trained_length * DCA_CONTEXT_FACTOR
    return scheme.trained_length


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends an answer: the generation config lists more than the tokenizer."""
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return frozenset(found)
