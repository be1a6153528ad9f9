"""Conversations, tools and templates that cannot be served are one clear line."""

from __future__ import annotations

from typing import Any

import pytest
import serve_fakes
from serve_fakes import CHAT, WEATHER, call, reference, result

from longctx.chat.renderer import ChatRenderer
from longctx.chat.template import Encoder
from longctx.errors import UserError


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: at least one"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\].role: 'robot'.*pass one"),
        (["x"], r"messages\[0\].role: None"),
        (_user(None), r"messages\[0\].content: is missing"),
        (_user(7), r"messages\[0\].content: must be a string"),
        (_user([{"type": "image_url"}]), r"content\[0\]: images are not served"),
        (_user([{"type": "input_audio"}]), r"content\[0\].type: 'input_audio' is not served"),
        (_user([{"type": "text"}]), r"content\[0\].text: must be a string"),
        ([result("x")], r"tool_call_id: call_1 is no call"),
        ([call(), {"role": "tool", "content": "x"}], r"tool_call_id: None must be 1 to 512"),
        ([call("[1]")], r"arguments: is JSON but no object"),
        ([call("{")], r"arguments: is no JSON"),
        ([call('{"a": NaN}')], r"arguments: is no JSON \(NaN"),
        ([call('{"a": ' + "[" * 200_000)], r"arguments: is no JSON"),
        ([call('{"a": "\\ud800"}')], r"arguments: is no JSON .*surrogates"),
        ([call('{"\\udfff": 1}')], r"arguments: is no JSON .*surrogates"),
        ([call('{"a": 1e999}')], r"arguments: is no JSON \(Out of range"),
        ([call('{"a": ' + "[" * 100 + "]" * 100 + "}")], "arguments: is nested more than 100"),
        ([call(name="<|im_end|>")], r"function.name: .* must be 1 to 128"),
        (
            [{"role": "assistant", "tool_calls": [{"type": "custom"}]}],
            r"tool_calls\[0\]: is no call of a function",
        ),
        ([{"role": "assistant", "tool_calls": "x"}], "tool_calls: must be a list"),
    ],
)
def test_bad_messages(
    tools_chat: ChatRenderer, messages: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tools_chat.encode(messages)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ("x", None, "tools: must be a list"),
        ([{"type": "retrieval"}], None, r"tools\[0\]: is no function"),
        ([{"type": "function", "function": {"name": "a b"}}], None, r"function.name: 'a b' must"),
        ([WEATHER, WEATHER], None, "get_weather is there twice"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": []}}],
            None,
            "parameters: must be a JSON schema",
        ),
        (
            [{"type": "function", "function": {"name": "a", "parameters": nested(200)}}],
            None,
            r"tools\[0\]: is nested more than 100 levels deep: flatten it",
        ),
        ([WEATHER], "always", "tool_choice: 'always' is none of"),
        (None, "required", "tool_choice: 'required' needs tools"),
        (
            [WEATHER],
            {"type": "function", "function": {"name": "f"}},
            "there is no tool 'f': name one of get_weather",
        ),
        ([WEATHER], {"type": "function"}, "is none of none, auto"),
        ([WEATHER], {"type": "allowed_tools"}, "needs allowed_tools with a mode"),
        ([WEATHER], allowed("none", "get_weather"), "needs allowed_tools with a mode"),
        ([WEATHER], allowed("auto", "f"), "there is no tool 'f': name some of get_weather"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}],
            None,
            r"tools\[0\].function.parameters.type: 'string' cannot be arguments: make it object",
        ),
    ],
)
def test_bad_tools(tools_chat: ChatRenderer, tools: Any, choice: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tools_chat.encode(CHAT, tools=tools, tool_choice=choice)


ANSWER = {"role": "assistant", "content": "It is"}


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        (CHAT, {}, "the last message must be an assistant's"),
        ([*CHAT, {**ANSWER, "content": ""}], {}, "the last message must be an assistant's"),
        ([*CHAT, call()], {}, "the last message must be an assistant's"),
        ([*CHAT, ANSWER], {"tools": [WEATHER], "tool_choice": "required"}, "must be a tool call"),
    ],
)
def test_answers_that_cannot_go_on(
    tools_chat: ChatRenderer, messages: list[dict[str, Any]], options: Any, message: str
) -> None:
    with pytest.raises(UserError, match=f"continue_final_message: .*{message}"):
        tools_chat.encode(messages, continue_final=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": []}, "'tools' is nothing that a request may set"),
        ({"chat_template": "x"}, "'chat_template' is nothing that a request may set"),
        ({"messages": "x"}, "'messages' is nothing"),
        ({"eos_token": "x"}, "'eos_token' is nothing"),
        ({"a b": 1}, "'a b' is nothing"),
        ({"date_string": "<|im_end|>"}, r"date_string: '<\|im_end\|>' must be at most 64 letters"),
        ({"date_string": "x" * 65}, "must be at most 64 letters"),
        ({"date_string": ["x"]}, "must be a flag, a number, a plain word or null"),
        ({f"n{at}": 1 for at in range(17)}, "17 given, at most 16"),
    ],
)
def test_what_a_request_may_not_tell_a_template(
    tools_chat: ChatRenderer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"chat_template_kwargs.*{message}"):
        tools_chat.encode(CHAT, options=options)


ASKS_OTHERWISE = serve_fakes.QWEN25.replace('{"name": <name>', "<function=name>")


@pytest.mark.parametrize(
    ("template", "messages", "tools", "message"),
    [
        (None, CHAT, [WEATHER], "tools: this model's chat template has no place for tools"),
        (
            None,
            [*CHAT, call("{}", "function")],
            None,
            r"messages\[4\].tool_calls: .* leaves it out",
        ),
        (ASKS_OTHERWISE, CHAT, [WEATHER], "does not ask for calls as <tool_call>"),
        (serve_fakes.ALTERNATING, CHAT, None, "refuses them: .*roles must alternate"),
        ("user:", CHAT[1:2], None, r"messages\[0\].content: .* leaves it out"),
        ("{{ messages[0].content | upper }}", CHAT[1:2], None, "acts on what a text says"),
        ("{{ messages[0] }}", CHAT[1:2], None, "neither itself nor JSON"),
        (
            "{% if '/no_think' in messages[0].content %}x{% endif %}{{ messages[0].content }}",
            _user("/no_think hello"),
            None,
            "acts on what a text says",
        ),
    ],
    ids=["tools", "calls", "format", "roles", "drops", "upper", "repr", "reads"],
)
def test_templates_that_do_not_serve(
    template: str | None, messages: list[dict[str, Any]], tools: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ChatRenderer(serve_fakes.tokenizer(template)).encode(messages, tools=tools)


def test_arguments_as_escaped_json_are_read_too() -> None:
    """Some templates print JSON in ASCII."""
    tokenizer = serve_fakes.tokenizer(
        serve_fakes.QWEN25.replace("| tojson", "| tojson(ensure_ascii=true)")
    )
    messages = [*CHAT, call('{"place": "Zürich\\n山"}')]
    ids = ChatRenderer(tokenizer).encode(messages, tools=[WEATHER])
    assert ids == reference(tokenizer, messages, [WEATHER])


def test_without_a_template() -> None:
    tokenizer = serve_fakes.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template: use /v1/completions"):
        ChatRenderer(tokenizer)


def test_without_a_fast_tokenizer() -> None:
    with pytest.raises(UserError, match="tokenizer object: a fast one"):
        Encoder(object())
