"""Tools over HTTP: a model that writes a call by itself or is made to, and one without a template.

The embedded model's template has no place for tools, so a template in Qwen's format is put on its
tokenizer; what the model writes is forced by schema or by a prompt of calls that it copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import openai
import pytest
from schemas import thing
from serve_fakes import QWEN25
from serve_helpers import CHAT, Served, body, served, wait_for

from longctx.chat.process import TemplateLimits

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Oslo", "Rome"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
ASK = [{"role": "user", "content": "How is the weather?"}]


def with_template(load: Any) -> Any:
    loaded = load()
    loaded.tokenizer.chat_template = QWEN25
    return replace(loaded)


@pytest.fixture(scope="module")
def tooled() -> Iterator[Served]:
    with served(with_template, speculate="off") as server:  # `write` answers a token a step
        assert server.service.loaded.wait(60)
        yield server


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_that_is_asked_for_comes(tooled: Served, choice: Any) -> None:
    with tooled.client() as client:
        answer = client.chat.completions.create(
            model="embedded", messages=ASK, tools=[WEATHER], tool_choice=choice, max_tokens=200
        )
    (made,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (made.type, made.function.name) == ("function", "weather")
    assert made.id.startswith("call_")
    assert json.loads(made.function.arguments)["place"] in ("Oslo", "Rome")
    assert answer.choices[0].message.content is None


def test_a_streamed_call_is_the_same_call(tooled: Served) -> None:
    options: dict[str, Any] = {
        "model": "embedded", "messages": ASK, "tools": [WEATHER], "tool_choice": "required",
        "max_tokens": 200,
    }  # fmt: skip
    with tooled.client() as client:
        whole = client.chat.completions.create(**options).choices[0].message.tool_calls[0]
        name, arguments, finish = "", "", None
        for chunk in client.chat.completions.create(**options, stream=True):
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for part in choice.delta.tool_calls or []:
                    assert part.index == 0
                    name += part.function.name or ""
                    arguments += part.function.arguments or ""
    assert (name, arguments, finish) == ("weather", whole.function.arguments, "tool_calls")


def write(server: Served, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model write this text and end its answer, a token a step."""
    engine = server.service.engine
    ids = [*server.service.tokenizer(text)["input_ids"], server.service.tokenizer.eos_token_id]
    forward, script = engine._runner.forward, iter(ids)

    def scripted(*arguments: Any) -> Any:
        logits = forward(*arguments)
        if len(logits):
            logits.fill_(-50.0)
            logits[-1, next(script)] = 50.0
        return logits

    monkeypatch.setattr(engine._runner, "forward", scripted)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("parallel", "count"), [(None, 2), (True, 2), (False, 1)])
def test_one_call_at_a_time_where_the_client_asks_for_that(
    tooled: Served,
    parallel: bool | None,
    count: int,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"place": "Oslo"}}\n</tool_call>'
    write(tooled, f"Let me see.\n{call}\n{call}", monkeypatch)
    options = {} if parallel is None else {"parallel_tool_calls": parallel}
    with (
        tooled.client() as client,
        client.chat.completions.stream(
            model="embedded", messages=ASK, tools=[WEATHER], max_tokens=200, **options
        ) if stream else nullcontext() as events,
    ):  # fmt: skip
        if events is None:
            answer = client.chat.completions.create(
                model="embedded", messages=ASK, tools=[WEATHER], max_tokens=200, **options
            )
        else:
            answer = events.get_final_completion()
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me see."
    made = [each.function for each in choice.message.tool_calls]
    assert [(each.name, each.arguments) for each in made] == [
        ("weather", '{"place": "Oslo"}')
    ] * count


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("most", [4, 12, 22, 26, 30])
def test_a_forced_call_that_is_cut_off_is_a_call_as_far_as_it_goes(
    tooled: Served, most: int, stream: bool
) -> None:
    options = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": most}
    with tooled.client() as client:
        if stream:
            with client.chat.completions.stream(
                model="embedded", messages=ASK, **options
            ) as events:  # type: ignore[arg-type]
                list(events)
                (choice,) = events.current_completion_snapshot.choices
        else:
            (choice,) = client.chat.completions.create(
                model="embedded",
                messages=ASK,
                **options,  # type: ignore[arg-type]
            ).choices
    assert choice.finish_reason == "length" and not choice.message.content
    calls = choice.message.tool_calls or []
    assert len(calls) == (most > 20)
    for call in calls:
        assert call.function.name == "weather"
        assert '{"place": "Oslo"}'.startswith(call.function.arguments)


def test_several_calls_are_made_where_the_client_asks_for_them(tooled: Served) -> None:
    options: dict[str, Any] = {
        "model": "embedded", "messages": ASK, "tools": [WEATHER], "tool_choice": "required",
        "max_tokens": 120, "parallel_tool_calls": True,
    }  # fmt: skip
    with tooled.client() as client:
        whole = client.chat.completions.create(**options).choices[0].message.tool_calls
        with client.chat.completions.stream(**options) as events:
            list(events)
            streamed = events.current_completion_snapshot.choices[0].message.tool_calls
    assert whole is not None and streamed is not None and len(whole) >= 2
    assert len({call.id for call in whole}) == len(whole)
    complete = [json.loads(call.function.arguments) for call in whole[:-1]]
    assert all(each["place"] in ("Oslo", "Rome") for each in complete)
    assert [c.function.arguments for c in streamed] == [c.function.arguments for c in whole]


def test_the_form_before_tools_is_answered_in_that_form(tooled: Served) -> None:
    options: dict[str, Any] = {
        "model": "embedded", "messages": ASK, "functions": [WEATHER["function"]],
        "function_call": {"name": "weather"}, "max_tokens": 100,
    }  # fmt: skip
    with tooled.client() as client:
        (choice,) = client.chat.completions.create(**options).choices
        made = choice.message.function_call
        assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
        assert made is not None and made.name == "weather"
        name = arguments = ""
        for chunk in client.chat.completions.create(**options, stream=True):
            part = chunk.choices[0].delta.function_call
            if part is not None:
                name, arguments = name + (part.name or ""), arguments + (part.arguments or "")
        assert (name, arguments) == ("weather", made.arguments)
        told = [
            *ASK,
            {"role": "assistant", "content": None, "function_call": made.model_dump()},
            {"role": "function", "name": "weather", "content": "Rain."},
        ]
        again = client.chat.completions.create(
            **{**options, "messages": told, "function_call": "none", "max_tokens": 4}
        )
    assert again.choices[0].message.content is not None


def test_allowed_tools_are_the_only_ones(tooled: Served) -> None:
    other = {"type": "function", "function": {"name": "srv.tool:v1/x"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": other["function"]}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    with tooled.client() as client:
        answer = client.chat.completions.create(
            model="embedded", messages=ASK, tools=[WEATHER, other], tool_choice=choice,
            max_tokens=60, extra_body={"temperature": 0},
        )  # type: ignore[call-overload]  # fmt: skip
    (made,) = answer.choices[0].message.tool_calls
    assert made.function.name == "srv.tool:v1/x"


def test_the_conversation_goes_on_with_a_tools_answer(tooled: Served) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"place": "Oslo"}'},
    }
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]
    with tooled.client() as client:
        answer = client.chat.completions.create(
            model="embedded", messages=messages, tools=[WEATHER], max_tokens=4
        )
    assert answer.choices[0].message.content is not None
    ids = tooled.service.renderer.encode(messages, tools=[WEATHER])
    assert "<tool_response>\nRain.\n</tool_response>" in tooled.service.tokenizer.decode(ids)


def test_tools_that_make_no_sense_are_refused(tooled: Served) -> None:
    for options, param in (
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "required",
          "response_format": {"type": "json_object"}}, "response_format"),
    ):  # fmt: skip
        status, error = tooled.error("/v1/chat/completions", {"messages": ASK, **options})
        assert (status, error["param"]) == (400, param)


def test_a_schema_that_cannot_be_compiled_is_blamed_on_the_tools(tooled: Served) -> None:
    broken = {
        "type": "function",
        "function": {"name": "x", "parameters": thing("a", {"type": "nonsense"})},
    }
    body = {"messages": ASK, "tools": [broken], "tool_choice": "required"}
    status, error = tooled.error("/v1/chat/completions", body)
    assert (status, error["code"], error["param"]) == (400, "invalid_json_schema", "tools")


def test_a_model_without_a_template_serves_completions_only() -> None:
    def bare(load: Any) -> Any:
        loaded = load()
        loaded.tokenizer.chat_template = None
        return loaded

    with served(bare) as server:
        assert server.service.loaded.wait(60)
        status, error = server.error("/v1/chat/completions", {"messages": ASK})
        assert (status, error["code"]) == (400, "no_chat_template")
        with server.client() as client:
            answer = client.completions.create(model="embedded", prompt="The", max_tokens=2)
            assert answer.choices[0].text
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="embedded", messages=ASK)  # type: ignore[arg-type]


def test_a_template_that_comes_to_no_end_costs_one_request() -> None:
    """The others are answered meanwhile, and the next conversation is as well."""

    def looping(load: Any) -> Any:
        found = load()
        loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        own = found.tokenizer.chat_template
        found.tokenizer.chat_template = (
            "{% if messages[0].content == 'loop' %}" + loop + "{% elif messages[0].content == "
            "'huge' %}{{ 'x' * 10 ** 9 }}{% endif %}" + own
        )
        return found

    limits = TemplateLimits(seconds=2.0, memory=128 << 20)
    with served(looping, templates=limits) as server:
        wait_for(lambda: server.call("/ready")[0] == 200)
        for text, words in (("loop", "does not come to an end"), ("huge", "more memory")):
            sent = body(messages=[{"role": "user", "content": text}])
            status, error = server.error(CHAT, sent)
            assert (status, error["code"], error["param"]) == (400, "invalid_value", "messages")
            assert words in error["message"]
            assert server.call("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
            assert server.call(CHAT, body())[0] == 200
