"""Fields of other servers' clients: each has its effect, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from schemas import thing
from serve_helpers import CHAT, HELLO, Served, body

TEXT = "/v1/completions"
PROMPT = "The special magic number for amber-anchor is"


def complete(server: Served, **options: Any) -> dict[str, Any]:
    status, headers, answer = server.call(
        TEXT, {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, **options}
    )
    assert status == 200, answer
    assert "x-longctx-ignored-fields" not in headers
    found: dict[str, Any] = answer["choices"][0]
    return found


def ids_of(server: Served, text: str) -> list[int]:
    ids: list[int] = server.call("/tokenize", {"prompt": text, "add_special_tokens": False})[2][
        "tokens"
    ]
    return ids


def test_a_bias_keeps_a_token_away_and_another_brings_one(server: Served) -> None:
    plain = complete(server, logprobs=0)
    first = plain["logprobs"]["tokens"][0]
    (token,) = ids_of(server, first)
    without = complete(server, logprobs=0, logit_bias={str(token): -100})
    assert without["logprobs"]["tokens"][0] != first
    (wanted,) = ids_of(server, "z")
    brought = complete(server, max_tokens=3, logit_bias={str(wanted): 100})
    assert brought["text"] == "zzz"


def test_an_end_of_ones_own_ends_the_answer_and_is_not_in_it(server: Served) -> None:
    plain = complete(server, logprobs=0, max_tokens=6)
    third = plain["logprobs"]["tokens"][2]
    (token,) = ids_of(server, third)
    ended = complete(server, stop_token_ids=[token], max_tokens=6)
    assert ended["finish_reason"] == "stop"
    assert ended["text"] == "".join(plain["logprobs"]["tokens"][:2])


@pytest.mark.parametrize("stop", ["ids", "strings", "eos"])
def test_nothing_ends_an_answer_before_its_least_length(server: Served, stop: str) -> None:
    plain = complete(server, logprobs=0, max_tokens=6)
    first = plain["logprobs"]["tokens"][0]
    if stop == "ids":
        options: dict[str, Any] = {"stop_token_ids": ids_of(server, first)}
    elif stop == "strings":
        options = {"stop": [first]}
    else:  # nothing but an end is likely
        options = {"logit_bias": {str(server.service.tokenizer.eos_token_id): 100}}

    def length(**more: Any) -> int:
        asked = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, **options, **more}
        count: int = server.call(TEXT, asked)[2]["usage"]["completion_tokens"]
        return count

    assert length() == 1 and length(min_tokens=3) >= 4


def test_a_choice_a_pattern_and_a_schema_are_kept_to(server: Served) -> None:
    choices = ["amber or (brisk)", 'a "b"', "c|d"]
    for prefix in ("guided_", "structured_outputs"):

        def held(name: str, value: Any, prefix: str = prefix) -> dict[str, Any]:
            return {prefix + name: value} if prefix == "guided_" else {prefix: {name: value}}

        options: dict[str, Any] = {"max_tokens": 60, "temperature": 1.5, "seed": 3}
        chosen = complete(server, **options, **held("choice", choices))
        assert chosen["text"] in choices and chosen["finish_reason"] == "stop"
        spelled = complete(server, **options, **held("regex", "[ab]{3}/[0-9]{2}"))
        assert spelled["text"][3] == "/" and set(spelled["text"][:3]) <= {"a", "b"}
        assert spelled["text"][4:].isdigit() and len(spelled["text"]) == 6
        schema = thing("kind", {"enum": ["amber"]})
        for given in (schema, json.dumps(schema)):
            made = complete(server, **options, **held("json", given))
            assert json.loads(made["text"]) == {"kind": "amber"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(complete(server, max_tokens=60, response_format=form)["text"]) == {
        "kind": "amber"
    }


def test_a_chat_takes_a_choice_as_well(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="embedded",
        messages=HELLO,  # type: ignore[arg-type]
        extra_body={"guided_choice": ["positive", "negative"]},
    )
    assert answer.choices[0].message.content in ("positive", "negative")


def test_an_answer_goes_on_where_the_clients_text_ends(server: Served) -> None:
    begun = "The special magic number for amber-anchor mentioned"
    messages = [*HELLO, {"role": "assistant", "content": begun}]
    asked = {"messages": messages, "max_tokens": 6, "continue_final_message": True}
    status, _, answer = server.call(CHAT, asked)
    assert status == 200
    ids = server.service.renderer.encode(messages, continue_final=True)
    same = server.call(TEXT, {"prompt": ids, "max_tokens": 6})[2]["choices"][0]["text"]
    assert answer["choices"][0]["message"]["content"] == same
    closed = server.call(CHAT, {**asked, "continue_final_message": False})[2]
    assert closed["usage"]["prompt_tokens"] > answer["usage"]["prompt_tokens"]


def test_what_a_template_does_not_look_at_is_named(server: Served) -> None:
    sent = body(chat_template_kwargs={"enable_thinking": True})
    status, headers, _ = server.call(CHAT, sent)
    assert status == 200
    assert headers["x-longctx-ignored-fields"] == "chat_template_kwargs.enable_thinking"


UNBUILT = {
    "best_of": 2,
    "use_beam_search": True,
    "length_penalty": 0.5,
    "typical_p": 0.4,
    "repeat_penalty": 1.1,
    "mirostat": 2,
    "bad_words": ["x"],
    "allowed_token_ids": [1],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "truncate_prompt_tokens": 4,
    "prompt_logprobs": 3,
    "guided_grammar": "root ::= x",
    "grammar": "root ::= x",
}


@pytest.mark.parametrize("name", [*UNBUILT, "suffix"])
def test_what_would_change_the_answer_and_is_not_built_is_refused(
    server: Served, name: str
) -> None:
    value = {**UNBUILT, "suffix": "x"}[name]
    sent = {"prompt": PROMPT, "max_tokens": 1, name: value}
    status, error = server.error(TEXT, sent)
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert error["message"].startswith(f"{name} is not supported: ")
    if name != "suffix":
        assert server.error(CHAT, body(**{name: value}))[1]["param"] == name


@pytest.mark.parametrize("name", ["chat_template", "documents", "echo", "add_special_tokens"])
def test_a_chat_refuses_what_would_change_its_prompt(server: Served, name: str) -> None:
    value = {"chat_template": "{{ x }}", "documents": [{"text": "x"}]}.get(name, True)
    status, error = server.error(CHAT, body(**{name: value}))
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", name)


def test_a_part_of_an_object_is_refused_by_its_whole_name(server: Served) -> None:
    status, error = server.error(CHAT, body(structured_outputs={"grammar": "root ::= x"}))
    assert (status, error["param"]) == (400, "structured_outputs.grammar")


def test_values_that_ask_for_nothing_are_taken_and_not_told(server: Served) -> None:
    neutral = {
        **{"best_of": 1, "suffix": "", "use_beam_search": False, "length_penalty": 1.0},
        **{"bad_words": [], "documents": [], "guided_grammar": None, "skip_special_tokens": True},
        **{"stream_options": None, "logit_bias": {}, "tools": [], "functions": None},
    }
    status, headers, _ = server.call(CHAT, body(**{**neutral, "suffix": None}))
    assert status == 200 and headers.get("x-longctx-ignored-fields") == "suffix"
    complete(server, **{n: v for n, v in neutral.items() if n not in ("documents", "tools",
                                                                      "functions")})  # fmt: skip


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids are whole numbers"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"1": True}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "1025 token ids given"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "logit_bias holds 999999"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids", "at most 64"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0", "greater than"),
        ({"min_tokens": 9}, "min_tokens", "more than the 4 of the answer"),
        ({"min_tokens": 1, "guided_regex": "a"}, "min_tokens", "ends where it is complete"),
        ({"guided_choice": []}, "guided_choice", "is empty"),
        ({"guided_json": "nonsense"}, "guided_json", "no JSON schema"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex", "give one"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex",
         "give one"),
        ({"guided_choice": ["x" * 70000]}, "guided_choice", "at most 65536"),
        ({"guided_regex": "(?=a)b"}, "guided_regex",
         "guided_regex cannot be compiled: a pattern cannot be read: look-around"),
        ({"chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs", "'tools' is nothing"),
        ({"continue_final_message": True}, "continue_final_message", "must be an assistant's"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message",
         "give one of them"),
        ({"functions": [], "tools": []}, "functions", "give one form"),
        ({"messages": [{"role": "function", "name": "x", "content": "y"}]}, "messages",
         "no call of that function before it"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_name(
    server: Served, options: dict[str, Any], param: str, words: str
) -> None:
    status, error = server.error(CHAT, body(**options))
    assert (status, error["param"]) == (400, param) and words in error["message"], error
