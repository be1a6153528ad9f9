"""litellm, as the library behind many tools (aider and gateways among them)."""

from __future__ import annotations

import json
from typing import Any

import litellm
from common import KIND, MESSAGES, SAY, WEATHER

litellm.telemetry = False


def at(url: str, model: str = "embedded") -> dict[str, Any]:
    return {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}


def test_chat_streamed_and_whole(url: str) -> None:
    whole = litellm.completion(**at(url), messages=MESSAGES, max_tokens=12)
    chunks = list(
        litellm.completion(
            **at(url), messages=MESSAGES, max_tokens=12, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.completion_tokens == 12


def test_calls_streamed_and_whole(tools_url: str) -> None:
    options = {**at(tools_url, "random-tools"), "messages": MESSAGES, "tools": [WEATHER]}
    options |= {"tool_choice": "required", "max_tokens": 200}
    (call,) = litellm.completion(**options).choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["place"] in ("Oslo", "Rome")
    built = litellm.stream_chunk_builder(list(litellm.completion(**options, stream=True)))
    (streamed,) = built.choices[0].message.tool_calls
    assert streamed.function.name == "weather.now:v1"
    assert streamed.function.arguments == call.function.arguments


def test_a_schema_text_and_a_response(url: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "kind", "schema": KIND, "strict": True}}
    made = litellm.completion(**at(url), messages=MESSAGES, response_format=form, max_tokens=60)
    assert json.loads(made.choices[0].message.content)["kind"] in ("amber", "brisk")
    text = litellm.text_completion(
        **{**at(url), "model": "text-completion-openai/embedded"},
        prompt="The special magic number",
        max_tokens=6,
    )
    assert text.choices[0].text
    told = litellm.responses(**at(url), input=SAY, max_output_tokens=16)
    assert told.output[0].content[0].text and told.usage.output_tokens == 16
    events = list(litellm.responses(**at(url), input=SAY, max_output_tokens=16, stream=True))
    last = events[-1]
    assert last.response.output[0].content[0].text == told.output[0].content[0].text
