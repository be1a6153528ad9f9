"""Output in a grammar: which tokens may come next. JSON schemas and other grammars through
llguidance, if installed.

The engine knows the protocol only; the tokenizer's trie is built once per engine. Compiling is not
bounded: whoever takes schemas of strangers has them proven first (`longctx.grammar.prover`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from longctx.engine.errors import ConstraintError
from longctx.grammar.compiler import Compiler, GrammarError, Matcher, vocabulary_of
from longctx.grammar.forms import Grammar, name_of


class Constraint(Protocol):
    """One answer's grammar, fed token by token."""

    def mask(self, logits_V: torch.Tensor) -> None:
        """Set the logits of tokens that may not come next to -inf, in place."""
        ...

    def accept(self, token: int) -> bool:
        """Go on by a token; True where nothing may follow."""
        ...


class JsonConstraints:
    """Compiles JSON schemas for one tokenizer, from any thread.

    Args:
        tokenizer: a fast tokenizer of transformers.
        vocabulary: rows of the model's logits.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        try:
            import llguidance  # noqa: F401 (its absence is told before a tokenizer is looked at)
        except ImportError as error:
            raise ConstraintError(
                f"json_schema needs the package llguidance ({error}): install it, or leave "
                "json_schema out"
            ) from error
        self._compiler = Compiler(vocabulary_of(tokenizer, vocabulary))

    def compile(self, schema: dict[str, Any] | Grammar) -> Constraint:
        """The constraint of one answer; {} is any JSON object.

        Raises:
            ConstraintError: a schema or grammar that llguidance does not take, with its reason.
        """
        name = name_of(schema)
        try:
            return _JsonConstraint(self._compiler.compile(schema), name)
        except GrammarError as error:
            raise ConstraintError(f"{name} cannot be compiled: {error}") from error


class _JsonConstraint:
    def __init__(self, matcher: Matcher, name: str) -> None:
        self._matcher, self._name = matcher, name

    def mask(self, logits_V: torch.Tensor) -> None:
        try:
            allowed = self._matcher.allowed()
        except GrammarError as error:
            raise ConstraintError(f"{self._name}: {error}") from error
        allowed_V = torch.from_numpy(allowed).to(logits_V.device)
        logits_V.masked_fill_(allowed_V == 0, -torch.inf)

    def accept(self, token: int) -> bool:
        try:
            return self._matcher.accept(token)
        except GrammarError as error:
            raise ConstraintError(f"{self._name}: {error}") from error
