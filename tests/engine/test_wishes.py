"""What a request may ask of its tokens: likeliest ones, biases, a least length, grammars."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, prompt_of, run

from longctx.engine import EngineRequest, Sampling
from longctx.engine.detokenize import Detokenizer
from longctx.errors import UserError
from longctx.grammar.forms import Grammar, choice, repeated


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.build()


def test_the_likeliest_tokens_of_a_prompt_are_the_models(model: Any) -> None:
    """Over several chunks, and the chosen one's log-probability is the very number among them."""
    prompt = prompt_of(50)
    request = EngineRequest(prompt, max_new_tokens=0, prompt_logprobs=True, prompt_top_logprobs=3)
    with engine_for(model, chunk_budget=16) as engine:
        (answer,) = run(engine, request)
    with torch.no_grad():
        want = torch.log_softmax(model(torch.tensor([prompt])).logits[0].double(), -1)
    assert answer.prompt_top is not None and answer.prompt_logprobs is not None
    assert len(answer.prompt_top) == 49
    for row, (top, logprob) in enumerate(
        zip(answer.prompt_top, answer.prompt_logprobs, strict=True)
    ):
        values, ids = want[row].topk(3)
        assert [token for token, _ in top] == ids.tolist()
        assert [each for _, each in top] == pytest.approx(values.tolist(), abs=1e-4)
        for token, each in top:
            assert token != prompt[row + 1] or each == logprob


def test_a_bias_moves_one_row_and_no_other(model: Any) -> None:
    prompt = prompt_of(20)
    plain = EngineRequest(prompt, max_new_tokens=4)
    brought = Sampling(logit_bias=((7, 100.0),))
    with engine_for(model) as engine:
        (alone,) = run(engine, plain)
        kept_away = Sampling(logit_bias=((alone.token_ids[0], -100.0),))
        same, seven, other = run(
            engine,
            plain,
            EngineRequest(prompt, max_new_tokens=4, sampling=brought, logprobs=True),
            EngineRequest(prompt, max_new_tokens=4, sampling=kept_away),
        )
    assert same.token_ids == alone.token_ids
    assert seven.token_ids == (7, 7, 7, 7) and other.token_ids[0] != alone.token_ids[0]
    assert seven.logprobs[0].logprob < -0.01  # the model's own, without the bias


def test_no_stop_id_is_drawn_before_the_least_length(model: Any) -> None:
    prompt = prompt_of(20)
    with engine_for(model) as engine:
        (plain,) = run(engine, EngineRequest(prompt, max_new_tokens=8))
        stop = frozenset(plain.token_ids[:1])
        (short, late) = run(
            engine,
            EngineRequest(prompt, max_new_tokens=8, stop_ids=stop),
            EngineRequest(prompt, max_new_tokens=8, stop_ids=stop, min_new_tokens=5),
        )
    assert len(short.token_ids) == 1
    assert len(late.token_ids) >= 6 or late.finish_reason == "length"
    assert not stop & set(late.token_ids[:5])


def test_a_stop_string_counts_from_the_least_length_on() -> None:
    detokenizer = Detokenizer(lambda ids: bytes(ids).decode(), ["ab"], stops_after=4)
    texts = [detokenizer.push(byte) for byte in b"ababxab"[:6]]
    assert "".join(texts) == "ababx" and detokenizer.stopped is None
    assert detokenizer.push(ord("b")) == "" and detokenizer.stopped == "ab"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_top_logprobs": 2}, "prompt_top_logprobs=2 needs prompt_logprobs=True"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens=9 must be at least 0 and at"),
        ({"min_new_tokens": -1}, "min_new_tokens=-1 must be at least 0"),
        ({"min_new_tokens": 1, "json_schema": {}}, "ends where it is complete"),
    ],
)
def test_wishes_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EngineRequest([1], **options)


def test_biases_that_make_no_sense(model: Any) -> None:
    with pytest.raises(UserError, match=r"logit_bias=101\.0 must be at least -100 and at most 100"):
        Sampling(logit_bias=((1, 101.0),))
    with engine_for(model) as engine:
        sampling = Sampling(logit_bias=((97, 1.0),))
        with pytest.raises(UserError, match="logit_bias holds 97: ids of this model are 0 to 96"):
            engine.submit(EngineRequest([1], sampling=sampling))


def test_grammars_are_what_they_say() -> None:
    assert choice(["a|b", "c."], "x") == Grammar("regex", r"a\|b|c\.", "x")
    one = repeated({"type": "object"}, "]", "[", 1, {}, "x")
    several = repeated({"type": "object"}, "\n]", "\n[", 3, {}, "x")
    assert one.text.startswith("start: value\n") and "OPENING" not in one.text
    assert several.text.startswith("start: value (CLOSING OPENING value){0,2} CLOSING?\n")
