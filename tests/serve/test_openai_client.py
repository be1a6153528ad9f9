"""The official client against the real server: it is understood, and reads what it expects."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest
from serve_helpers import ANSWER_PREFIX, NEEDLE, QUESTION, Served, long_text

HELLO = [{"role": "user", "content": "Say something about the special number."}]


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "embedded", "messages": HELLO, "max_tokens": 8, **options}
    )


def test_the_model_is_listed_with_its_context(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "embedded" and model.owned_by == "longctx"
    told = client.models.retrieve("embedded").model_dump()
    assert told["max_model_len"] == 16384
    assert (told["method"], told["trained_length"], told["dtype"]) == ("yarn+dca", 512, "float32")


def test_a_chat_is_answered_and_counted(client: openai.OpenAI, server: Served) -> None:
    answer = chat(client)
    (choice,) = answer.choices
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and answer.usage.completion_tokens == 8
    _, _, told = server.call("/tokenize", {"messages": HELLO})
    assert answer.usage.prompt_tokens == told["count"]
    assert answer.usage.total_tokens == told["count"] + 8


def test_a_needle_beyond_the_trained_window_is_found_and_its_document_reused(
    client: openai.OpenAI,
) -> None:
    """2,000 tokens, four times the window, the needle first of all."""
    prompt = f"<|im_start|>user\n{NEEDLE} {long_text(2000)}\n{QUESTION}<|im_end|>\n"
    prompt += f"<|im_start|>assistant\n{ANSWER_PREFIX}"
    first = client.completions.create(model="embedded", prompt=prompt, max_tokens=10)
    assert first.usage.prompt_tokens > 1800
    assert "7239160" in first.choices[0].text
    again = client.completions.create(model="embedded", prompt=prompt, max_tokens=10)
    assert again.choices[0].text == first.choices[0].text
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached == first.usage.prompt_tokens - 1


def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = chat(client, max_tokens=24)
    chunks = list(chat(client, max_tokens=24, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == 24
    plain = list(chat(client, max_tokens=4, stream=True))
    assert all(chunk.usage is None for chunk in plain)


def test_progress_is_told_while_a_long_prompt_is_read(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": long_text(3000, seed=5)}]
    chunks = chat(
        client,
        messages=messages,
        stream=True,
        stream_options={"include_progress": True, "include_usage": True},
    )
    seen = [(chunk.model_extra or {}).get("prompt_progress") for chunk in chunks]
    told = [each for each in seen if each]
    assert len(told) >= 5  # 512 tokens a step
    assert [each["processed"] for each in told] == sorted({each["processed"] for each in told})
    assert told[-1]["processed"] == told[-1]["total"] > 2500
    assert all(each["cached"] == each["cache"] for each in told)
    assert all(each["time_ms"] >= 0 for each in told)
    assert any(each["eta_ms"] for each in told[1:-1]) and told[-1]["eta_ms"] == 0
    first_text = next(at for at, each in enumerate(seen) if each is None)
    assert all(each is None for each in seen[first_text:])  # all progress comes before the text


def test_progress_counts_a_prompt_once_however_many_answers_it_gets(
    client: openai.OpenAI,
) -> None:
    messages = [{"role": "user", "content": long_text(2000, seed=6)}]
    options = {"include_progress": True, "include_usage": True}
    chunks = list(chat(client, messages=messages, n=3, stream=True, stream_options=options))
    told = [one.model_extra["prompt_progress"] for one in chunks if "prompt_progress" in
            (one.model_extra or {})]  # fmt: skip
    assert {each["total"] for each in told} == {chunks[-1].usage.prompt_tokens}
    assert told[-1]["processed"] == told[-1]["total"]


def test_log_probabilities_are_of_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    answer = chat(client, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 8
    raw = b"".join(bytes(entry.bytes) for entry in content)
    assert raw.decode() == answer.choices[0].message.content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0  # greedy
        assert sum(math.exp(each.logprob) for each in entry.top_logprobs) <= 1 + 1e-4
    streamed = [
        entry
        for chunk in chat(client, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [each.token for each in streamed] == [each.token for each in content]


def test_stop_strings_end_an_answer_and_are_not_in_it(client: openai.OpenAI) -> None:
    whole = chat(client, max_tokens=20).choices[0].message.content
    word = whole.split()[2]
    stopped = chat(client, max_tokens=20, stop=[word, "never said"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == whole[: whole.index(word)]


def test_a_seed_repeats_a_draw(client: openai.OpenAI) -> None:
    def draw(seed: int) -> list[str]:
        answer = chat(client, temperature=1.5, seed=seed, n=3, max_tokens=12)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = draw(7)
    assert draw(7) == first and draw(8) != first
    assert len(set(first)) > 1  # each of the n has a seed of its own


def test_n_counts_a_prompt_once(client: openai.OpenAI) -> None:
    answer = chat(client, n=3, temperature=1.0)
    assert answer.usage.prompt_tokens == chat(client).usage.prompt_tokens
    assert answer.usage.completion_tokens == 24


def test_an_answer_keeps_to_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["amber", "brisk"]}, "count": {"enum": [7, 42]}},
        "required": ["kind", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    for stream in (False, True):
        answer = chat(client, response_format=form, max_tokens=200, temperature=0.7, seed=3,
                      stream=stream)  # fmt: skip
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            if stream
            else answer.choices[0].message.content
        )
        value = json.loads(text)
        assert set(value) == {"kind", "count"} and value["kind"] in ("amber", "brisk")
        assert value["count"] in (7, 42)
    free = chat(client, response_format={"type": "json_object"}, max_tokens=300, seed=1,
                temperature=1.0)  # fmt: skip
    text = free.choices[0].message.content
    assert text.lstrip().startswith("{")
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_several_prompts_get_an_answer_each(client: openai.OpenAI) -> None:
    prompts = ["The special magic", "Remember that"]
    answer = client.completions.create(model="embedded", prompt=prompts, max_tokens=6, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for at, prompt in enumerate(prompts):
        alone = client.completions.create(model="embedded", prompt=prompt, max_tokens=6)
        assert [answer.choices[2 * at + k].text for k in (0, 1)] == [alone.choices[0].text] * 2


def test_an_echo_has_the_prompts_log_probabilities(client: openai.OpenAI, server: Served) -> None:
    prompt = "The special magic number"
    answer = client.completions.create(
        model="embedded", prompt=prompt, max_tokens=2, echo=True, logprobs=1
    )
    (choice,) = answer.choices
    assert choice.text.startswith(prompt)
    found = choice.logprobs
    assert found.token_logprobs[0] is None and all(p <= 0 for p in found.token_logprobs[1:])
    assert "".join(found.tokens) == choice.text
    assert found.text_offset == [len("".join(found.tokens[:at])) for at in range(len(found.tokens))]
    _, _, told = server.call("/tokenize", {"prompt": prompt})
    alone = client.completions.create(
        model="embedded", prompt=told["tokens"], max_tokens=0, echo=True, logprobs=0
    )
    assert alone.choices[0].text == prompt and alone.usage.completion_tokens == 0
    assert alone.choices[0].logprobs.token_logprobs == found.token_logprobs[: told["count"]]


def test_token_ids_go_both_ways(server: Served) -> None:
    _, _, told = server.call("/tokenize", {"prompt": "amber and brisk, 42"})
    assert told["count"] == len(told["tokens"]) and told["max_model_len"] == 16384
    _, _, back = server.call("/detokenize", {"tokens": told["tokens"]})
    assert back == {"prompt": "amber and brisk, 42"}


@pytest.mark.parametrize(
    ("options", "kind", "code", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found", "model"),
        ({"max_tokens": -1}, openai.BadRequestError, "invalid_value", "max_tokens"),
        ({"temperature": 9}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"n": 99}, openai.BadRequestError, "invalid_value", "n"),
        ({"stop": ["x"] * 99}, openai.BadRequestError, "invalid_value", "stop"),
        ({"stop": ""}, openai.BadRequestError, "invalid_value", "stop"),
        ({"logprobs": True, "top_logprobs": 99}, openai.BadRequestError, "invalid_value",
         "top_logprobs"),
        ({"top_logprobs": 2}, openai.BadRequestError, "invalid_value", "top_logprobs"),
        ({"max_tokens": 99999}, openai.BadRequestError, "context_length_exceeded", "messages"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, openai.BadRequestError,
         "invalid_value", "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":
          {"enum": ["y" * 70000]}}}}, openai.BadRequestError, "schema_too_large",
         "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":
          {"type": "nonsense"}}}}, openai.BadRequestError, "invalid_json_schema",
         "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url":
          {"url": "http://127.0.0.1/x.png"}}]}]}, openai.BadRequestError, "invalid_value",
         "messages"),
    ],
)  # fmt: skip
def test_errors_are_the_clients_own_classes(
    client: openai.OpenAI, options: Any, kind: Any, code: str, param: str
) -> None:
    with pytest.raises(kind) as caught:
        chat(client, **options)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_unknown_fields_are_told_not_refused(server: Served) -> None:
    body = {"messages": HELLO, "max_tokens": 1, "frobnicate": 1, "user": "me", "logit_bias": {}}
    status, headers, _ = server.call("/v1/chat/completions", body)
    assert status == 200
    assert headers["x-longctx-ignored-fields"] == "frobnicate"


def test_unknown_fields_of_objects_are_told_too(server: Served) -> None:
    options = {
        "stream_options": {"include_usage": None, "chunk_size": 3, "include_obfuscation": False},
        "response_format": {"type": "text", "json_schema": {"description": "x", "lax": True}},
    }
    body = {"messages": HELLO, "max_tokens": 1, **options}
    status, headers, _ = server.call("/v1/chat/completions", body)
    assert status == 200
    told = headers["x-longctx-ignored-fields"]
    assert told == "response_format.json_schema.lax, stream_options.chunk_size"


@pytest.mark.parametrize(
    "names", [[" frob "], ["\t"], [f"{n:04}x" for n in range(200)], ["x" * 998, "y"]]
)
def test_no_name_of_an_unknown_field_makes_a_header_that_cannot_be_sent(
    server: Served, names: list[str]
) -> None:
    body = {"messages": HELLO, "max_tokens": 1, **dict.fromkeys(names, 1)}
    status, headers, _ = server.call("/v1/chat/completions", body)
    told = headers["x-longctx-ignored-fields"]
    assert status == 200 and len(told) <= 1000 and told == told.strip()
