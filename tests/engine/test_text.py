"""What the client reads: text that never has to be taken back, and where it ends."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
from engine_helpers import engine_for, prompt_of, run

from longctx.engine import Delta, EngineRequest, Finished
from longctx.engine.detokenize import Detokenizer


def from_bytes(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def feed(data: bytes, *stop: str) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(from_bytes, stop)
    texts = []
    for byte in data:
        texts.append(detokenizer.push(byte))
        if detokenizer.stopped is not None:
            return texts, detokenizer
    return [*texts, detokenizer.finish()], detokenizer


def test_characters_come_whole() -> None:
    texts, _ = feed("aé漢🙂b".encode())
    assert texts == ["a", "", "é", "", "", "漢", "", "", "", "🙂", "b", ""]


def test_broken_bytes_are_shown_in_the_end_and_hold_nothing_up() -> None:
    texts, _ = feed(b"a\xe6\xbc")
    assert "".join(texts) == "a\ufffd"
    texts, _ = feed(b"a" + b"\xff" * 20 + b"b")
    assert "".join(texts) == from_bytes(b"a" + b"\xff" * 20 + b"b") and texts[8] != ""


def test_what_may_become_a_stop_string_is_held_back() -> None:
    texts, detokenizer = feed(b"one END two ENDE more", "ENDE", "\n\n")
    assert texts[:9] == ["o", "n", "e", " ", "", "", "", "END ", "t"]
    assert "".join(texts) == "one END two " and detokenizer.stopped == "ENDE"


def test_a_stop_string_in_the_middle_of_a_token_cuts_the_text_there() -> None:
    words = ["Hello", " wor", "ld. Next", " one"]
    detokenizer = Detokenizer(lambda ids: "".join(words[n] for n in ids), [". N", "zz"])
    assert [detokenizer.push(n) for n in range(3)] == ["Hello", " wor", "ld"]
    assert detokenizer.stopped == ". N" and detokenizer.finish() == ""


def test_the_first_of_several_stop_strings_wins() -> None:
    texts, detokenizer = feed(b"a<b>c", "<b>", "b")
    assert "".join(texts) == "a<" and detokenizer.stopped == "b"


def test_spaces_that_a_lone_token_would_lose_are_kept() -> None:
    words = ["_the", "_cat", "s"]
    decode = lambda ids: "".join(words[n] for n in ids).replace("_", " ").lstrip()  # noqa: E731
    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(n) for n in (0, 1, 2, 1)) == "the cats cat"


class LetterTokenizer:
    """Token n is a character; ids from 90 on do not exist."""

    eos_token_id = None

    def __len__(self) -> int:
        return 90

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(32 + n) for n in ids)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.build()


def test_answers_are_text_and_deltas_add_up(model: Any) -> None:
    with engine_for(model, tokenizer=LetterTokenizer()) as engine:
        handle = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=12))
        engine.run_until_idle()
        deltas = [event for event in handle if isinstance(event, Delta)]
        ids = [n for delta in deltas for n in delta.token_ids]
        assert len(ids) == 12 and all(n < 90 for n in ids)
        assert "".join(delta.text for delta in deltas) == LetterTokenizer().decode(ids)


def test_stop_strings_end_the_answer(model: Any) -> None:
    with engine_for(model, tokenizer=LetterTokenizer()) as engine:
        whole = run(engine, EngineRequest(prompt_of(20), max_new_tokens=12))[0]
        stop = whole.text[5:8]
        at = whole.text.index(stop)
        answer = run(engine, EngineRequest(prompt_of(20), max_new_tokens=12, stop=(stop, "@@")))[0]
        assert (answer.text, answer.finish_reason, answer.stop) == (whole.text[:at], "stop", stop)
        assert answer.usage.completion_tokens == at + 3
        # What was held back for a stop string that never came is there in the end.
        answer = run(
            engine, EngineRequest(prompt_of(20), max_new_tokens=12, stop=(whole.text[-1] + "\x00",))
        )[0]
        assert answer.text == whole.text and answer.finish_reason == "length"


def test_every_eos_id_ends_the_answer(model: Any) -> None:
    with engine_for(model) as engine:
        ids = run(engine, EngineRequest(prompt_of(20), max_new_tokens=12))[0].token_ids
    first = ids.index(ids[6])
    model.generation_config.eos_token_id = [96, ids[6]]
    try:
        with engine_for(model, tokenizer=LetterTokenizer()) as engine:
            request = EngineRequest(prompt_of(20), max_new_tokens=12)
            answer = run(engine, request)[0]
            assert (answer.finish_reason, answer.stop) == ("stop", ids[6])
            assert answer.token_ids == ids[: first + 1]
            assert answer.text == LetterTokenizer().decode(list(ids[:first]))
            on = run(engine, EngineRequest(prompt_of(20), max_new_tokens=12, ignore_eos=True))[0]
            assert on.token_ids == ids
    finally:
        model.generation_config.eos_token_id = None
    with engine_for(model) as engine:
        request = EngineRequest(prompt_of(20), max_new_tokens=12, stop_ids=frozenset({ids[6]}))
        handle = engine.submit(request)
        engine.run_until_idle()
        *_, last = handle
        assert isinstance(last, Finished) and last.stop == ids[6]
