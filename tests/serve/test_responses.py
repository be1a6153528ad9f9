"""/v1/responses with the official client: created, streamed, gone on from; tools and schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serve_fakes import QWEN25
from serve_helpers import CHAT, Served, long_text, served

from longctx.serve.response_store import ResponseStore
from longctx.serve.settings import Limits

PATH = "/v1/responses"
ASK = "Say something about the special number."
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather.now",
    "description": "The weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"enum": ["Oslo", "Rome"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def tooled() -> Iterator[Served]:
    def with_template(load: Any) -> Any:
        loaded = load()
        loaded.tokenizer.chat_template = QWEN25
        return loaded

    with served(with_template) as server:
        assert server.service.loaded.wait(60)
        yield server


def create(client: openai.OpenAI, **options: Any) -> Any:
    return client.responses.create(
        **{"model": "embedded", "input": ASK, "max_output_tokens": 12, **options}
    )


def test_a_response_is_the_answer_that_a_chat_gets(client: openai.OpenAI, server: Served) -> None:
    made = create(client, instructions="Be brief.", metadata={"a": "b"})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]
    chat = server.call(CHAT, {"messages": messages, "max_tokens": 12})[2]
    assert made.output_text == chat["choices"][0]["message"]["content"]
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.usage.input_tokens == chat["usage"]["prompt_tokens"]
    assert (
        made.usage.output_tokens == 12 and made.usage.total_tokens == chat["usage"]["total_tokens"]
    )
    (message,) = made.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "incomplete")
    assert made.metadata == {"a": "b"} and made.error is None


def test_a_stream_tells_the_same_in_events(client: openai.OpenAI) -> None:
    whole = create(client)
    events = list(create(client, stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    kinds = [each.type for each in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    said = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    assert said == whole.output_text == events[-1].response.output_text
    assert events[-4].text == said
    assert events[-1].response.usage.output_tokens == 12
    assert client.responses.retrieve(events[-1].response.id).output_text == said


def test_the_clients_own_accumulator_understands_a_stream(tooled: Served) -> None:
    with (
        tooled.client() as client,
        client.responses.stream(
            model="embedded", input=ASK, tools=[WEATHER], tool_choice="required",
            max_output_tokens=100,
        ) as stream,
    ):  # type: ignore[arg-type]  # fmt: skip
        list(stream)
        done = stream.get_final_response()
    (call,) = done.output
    assert call.type == "function_call" and call.name == "weather.now"
    assert json.loads(call.arguments)["place"] in ("Oslo", "Rome")
    assert done.status == "completed" and call.status == "completed"


def test_arguments_come_piece_by_piece(tooled: Served) -> None:
    with tooled.client() as client:
        events = list(
            create(client, tools=[WEATHER], tool_choice={"type": "function", "name": "weather.now"},
                   max_output_tokens=100, stream=True)
        )  # fmt: skip
    deltas = [
        each.delta for each in events if each.type == "response.function_call_arguments.delta"
    ]
    (done,) = [each for each in events if each.type == "response.function_call_arguments.done"]
    assert len(deltas) > 2 and "".join(deltas) == done.arguments
    assert done.item_id == events[-1].response.output[0].id


def test_a_conversation_goes_on_from_a_response(tooled: Served) -> None:
    with tooled.client() as client:
        first = create(
            client, instructions="Be brief.", tools=[WEATHER], tool_choice="required",
            max_output_tokens=100,
        )  # fmt: skip
        (call,) = first.output
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
        told = create(client, input=[output], previous_response_id=first.id, tools=[WEATHER])
        assert told.previous_response_id == first.id
        messages = [
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": call.call_id, "type": "function",
                 "function": {"name": call.name, "arguments": call.arguments}}]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "Rain."},
        ]  # fmt: skip
        chat_tool = {key: value for key, value in WEATHER.items() if key not in ("type", "strict")}
        sent = {"messages": messages, "tools": [{"type": "function", "function": chat_tool}],
                "max_tokens": 12}  # fmt: skip
        assert told.output_text == tooled.call(CHAT, sent)[2]["choices"][0]["message"]["content"]
        # The same by hand, as clients do that keep no state: reasoning of other models is no text.
        by_hand = [
            {"role": "user", "content": [{"type": "input_text", "text": ASK}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            call.model_dump(exclude_none=True),
            output,
        ]
        assert create(client, input=by_hand, tools=[WEATHER]).output_text == told.output_text
        again = create(
            client, previous_response_id=told.id, tools=[WEATHER],
            input=[{"type": "item_reference", "id": told.output[0].id},
                   {"role": "user", "content": "And now?"}],
        )  # fmt: skip
        assert again.usage.input_tokens > told.usage.input_tokens


def test_a_forced_call_that_is_cut_off_is_incomplete(tooled: Served) -> None:
    with tooled.client() as client:
        made = create(client, tools=[WEATHER], tool_choice="required", max_output_tokens=27)
    (call,) = made.output
    assert (made.status, call.status) == ("incomplete", "incomplete")
    assert call.name == "weather.now" and '{"place": "Oslo"}'.startswith(call.arguments)


def test_a_schema_and_log_probabilities(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["amber", "brisk"]}},
        "required": ["kind"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "kind", "schema": schema, "strict": True}
    made = create(
        client, text={"format": form}, max_output_tokens=60, top_logprobs=2,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    assert json.loads(made.output_text)["kind"] in ("amber", "brisk")
    entries = made.output[0].content[0].logprobs
    assert "".join(entry.token for entry in entries).startswith('{"kind": "')
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


def test_what_is_deleted_or_not_stored_cannot_be_gone_on_from(
    client: openai.OpenAI, server: Served
) -> None:
    kept, passing = create(client), create(client, store=False)
    client.responses.delete(kept.id)
    for id in (kept.id, passing.id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(id)
        status, error = server.error(PATH, {"input": "x", "previous_response_id": id})
        assert (status, error["code"]) == (400, "previous_response_not_found")


def test_progress_comes_behind_the_beginning(client: openai.OpenAI) -> None:
    events = list(
        create(client, input=long_text(2000, seed=9), stream=True,
               extra_body={"return_progress": True})
    )  # fmt: skip
    kinds = [each.type for each in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.prompt_progress"]
    assert kinds.count("response.prompt_progress") >= 3


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"n": 2}, "invalid_value", "n"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [{"type": "computer_call"}]}, "invalid_value", "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "invalid_value", "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "invalid_value", "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
         "invalid_value", "input"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "invalid_value",
         "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
         "invalid_json_schema", "text.format"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
        ({"max_output_tokens": 99999}, "context_length_exceeded", "input"),
        ({"top_logprobs": 99}, "invalid_value", "top_logprobs"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_name(
    server: Served, options: dict[str, Any], code: str, param: str
) -> None:
    status, error = server.error(PATH, {"input": "x", "max_output_tokens": 2, **options})
    assert (status, error["code"], error["param"]) == (400, code, param), error


def test_an_error_in_a_stream_is_an_event(server: Served, monkeypatch: Any) -> None:
    engine = server.service.engine
    forward = engine._runner.forward

    def failing(*arguments: Any) -> Any:
        monkeypatch.setattr(engine._runner, "forward", forward)
        logits = forward(*arguments)
        logits.fill_(float("nan"))
        return logits

    monkeypatch.setattr(engine._runner, "forward", failing)
    with server.client() as client:
        events = list(client.responses.create(model="embedded", input=ASK, stream=True))
    assert [each.type for each in events[-2:]] == ["error", "response.failed"]
    assert events[-2].code == "logits_not_finite"
    assert events[-1].response.status == "failed"


def test_the_store_is_bounded_by_number_and_by_size() -> None:
    store = ResponseStore(3, 1000)
    for at in range(5):
        store.put({"id": f"r{at}"}, [{"role": "user", "content": "x" * 100}])
    assert len(store) == 3 and store.get("r1") is None and store.get("r2") is not None
    store.put({"id": "big"}, [{"content": "x" * 800}])
    assert store.get("big") is not None and store.size <= 1000
    assert store.get("r2") is None or len(store) <= 2
    store.put({"id": "huge"}, [{"content": "x" * 2000}])
    assert store.get("huge") is None and store.get("big") is not None
    assert store.delete("big") and not store.delete("big")
    assert store.size == sum(
        held.size for id in ("r2", "r3", "r4") if (held := store.get(id)) is not None
    )


def test_what_a_server_keeps_is_bounded() -> None:
    with served(limits=Limits(max_responses=2)) as server:
        ids = [server.call(PATH, {"input": "x", "max_output_tokens": 1})[2]["id"] for _ in range(3)]
        assert [server.call(f"{PATH}/{id}")[0] for id in ids] == [404, 200, 200]


def test_embeddings_are_a_clear_404(server: Served) -> None:
    status, error = server.error("/v1/embeddings", {"input": "x"})
    assert (status, error["code"]) == (404, "not_found") and "/v1/embeddings" in error["message"]


def test_the_tokenizer_tells_what_a_client_needs_of_it(server: Served) -> None:
    status, _, told = server.call("/tokenizer_info")
    assert status == 200 and told["eos_token"] == server.service.tokenizer.eos_token
    assert told["chat_template"] == server.service.tokenizer.chat_template
