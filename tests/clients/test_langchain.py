"""langchain-openai: chat, plain text in batches, tools, schemas, the responses route."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from common import SAY, WEATHER
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel


class Kind(BaseModel):
    """The kind of a thing."""

    kind: Literal["amber", "brisk"]


def chat(url: str, model: str = "embedded", **options: Any) -> ChatOpenAI:
    settings = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "max_tokens": 60}
    return ChatOpenAI(model=model, **{**settings, **options})


@pytest.mark.parametrize("responses", [False, True])
def test_chat_streamed_and_whole(url: str, responses: bool) -> None:
    model = chat(url, use_responses_api=responses, max_tokens=12, stream_usage=True)
    whole = model.invoke(SAY)
    streamed: Any = None
    for chunk in model.stream(SAY):
        streamed = chunk if streamed is None else streamed + chunk
    assert whole.text and streamed.text == whole.text
    assert whole.usage_metadata["output_tokens"] == 12
    assert streamed.usage_metadata["output_tokens"] == 12


@pytest.mark.parametrize("responses", [False, True])
def test_tools_and_their_answers(tools_url: str, responses: bool) -> None:
    model = chat(tools_url, "random-tools", use_responses_api=responses, max_tokens=200)
    bound = model.bind_tools([WEATHER], tool_choice="required")
    asked = HumanMessage(SAY)
    made = bound.invoke([asked])
    assert isinstance(made, AIMessage)
    (call,) = made.tool_calls
    assert call["name"] == "weather.now:v1" and call["args"]["place"] in ("Oslo", "Rome")
    streamed: Any = None
    for chunk in bound.stream([asked]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == call["args"]
    answered = [asked, made, ToolMessage("Rain.", tool_call_id=call["id"])]
    short = chat(tools_url, "random-tools", use_responses_api=responses, max_tokens=16)
    told = short.bind_tools([WEATHER]).invoke(answered)
    assert told.usage_metadata["output_tokens"] == 16


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(url: str, tools_url: str, method: Any) -> None:
    model = chat(url) if method == "json_schema" else chat(tools_url, "random-tools")
    found = model.with_structured_output(Kind, method=method).invoke(SAY)
    assert isinstance(found, Kind)


def test_twenty_prompts_in_one_request(url: str) -> None:
    model = OpenAI(
        model="embedded", base_url=f"{url}/v1", api_key="none", max_tokens=4, max_retries=0,
        temperature=0,
    )  # type: ignore[call-arg,arg-type]  # fmt: skip
    found = model.generate([f"{SAY} {n}" for n in range(20)])
    assert len(found.generations) == 20
    assert found.llm_output is not None
    assert 40 < found.llm_output["token_usage"]["completion_tokens"] <= 80
    assert "".join(model.stream("The special magic number"))
