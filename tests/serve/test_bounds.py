"""What can never fit is refused before it is tokenised; what fits is never refused."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pytest
from serve_fakes import tokenizer
from serve_helpers import CHAT, HELLO, Served, body, long_text, served
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from longctx.serve.bounds import LengthBound


class Fast:
    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend


def _byte_level(normalizer: Any = None, merged: int = 40) -> Fast:
    """All bytes, and a token of many spaces and one of many accents."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: at for at, char in enumerate(alphabet)}
    merges = []
    for char in ("Ġ", "a"):
        longest = char
        while len(longest) < merged:
            merges.append((longest, longest) if len(longest) * 2 <= merged else (longest, char))
            longest = longest + (longest if len(longest) * 2 <= merged else char)
            vocabulary[longest] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens(["<|a special token that is longer than all others there are|>"])
    return Fast(backend)


PIECES = (
    *(
        "a",
        " ",
        "\n",
        "word ",
        "e\u0301",
        "\u212a",
        "\u1fef",
        "\u1100\u1161\u11a8",
        "山水",
        "𝒜",
        "ß",
    ),
    *("\u03b1\u0313\u0300\u0345", "\u00c5", "\u1ec7", "u\u031b\u0309", "\U0001f600", "\u0344"),
    "<|a special token that is longer than all others there are|>",
)


def texts() -> list[str]:
    draw = random.Random(0)
    found = [piece * 3000 for piece in PIECES]
    for _ in range(200):
        some = draw.choices(PIECES, k=draw.randint(1, 4))
        found.append("".join(draw.choices(some, k=draw.randint(1, 300))))
    return [*found, *(unicodedata.normalize("NFD", text) for text in found), ""]


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFD()], ids=str)
def test_no_text_has_fewer_tokens(normalizer: Any) -> None:
    fast = _byte_level(normalizer)
    bound = LengthBound(fast)
    for text in texts():
        assert 0 <= bound.tokens(text) <= len(fast.backend_tokenizer.encode(text).ids)
    assert bound.tokens("x" * 10_000) > 100 and bound.tokens("水" * 10_000) > 100


def test_nor_has_one_of_the_embedded_models() -> None:
    fast = tokenizer()
    bound = LengthBound(fast)
    for text in [*texts(), long_text(2000)]:
        assert bound.tokens(text) <= len(fast(text)["input_ids"])
    assert bound.tokens("x" * 100_000) > 1000


@pytest.mark.parametrize(
    "backend",
    [
        Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")),
        Tokenizer(models.Unigram([("a", 0.0)])),
        Tokenizer(models.BPE({"a": 0}, [])),  # what it does not know is left out
        _byte_level(normalizers.Strip()).backend_tokenizer,
        _byte_level(normalizers.Replace(" " * 8, "")).backend_tokenizer,
        _byte_level(normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()]))
        .backend_tokenizer,
    ],
    ids=["words", "unigram", "few letters", "strip", "replace", "accents"],
)  # fmt: skip
def test_where_text_may_get_lost_there_is_no_bound(backend: Tokenizer) -> None:
    assert LengthBound(Fast(backend)).tokens("x" * 1_000_000) == 0


def test_a_token_that_takes_white_space_with_it_is_no_bound() -> None:
    from tokenizers import AddedToken

    fast = _byte_level()
    fast.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    assert LengthBound(fast).tokens("x" * 1_000_000) == 0
    split = _byte_level()
    split.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    assert LengthBound(split).tokens("x" * 1_000_000) == 0


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_what_cannot_fit_is_refused_and_not_tokenised(
    server: Served, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("it was tokenised")

    tokenised = server.service.renderer._encoder
    monkeypatch.setattr(tokenised, "contents", never)
    text = "a word " * 1_000_000
    sent: dict[str, Any] = {"prompt": text, "max_tokens": 7}
    if path == CHAT:
        sent = body(messages=[{"role": "user", "content": text}], max_tokens=7)
    else:
        monkeypatch.setattr(type(server.service.tokenizer), "__call__", never)
    status, error = server.error(path, sent)
    param = "messages" if path == CHAT else "prompt"
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert (error["param"], error["max_context"], error["max_tokens"]) == (param, 16384, 7)
    assert 16384 < error["prompt_tokens"] <= 3_100_000 and error["at_least"] is True
    assert f"(at least {error['prompt_tokens']} in the prompt, 7 for the" in error["message"]


def test_what_fits_is_served_up_to_the_last_token() -> None:
    """Of the longest tokens there are, and as many as go in."""
    with served(context=600) as server:
        fast = server.service.tokenizer
        longest = max(range(len(fast)), key=lambda n: len(fast.decode([n])))
        for ids in ([longest] * 590, [fast.convert_tokens_to_ids("<|im_end|>")] * 590):
            text = fast.decode(ids)
            count = len(fast(text)["input_ids"])
            assert count <= 590
            status, _, answer = server.call(
                "/v1/completions", {"prompt": text, "max_tokens": 600 - count}
            )
            assert status == 200 and answer["usage"]["prompt_tokens"] == count
        assert server.call(CHAT, {"messages": HELLO})[0] == 200
