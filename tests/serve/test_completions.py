"""POST /v1/completions as evaluation harnesses and batching clients use it."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from serve_helpers import Served, served, wait_for

from longctx.serve.tokens import CompletionLogprobs, LogprobRow, TokenText

PATH = "/v1/completions"
PROMPT = "The special magic number for amber-anchor is"


def echoed(server: Served, prompt: Any, **options: Any) -> Any:
    body = {"prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 1, **options}
    status, _, answer = server.call(PATH, body)
    assert status == 200, answer
    return answer["choices"]


def test_an_echo_tells_the_likeliest_tokens_of_the_prompt(server: Served) -> None:
    (choice,) = echoed(server, PROMPT, logprobs=3)
    found = choice["logprobs"]
    assert found["top_logprobs"][0] is None and found["token_logprobs"][0] is None
    rows = zip(
        found["tokens"][1:], found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True
    )
    for token, logprob, top in rows:
        assert 3 <= len(top) <= 4 and top[token] == logprob <= max(top.values())


def test_what_the_model_says_itself_is_the_likeliest_in_its_echo(server: Served) -> None:
    """What a harness calls greedy: each token's log-probability is the largest there."""
    _, _, told = server.call("/tokenize", {"prompt": PROMPT})
    ids = told["tokens"]
    body = {"prompt": ids, "max_tokens": 6, "logprobs": 1, "temperature": 0}
    _, _, answer = server.call(PATH, body)
    said = answer["choices"][0]["text"]
    (choice,) = echoed(server, PROMPT + said)
    found = choice["logprobs"]
    start = len(ids)
    greedy = [
        logprob == max(top.values())
        for logprob, top in zip(
            found["token_logprobs"][start:-1], found["top_logprobs"][start:-1], strict=True
        )
    ]
    assert greedy == [True] * len(greedy) and len(greedy) >= 5
    (other,) = echoed(server, f"{PROMPT}{said} zebra zebra")
    tail = list(zip(other["logprobs"]["token_logprobs"], other["logprobs"]["top_logprobs"],
                    strict=True))[-4:-1]  # fmt: skip
    assert any(logprob < max(top.values()) for logprob, top in tail)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("text", ["a ä bü 山水 z", "plain", "🙂🙂 end", "<|im_start|>user\nä"])
def test_offsets_are_characters_of_the_text(server: Served, text: str, echo: bool) -> None:
    if echo:
        (choice,) = echoed(server, text, max_tokens=3)
    else:
        _, _, answer = server.call(PATH, {"prompt": text, "max_tokens": 9, "logprobs": 0})
        (choice,) = answer["choices"]
    found, whole = choice["logprobs"], choice["text"]
    offsets = found["text_offset"]
    assert offsets[0] == 0 and offsets == sorted(offsets) and max(offsets) <= len(whole)
    for at, (token, offset) in enumerate(zip(found["tokens"], offsets, strict=True)):
        following = offsets[at + 1] if at + 1 < len(offsets) else len(whole)
        if not token.startswith("\\x") and following > offset:
            assert whole.startswith(token, offset), (token, offset)
    if echo:
        assert whole.startswith(text)


class Pieces:
    """A tokenizer of bytes, id by id: "é" is two tokens, and each alone is a part of it."""

    def decode(self, ids: Any, **_: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def convert_ids_to_tokens(self, token_id: int) -> str:
        from longctx.serve.tokens import _byte_table

        return next(char for char, value in _byte_table().items() if value == token_id)


def test_a_part_of_a_character_stands_where_that_begins() -> None:
    columns = CompletionLogprobs(TokenText(Pieces()))
    columns.prompt([LogprobRow(value, -1.0) for value in "aé山b".encode()])
    new = columns.answer([LogprobRow(value, -1.0) for value in "ü!".encode()])
    assert columns.found["text_offset"] == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5]
    assert columns.found["tokens"][:3] == ["a", "\\xc3", "\\xa9"]
    assert new["text_offset"] == [4, 4, 5]


def test_two_tokens_of_one_text_show_the_likelier() -> None:
    class Same(Pieces):
        def decode(self, ids: Any, **_: Any) -> str:
            return "x" * len(ids)

    columns = CompletionLogprobs(TokenText(Same()))
    found = columns.answer([LogprobRow(7, -3.0, ((5, -0.5), (6, -1.0)))])
    assert found["top_logprobs"] == [{"x": -0.5}]


def test_more_prompts_than_answers_are_allowed_are_queued(client: openai.OpenAI) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(20)]
    answer = client.completions.create(model="embedded", prompt=prompts, max_tokens=4)
    assert [choice.index for choice in answer.choices] == list(range(20))
    for at in (0, 19):
        alone = client.completions.create(model="embedded", prompt=prompts[at], max_tokens=4)
        assert answer.choices[at].text == alone.choices[0].text
    streamed = client.completions.create(
        model="embedded", prompt=prompts, max_tokens=4, stream=True
    )
    texts = [""] * 20
    for chunk in streamed:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in answer.choices]


def test_a_batch_beyond_the_queue_waits_and_leaves_places_to_others() -> None:
    with served(max_running=4, max_waiting=3, chunk_budget=64) as server:
        most = 0

        def watched() -> bool:
            nonlocal most
            stats = server.service.engine.stats()
            most = max(most, stats.running + stats.waiting)
            return done.is_set()

        import threading

        done, found = threading.Event(), []

        def ask() -> None:
            body = {"prompt": [f"{n} {PROMPT}" for n in range(30)], "max_tokens": 3}
            found.append(server.call(PATH, body))
            done.set()

        threading.Thread(target=ask, daemon=True).start()
        wait_for(lambda: server.service.engine.stats().running > 0)
        assert server.call(PATH, {"prompt": "short", "max_tokens": 1})[0] == 200
        wait_for(watched)
        status, _, answer = found[0]
        assert status == 200 and len(answer["choices"]) == 30
        assert answer["usage"]["completion_tokens"] == 90
        assert most <= 3  # two of the batch at a time, and the other


def test_a_batch_goes_on_when_the_queue_has_room_again() -> None:
    with served(max_running=2, max_waiting=1, chunk_budget=64) as server:
        engine, refused = server.service.engine, []
        submit = engine.submit

        def full(*arguments: Any) -> Any:
            from longctx.engine import QueueFullError

            if len(refused) < 3 and engine.stats().counts.finished >= 2:
                refused.append(1)
                raise QueueFullError(1)
            return submit(*arguments)

        engine.submit = full  # type: ignore[method-assign]
        status, _, answer = server.call(PATH, {"prompt": ["a", "b", "c", "d"], "max_tokens": 2})
        assert status == 200 and len(answer["choices"]) == 4 and len(refused) == 3


def test_of_many_prompts_one_that_cannot_fit_refuses_all_before_any_begins() -> None:
    with served(context=64) as server:
        prompts = [[5] * 10 for _ in range(40)] + [[5] * 70]
        status, error = server.error(PATH, {"prompt": prompts, "max_tokens": 2, "stream": True})
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert server.service.engine.stats().counts.steps == 0


def test_the_cap_on_prompts_is_its_own(server: Served) -> None:
    most = server.service.settings.limits.max_prompts
    assert most >= 1024
    status, error = server.error(PATH, {"prompt": ["a"] * (most + 1), "max_tokens": 1})
    assert (status, error["param"]) == (400, "prompt")
    assert str(most + 1) in error["message"] and str(most) in error["message"]
    status, error = server.error(PATH, {"prompt": ["a", "b"], "n": 17, "max_tokens": 1})
    assert (status, error["param"]) == (400, "n")
