"""A JSON schema as a grammar over the tokens of one tokenizer, through llguidance.

What a step costs is bounded by the library's limits; what compiling costs is not: one pattern more
can double it. A schema that a stranger sent is compiled in a process first (`prover.py`). Imports
no torch, so that such a process starts at once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from longctx.grammar.forms import written

# One layout: where any white space may come, small models write nothing else.
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# Of one answer: 1 to 2 kB a state, and 4 items in a step for every optional property: 3,000, 0.1 s.
# The library's own limits on a step end it within 0.3 s (measured with multipleOf of four primes,
# its worst); its verbose errors dump all of its state.
_LIMITS: dict[str, Any] = {
    "max_lexer_states": 10_000,
    "max_items_in_row": 12_100,
    "verbose_errors": False,
}

# What a tokenizer may do to text before it looks for tokens, and no byte is lost.
_LOSSLESS = {"Sequence", "Prepend", "Replace", "ByteLevel"}
_PROBES = ("e\u0301", "\u0958\u212b\uf900", "A\ufb01 x", '{"a": "b"}')


class GrammarError(ValueError):
    """A schema that cannot be compiled, or that no token can satisfy: the reason, in one line."""


class Vocabulary(NamedTuple):
    """All that a grammar has to know of a model: plain data, to be sent to a process."""

    definition: str  # tokenizer.json, without what changes text
    rows: int  # of the model's logits
    end: int | list[int] | None


def vocabulary_of(tokenizer: Any, rows: int) -> Vocabulary:
    """Of a fast tokenizer of transformers.

    Its normaliser is left out: under NFC, say, the tokens of a forced "e" with an accent would
    spell another text than the schema's.
    """
    backend = copy.copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    found = json.loads(backend.to_str())
    found["normalizer"] = _lossless(found.get("normalizer"))
    return Vocabulary(json.dumps(found), rows, tokenizer.eos_token_id)


def _lossless(normalizer: Any) -> Any:
    if not isinstance(normalizer, dict) or normalizer.get("type") not in _LOSSLESS:
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    parts = [_lossless(part) for part in normalizer.get("normalizers", ())]
    kept = [part for part in parts if part is not None]
    return {**normalizer, "normalizers": kept} if kept else None


class Compiler:
    """Compiles schemas for one vocabulary.

    Raises:
        ImportError: llguidance is missing.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        import llguidance
        import llguidance.numpy  # its torch module imports the compiler

        self._library: Any = llguidance
        self._limits = llguidance.LLParserLimits(**_LIMITS)
        self._rows = vocabulary.rows
        self._tokenizer = _exact(
            llguidance,
            llguidance.LLTokenizer(
                vocabulary.definition, n_vocab=vocabulary.rows, eos_token=vocabulary.end
            ),
        )

    def compile(self, schema: dict[str, Any] | Sequence[str]) -> Matcher:
        """The grammar of one answer; {} is any JSON object, no object at all a `forms.Grammar`.

        Raises:
            GrammarError: a schema that llguidance does not take, with its reason.
        """
        matcher = self._library.LLMatcher
        try:
            if isinstance(schema, dict):
                grammar = matcher.grammar_from_json_schema(
                    json.dumps(schema or {"type": "object"}), defaults=LAYOUT
                )
            else:
                grammar = written(matcher, schema)
        except Exception as error:
            raise GrammarError(reason(str(error))) from error
        made = self._library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        return Matcher(self._library, made, self._rows)


class Matcher:
    """One answer's grammar, fed token by token. Made anew for each: llguidance's copies share the
    lexer's budget, so that one answer could use up another's.

    Raises:
        GrammarError: in any method, where the library gives up.
    """

    def __init__(self, library: Any, matcher: Any, rows: int) -> None:
        self._library, self._matcher, self._rows = library, matcher, rows
        self._bits: Any = None
        self._check()

    def allowed(self) -> Any:
        """Of every row of the logits, 1 where its token may come next; a numpy array of bytes."""
        import numpy as np

        if self._bits is None:
            self._bits = self._library.numpy.allocate_token_bitmask(1, self._rows)
        _guarded(self._library.numpy.fill_next_token_bitmask, self._matcher, self._bits)
        self._check()
        # 32 tokens a word, the lowest bit first.
        return np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")[: self._rows]

    def accept(self, token: int) -> bool:
        """Go on by a token; True where nothing may follow."""
        _guarded(self._matcher.consume_token, token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(reason(self._matcher.get_error()))


def _guarded(call: Callable[..., Any], *arguments: Any) -> None:
    """A panic of the library is no Exception, and would end the thread that it comes up in."""
    try:
        call(*arguments)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError(reason(str(error))) from error


def reason(said: str) -> str:
    """The library's words in one line, without its state."""
    words = " ".join(said.split("\n<state>")[0].split()).removesuffix("<non-verbose/>").strip()
    if words.startswith("NoExtension"):
        return "no JSON can satisfy it: does a $ref lead to nothing but itself?"
    if "regex parse error" in words and " error: " in words:
        said = words.rpartition(" error: ")[2].partition(" 1 | ")[0]  # before it shows the grammar
        words = f"a pattern cannot be read: {said}"
    if "too many states" in words or "too many expressions" in words or "items; max is" in words:
        words = f"it is too complex ({words.split(';')[0].removeprefix('Parser Error: ')})"
    return words if len(words) <= 300 else f"{words[:297]}..."


class _Greedy:
    """What llguidance asks of a tokenizer, with the longest tokens that fit: always exact."""

    def __init__(self, tokenizer: Any) -> None:
        ids = range(tokenizer.vocab_size)
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token, None
        self.tokens = [tokenizer.decode_bytes([token]) for token in ids]
        self.special_token_ids = [token for token in ids if tokenizer.is_special_token(token)]
        self._encode = tokenizer.greedy_tokenize

    def __call__(self, text: str) -> Any:
        return self._encode(text)


def _exact(library: Any, tokenizer: Any) -> Any:
    """The tokenizer, or one of the same tokens, whose ids spell the text that they were made of."""
    for probe in _PROBES:
        if tokenizer.decode_bytes(tokenizer.tokenize_str(probe)) != probe.encode():
            wrapped = library.TokenizerWrapper(_Greedy(tokenizer))
            return library.LLTokenizer(
                wrapped, n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_tokens
            )
    return tokenizer
