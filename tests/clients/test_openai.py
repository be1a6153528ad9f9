"""openai, the official client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from common import KIND, MESSAGES, SAY, WEATHER


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", max_retries=0)


@pytest.fixture(scope="module")
def tooled(tools_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tools_url}/v1", max_retries=0)


def test_chat_streamed_and_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="embedded", messages=MESSAGES, max_tokens=16)
    text, last = "", None
    for chunk in client.chat.completions.create(
        model="embedded",
        messages=MESSAGES,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    ):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        last = chunk
    assert text == whole.choices[0].message.content
    assert last is not None and last.usage is not None and last.usage.completion_tokens == 16


def test_a_parsed_answer(client: openai.OpenAI) -> None:
    from typing import Literal

    from pydantic import BaseModel

    class Kind(BaseModel):
        kind: Literal["amber", "brisk"]

    parsed = client.chat.completions.parse(
        model="embedded", messages=MESSAGES, response_format=Kind, max_tokens=60
    )
    assert parsed.choices[0].message.parsed is not None
    told = client.responses.parse(
        model="embedded", input=SAY, text_format=Kind, max_output_tokens=60
    )
    assert told.output_parsed is not None and told.output_parsed.kind in ("amber", "brisk")


@pytest.mark.parametrize("seed", range(3))
def test_forced_calls_of_random_weights_are_complete(tooled: openai.OpenAI, seed: int) -> None:
    options: dict[str, Any] = {
        **{"model": "random-tools", "messages": MESSAGES, "tools": [WEATHER], "seed": seed},
        **{"tool_choice": "required", "max_tokens": 200, "temperature": 1.0},
    }
    (call,) = tooled.chat.completions.create(**options).choices[0].message.tool_calls or []
    assert call.function.name == "weather.now:v1"
    assert json.loads(call.function.arguments)["place"] in ("Oslo", "Rome")
    with tooled.chat.completions.stream(**options) as stream:
        kinds = [event.type for event in stream]
        done = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds and done.finish_reason == "tool_calls"
    assert done.message.tool_calls is not None
    assert done.message.tool_calls[0].function.arguments == call.function.arguments


def test_parallel_calls_of_random_weights(tooled: openai.OpenAI) -> None:
    """They end somewhere: a random model seldom ends by itself, so the last may be cut."""
    seen = []
    for seed in range(4):
        made = tooled.chat.completions.create(
            model="random-tools", messages=MESSAGES, tools=[WEATHER], tool_choice="required",
            parallel_tool_calls=True, max_tokens=300, temperature=1.0, seed=seed,
        ).choices[0]  # type: ignore[call-overload]  # fmt: skip
        calls = made.message.tool_calls
        whole = calls[:-1] if made.finish_reason == "length" else calls
        assert all(json.loads(each.function.arguments)["place"] for each in whole)
        assert len({each.id for each in calls}) == len(calls) and not made.message.content
        seen.append(len(whole))
    assert max(seen) >= 2


def test_responses_streamed_with_tools_and_gone_on_from(tooled: openai.OpenAI) -> None:
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    with tooled.responses.stream(
        model="random-tools", input=SAY, tools=[tool], tool_choice="required",
        max_output_tokens=200,
    ) as stream:  # type: ignore[arg-type]  # fmt: skip
        list(stream)
        first = stream.get_final_response()
    (call,) = first.output
    assert call.type == "function_call" and json.loads(call.arguments)["place"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    told = tooled.responses.create(
        model="random-tools", input=[output], previous_response_id=first.id,
        max_output_tokens=8, tools=[tool],
    )  # type: ignore[call-overload]  # fmt: skip
    assert told.output[0].type == "message" and told.usage.output_tokens == 8
    assert tooled.responses.retrieve(told.id).output_text == told.output_text


def test_several_titles_at_a_time(url: str) -> None:
    async def all_of_them() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", max_retries=0) as client:
            return await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="embedded", messages=MESSAGES, max_completion_tokens=6
                    )
                    for _ in range(12)
                )
            )

    texts = {answer.choices[0].message.content for answer in asyncio.run(all_of_them())}
    assert len(texts) == 1


def test_completions_models_and_what_is_not_there(client: openai.OpenAI) -> None:
    prompts = [f"{SAY} {n}" for n in range(40)]
    answer = client.completions.create(
        model="embedded", prompt=prompts, max_tokens=2, echo=True, logprobs=2
    )
    assert len(answer.choices) == 40
    top = answer.choices[0].logprobs.top_logprobs  # type: ignore[union-attr]
    assert top is not None and top[0] is None and all(len(row) >= 2 for row in top[1:])
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("embedded", "model", "longctx")
    assert model.created > 0
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="embedded", input="x")
    schema = {"type": "json_schema", "json_schema": {"name": "kind", "schema": KIND}}
    made = client.completions.create(
        model="embedded", prompt=SAY, max_tokens=60, extra_body={"response_format": schema}
    )
    assert json.loads(made.choices[0].text)["kind"] in ("amber", "brisk")
