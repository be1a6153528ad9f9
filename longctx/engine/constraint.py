"""Output in a grammar: which tokens may come next. JSON schemas through llguidance, if installed.

The engine knows the protocol only; the tokenizer's trie is built once per engine.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
import torch

from longctx.engine.errors import ConstraintError

# One layout: where any white space may come, small models write nothing else.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint(Protocol):
    """One answer's grammar, fed token by token."""

    def mask(self, logits_V: torch.Tensor) -> None:
        """Set the logits of tokens that may not come next to -inf, in place."""
        ...

    def accept(self, token: int) -> bool:
        """Go on by a token; True where nothing may follow."""
        ...


class JsonConstraints:
    """Compiles JSON schemas for one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        vocabulary: rows of the model's logits.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        try:
            import llguidance
            import llguidance.hf
            import llguidance.numpy  # its torch module imports the compiler
        except ImportError as error:
            raise ConstraintError(
                f"json_schema needs the package llguidance ({error}): install it, or leave "
                "json_schema out"
            ) from error
        self._library: Any = llguidance
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary)

    def compile(self, schema: dict[str, Any]) -> Constraint:
        """The constraint of one answer; {} is any JSON object.

        Raises:
            ConstraintError: a schema that llguidance does not take, with its reason.
        """
        schema = schema or {"type": "object"}
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), defaults=_LAYOUT
            )
        except Exception as error:
            raise ConstraintError(f"json_schema cannot be compiled: {error}") from error
        matcher = self._library.LLMatcher(self._tokenizer, grammar)
        if matcher.get_error():
            raise ConstraintError(f"json_schema cannot be compiled: {matcher.get_error()}")
        return _JsonConstraint(self._library, matcher, self._vocabulary)


class _JsonConstraint:
    def __init__(self, library: Any, matcher: Any, vocabulary: int) -> None:
        self._numpy = library.numpy
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = library.numpy.allocate_token_bitmask(1, vocabulary)

    def mask(self, logits_V: torch.Tensor) -> None:
        self._numpy.fill_next_token_bitmask(self._matcher, self._bits)
        self._raise()
        # 32 tokens a word, the lowest bit first.
        allowed = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")
        allowed_V = torch.from_numpy(allowed[: self._vocabulary]).to(logits_V.device)
        logits_V.masked_fill_(allowed_V == 0, -torch.inf)

    def accept(self, token: int) -> bool:
        self._matcher.consume_token(token)
        self._raise()
        return bool(self._matcher.is_stopped())

    def _raise(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"json_schema: {self._matcher.get_error()}")
