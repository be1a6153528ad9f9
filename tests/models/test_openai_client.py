"""Endpoints that misbehave: what is asked again, what fails, what ends a run. On the loopback."""

from __future__ import annotations

import datetime
import email.utils
import json
from typing import Any

import pytest
from scripted_server import Reply, Script, error, first, reads, serving, whole

from longctx.chat.encoder import Conversation
from longctx.eval.protocol import Completion, ContextOverflowError, Request, TargetLostError
from longctx.eval.scoring import judge
from longctx.models.openai_client import ATTEMPTS, LOST_AFTER, EndpointError, EndpointSession
from longctx.models.openai_wire import Api, seconds_of

pytestmark = pytest.mark.usefixtures("no_proxy_and_no_key")

QUESTION = Request([1, 2, 3], 8, 512, Conversation("the number is 1234567", "be brief"))


def ask(
    script: Script,
    *,
    api: Api = "chat",
    times: int = 1,
    timeout: float = 5.0,
    key: str | None = None,
) -> tuple[list[Completion | Exception], list[float], Any]:
    """What `times` requests bring, the pauses that were made, and the server."""
    pauses: list[float] = []
    got: list[Completion | Exception] = []
    with serving(script) as server:
        target = EndpointSession(
            server.url, "m", api, {}, key=key, timeout=timeout, pause=pauses.append
        )
        with target:
            for _ in range(times):
                try:
                    got.append(target.generate(QUESTION))
                except (EndpointError, ContextOverflowError, TargetLostError) as problem:
                    got.append(problem)
    return got, pauses, server


def test_a_question_is_greedy_and_says_so() -> None:
    ((answer,), _, server) = ask(first([]))
    assert isinstance(answer, Completion)
    assert (answer.text, answer.finish_reason) == ("It is 1234567.", "stop")
    assert 0 < answer.ttft_s <= answer.total_s
    (body,) = server.asked
    assert body["temperature"] == 0 and body["repetition_penalty"] == 1 and body["seed"] == 0
    assert (body["model"], body["max_tokens"]) == ("m", 8)
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert server.paths == ["/v1/chat/completions"]
    assert "authorization" not in server.headers[0]


def test_completions_send_our_ids() -> None:
    reply = {"choices": [{"text": "1234567", "finish_reason": "length"}]}
    script: Script = lambda number, body: Reply(body=json.dumps(reply).encode())  # noqa: E731
    ((answer,), _, server) = ask(script, api="completions")
    assert isinstance(answer, Completion)
    assert (answer.text, answer.finish_reason) == ("1234567", "length")
    assert server.asked[0]["prompt"] == [1, 2, 3]
    assert server.paths == ["/v1/completions"]


def test_an_answer_in_one_piece_is_read_too() -> None:
    ((answer,), *_) = ask(lambda *_: Reply("It is 1234567.", stream=False, prompt_tokens=3))
    assert isinstance(answer, Completion)
    assert (answer.text, answer.prompt_tokens) == ("It is 1234567.", 3)


def test_a_count_that_is_no_number_is_no_count() -> None:
    reply = {"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}]}
    content = json.dumps({**reply, "usage": {"prompt_tokens": "3"}}).encode()
    ((answer,), *_) = ask(lambda *_: Reply(body=content))
    assert isinstance(answer, Completion)
    assert (answer.text, answer.prompt_tokens) == ("7", None)


TROUBLE = {
    "too many": error(429, "slow down"),
    "broken": error(500, "oops"),
    "overloaded": error(503, "loading"),
    "no JSON": Reply(body=b"<html>bad gateway</html>"),
    "not the protocol": Reply(body=b'{"choices": ["what"]}'),
    "a list": Reply(body=b"[1]"),
    "no choices": Reply(body=b'{"id": "x"}'),
    "no end": Reply("It is 12", finish_reason=None),
    "no end in one piece": Reply("It is 12", finish_reason=None, stream=False),
    "cut stream": Reply("It is 1234567.", cut=True),
    "cut body": Reply("It is 1234567.", cut=True, stream=False),
    "error in the stream": Reply(
        body=b'data: {"error": {"message": "out of memory"}}\n\n',
        headers={"content-type": "text/event-stream"},
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_asked_again_and_then_an_error(name: str) -> None:
    (got, pauses, server) = ask(first([TROUBLE[name]]))
    assert isinstance(got[0], Completion) and got[0].text == "It is 1234567."
    assert len(server.asked) == 2 and len(pauses) == 1
    (got, pauses, server) = ask(lambda *_: TROUBLE[name])
    assert isinstance(got[0], EndpointError)
    assert f"({ATTEMPTS} attempts)" in str(got[0])
    assert len(server.asked) == ATTEMPTS
    # Each at least half of its doubling second, so that it grows whatever chance says.
    assert [2 ** (k - 1) <= pause <= 2**k for k, pause in enumerate(pauses)] == [True] * 4


def test_retry_after_is_honoured() -> None:
    (got, pauses, _) = ask(first([error(429, "slow down", retry_after="7")]))
    assert isinstance(got[0], Completion)
    assert 7 <= pauses[0] <= 7.7
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    assert 25 < (seconds_of(email.utils.format_datetime(soon)) or 0) <= 30
    assert (seconds_of("0"), seconds_of("soon"), seconds_of(None)) == (0, None, None)
    (got, pauses, server) = ask(lambda *_: error(429, "tomorrow", retry_after="86400"))
    assert isinstance(got[0], TargetLostError) and "come back in 86400 s" in str(got[0])
    assert (pauses, len(server.asked)) == ([], 1)


def test_a_server_that_hangs_is_asked_twice() -> None:
    (got, _, server) = ask(lambda *_: Reply("1234567", hang_s=0.6), timeout=0.2)
    assert isinstance(got[0], EndpointError) and "within 0.2 s (2 attempts)" in str(got[0])
    assert len(server.asked) == 2


def test_a_server_that_is_not_there() -> None:
    with serving(first([])) as server:
        url = server.url
    target = EndpointSession(url, "m", "chat", {}, key=None, timeout=2, pause=lambda _: None)
    with target:
        with pytest.raises(EndpointError, match=f"connection: .*{ATTEMPTS} attempts"):
            target.generate(QUESTION)
        with pytest.raises(EndpointError):
            target.generate(QUESTION)
        with pytest.raises(TargetLostError, match=f"{LOST_AFTER} cells in a row failed"):
            target.generate(QUESTION)


def test_one_answer_ends_a_row_of_failures() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return reads(body) if number == 2 * ATTEMPTS else error(500, "oops")

    (got, *_) = ask(script, times=6)
    kinds = [type(one) for one in got]
    assert kinds == [
        *(EndpointError, EndpointError, Completion),
        *(EndpointError, EndpointError, TargetLostError),
    ]


TOO_LONG = (
    error(400, "This model's maximum context length is 4096 tokens.", "context_length_exceeded"),
    error(400, "the request exceeds the available context size, try increasing it"),
    error(400, "x", "exceed_context_size_error"),
    error(422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048"),
    error(400, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
)


@pytest.mark.parametrize("reply", TOO_LONG)
def test_too_long_is_a_finding(reply: Reply) -> None:
    (got, pauses, server) = ask(lambda *_: reply, times=5)
    assert {type(one) for one in got} == {ContextOverflowError}
    assert (pauses, len(server.asked)) == ([], 5)


def test_a_server_that_cuts_prompts_in_silence_is_found_out() -> None:
    request = Request(list(range(1000)), 8, 1032, Conversation("x"))
    with serving(lambda *_: Reply("I do not know.", prompt_tokens=512)) as server:
        target = EndpointSession(server.url, "m", "chat", {}, key=None, timeout=5)
        with target, pytest.raises(ContextOverflowError, match="read 512 of 1000 tokens"):
            target.generate(request)


REFUSED = (error(401, "bad key sk-secret"), error(404, "no such model"), error(403, "no"))


@pytest.mark.parametrize("reply", [*REFUSED, error(429, "pay", "insufficient_quota")])
def test_refused_for_good_ends_the_run(reply: Reply) -> None:
    (got, _, server) = ask(lambda *_: reply, key="sk-secret")
    assert isinstance(got[0], TargetLostError)
    assert "sk-secret" not in str(got[0])
    assert len(server.asked) == 1
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


def test_a_bad_request_is_an_error_and_not_asked_again() -> None:
    (got, _, server) = ask(lambda *_: error(400, "temperature must be 1"))
    assert isinstance(got[0], EndpointError) and "temperature must be 1" in str(got[0])
    assert len(server.asked) == 1


def test_fields_that_a_server_refuses_are_left_out() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        for name in ("repetition_penalty", "seed", "stream_options"):
            if name in body:
                return error(400, f"Unrecognized request argument supplied: {name}")
        if "max_tokens" in body:
            return error(400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
        assert body["max_completion_tokens"] == 8
        return reads(body)

    (got, pauses, server) = ask(script, times=2)
    assert [type(one) for one in got] == [Completion] * 2
    assert (pauses, len(server.asked)) == ([], 6)


def test_refusals_and_filters_are_answers() -> None:
    (got, *_) = ask(lambda *_: Reply(refusal="I cannot help.", finish_reason="content_filter"))
    assert isinstance(got[0], Completion)
    assert (got[0].text, got[0].finish_reason) == ("I cannot help.", "content_filter")
    assert judge(got[0].text, ["1234567"], got[0].finish_reason).status == "miss"
    (got, *_) = ask(lambda *_: error(400, "filtered", "content_filter"))
    assert isinstance(got[0], Completion)
    assert (got[0].text, got[0].finish_reason) == ("", "content_filter")


def test_thinking_is_kept_and_not_scored() -> None:
    (got, *_) = ask(lambda *_: Reply("It is 7.", reasoning="1234567?"))
    assert isinstance(got[0], Completion)
    assert got[0].text == "<think>1234567?</think>It is 7."
    assert judge(got[0].text, ["1234567"], "stop").status == "miss"
    (got, *_) = ask(lambda *_: Reply(reasoning="1234567?", finish_reason="length"))
    assert isinstance(got[0], Completion)
    assert judge(got[0].text, ["1234567"], "length").status == "truncated_output"


# The command


def test_the_fake_keeps_to_the_protocol() -> None:
    """The official client reads what the scripted server sends."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    said = [{"role": "user", "content": "1234567"}]
    with (
        serving(lambda n, body: reads(body)) as server,
        openai.OpenAI(base_url=server.url, api_key="x") as client,
    ):
        stream = client.chat.completions.create(model="m", messages=said, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "It is 1234567."
    assert whole(Reply("a"))["choices"][0]["message"]["content"] == "a"
