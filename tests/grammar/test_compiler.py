"""Forced text is the schema's, to the byte; what is refused is told in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from schemas import OUTSIDE_NFC, thing
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer

from longctx import tiny
from longctx.grammar import worker
from longctx.grammar.compiler import Compiler, GrammarError, reason, vocabulary_of


@pytest.fixture
def tokenizer() -> Any:
    """The embedded model's, whose normaliser is NFC."""
    return AutoTokenizer.from_pretrained(tiny.WEIGHTS)


def compiler_for(tokenizer: Any) -> Compiler:
    return Compiler(vocabulary_of(tokenizer, len(tokenizer)))


def written(tokenizer: Any, schema: dict[str, Any]) -> str:
    """An answer of a token that may come, over and over."""
    compiler = compiler_for(tokenizer)
    matcher, ids = compiler.compile(schema), []
    for _ in range(200):
        ids.append(int(matcher.allowed().nonzero()[0][-1]))
        if matcher.accept(ids[-1]):
            return str(compiler._tokenizer.decode_bytes(ids).decode())
    raise AssertionError(f"no end: {ids}")


def test_the_embedded_tokenizer_normalises(tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer.encode(OUTSIDE_NFC[0])) != OUTSIDE_NFC[0]


@pytest.mark.parametrize("text", OUTSIDE_NFC)
@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.NFC(),
        normalizers.NFKC(),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()]),
        None,
    ],
    ids=["nfc", "nfkc", "accents", "lowercase", "none"],
)
def test_forced_text_is_exact_whatever_the_normaliser(
    tokenizer: Any, text: str, normalizer: Any
) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizer
    answer = written(tokenizer, thing(text, {"enum": [f"{text} Z"]}))
    assert json.loads(answer) == {text: f"{text} Z"}


def test_a_tokenizer_that_loses_text_otherwise_is_not_asked(tokenizer: Any) -> None:
    """White space is dropped before tokens are looked for: the longest ones that fit are taken."""
    before = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), before]
    )
    assert json.loads(written(tokenizer, thing("a b", {"const": "c  d"}))) == {"a b": "c  d"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#"}, "no JSON can satisfy it: does a \\$ref lead to nothing but itself"),
        ({"type": "nonsense"}, "nonsense"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "a pattern cannot be read: look-around"),
        ({"type": "string", "pattern": "("}, "a pattern cannot be read: unclosed group"),
        ({"const": "\ud800"}, "hex escape"),
    ],
)
def test_a_refusal_is_one_line(tokenizer: Any, schema: dict[str, Any], words: str) -> None:
    with pytest.raises(GrammarError, match=words) as caught:
        compiler_for(tokenizer).compile(schema).allowed()
    assert "\n" not in str(caught.value) and "non-verbose" not in str(caught.value)
    assert len(str(caught.value)) < 310


def test_a_reason_is_short_and_without_state() -> None:
    assert reason("Too bad\n  here\n<state>\nsecret\n</state>") == "Too bad here"
    assert len(reason("x " * 1000)) == 300
    assert reason("Parser Error: Current row has 9 items; max is 2; x").startswith(
        "it is too complex"
    )


def test_a_step_that_grows_too_complex_is_an_error_of_its_answer(tokenizer: Any) -> None:
    pattern = "^(((a{1,100}){1,100}){1,100}){1,100}$"
    compiler = compiler_for(tokenizer)
    matcher = compiler.compile({"type": "string", "pattern": pattern})
    other = compiler.compile({"type": "string", "pattern": pattern})

    def write() -> None:
        for _ in range(200):
            ids = matcher.allowed().nonzero()[0]
            matcher.accept(int(ids[len(ids) // 2]))

    with pytest.raises(GrammarError, match="too complex"):
        write()
    assert other.allowed().any()


def test_a_panic_of_the_library_is_an_error(tokenizer: Any, monkeypatch: Any) -> None:
    class PanicException(BaseException):
        pass

    def panics(*arguments: Any) -> None:
        raise PanicException("index out\nof bounds")

    matcher = compiler_for(tokenizer).compile({})
    monkeypatch.setattr("llguidance.numpy.fill_next_token_bitmask", panics)
    with pytest.raises(GrammarError, match=r"^index out of bounds$"):
        matcher.allowed()

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llguidance.numpy.fill_next_token_bitmask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        matcher.allowed()


def test_what_a_worker_proves(tokenizer: Any) -> None:
    compiler = compiler_for(tokenizer)
    refused, seconds = worker.prove(compiler, thing("a", {"type": "integer"}))
    assert refused is None and 0 < seconds < 1
    assert worker.prove(compiler, {"const": 1})[0] is None  # over before the last step
    assert "nonsense" in (worker.prove(compiler, {"type": "nonsense"})[0] or "")


def test_what_fails_behind_its_first_token_is_refused_before_an_answer_begins(
    tokenizer: Any,
) -> None:
    """It compiles; 4 items a property are too many once a key may come."""
    compiler = compiler_for(tokenizer)
    many = {"type": "object", "properties": {f"p{n}": {} for n in range(4000)}}
    matcher = compiler.compile(many)
    assert matcher.allowed().any()
    refused, _ = worker.prove(compiler, many)
    assert refused == "it is too complex (Current row has 16007 items)"


def test_2500_optional_properties_can_be_answered(tokenizer: Any) -> None:
    compiler = compiler_for(tokenizer)
    names = [f"p{n}" for n in range(2500)]
    schema = {"type": "object", "properties": {name: {"const": 1} for name in names}}
    assert worker.prove(compiler, schema)[0] is None
    matcher, wanted = compiler.compile(schema), tokenizer.encode('{"p7": 1, "p2499": 1}')
    for token in wanted:
        assert matcher.allowed()[token]
        ended = matcher.accept(token)
    assert ended
