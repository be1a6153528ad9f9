"""The local model behind the protocol: greedy, chunked, extended and put back, and proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longctx import local_target, models
from longctx.attention import resolve
from longctx.attention.hf import extend
from longctx.errors import UserError
from longctx.eval.target import Arm, Request
from longctx.local_target import UnprovenMethodError, input_device, local_arm, prove


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    source = models.locate(str(tiny_model))
    return models.load_model(source, models.load_config(source), torch.float32, "cpu")


def open_arm(model: Any, method: str, prefill_chunk: int = 2048, **numbers: Any) -> Arm:
    return local_arm(
        model,
        resolve(model.config, method, request_length=1024, **numbers),
        decode=lambda ids: " ".join(map(str, ids)),
        stop_ids=frozenset({2}),
        kernel="auto",
        prefill_chunk=prefill_chunk,
    )


def ids(count: int, model: Any) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    found: list[int] = torch.randint(
        3, model.config.vocab_size, (count,), generator=generator
    ).tolist()
    return found


def test_greedy_as_transformers_does_it(model: Any) -> None:
    prompt = ids(100, model)
    with open_arm(model, "none").open() as target:
        answer = target.generate(Request(prompt, 12, 100))
    expected = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 100, dtype=torch.long),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=2,
        pad_token_id=0,
    )[0, 100:].tolist()
    assert answer.text == " ".join(str(token) for token in expected if token != 2)
    assert answer.finish_reason == ("stop" if 2 in expected else "length")
    assert 0 < answer.ttft_s <= answer.total_s


def test_an_end_token_stops_and_is_not_part_of_the_answer(model: Any) -> None:
    prompt = ids(50, model)
    with open_arm(model, "none").open() as target:
        first = target.generate(Request(prompt, 1, 50))
        assert first.finish_reason == "length"
        target._stop_ids = frozenset({int(first.text)})  # type: ignore[attr-defined]
        stopped = target.generate(Request(prompt, 5, 50))
    assert (stopped.text, stopped.finish_reason) == ("", "stop")


@pytest.mark.parametrize("method", ["none", "yarn", "dca", "yarn+dca"])
def test_blocks_of_any_size_answer_alike(model: Any, method: str) -> None:
    prompt = ids(1000, model)
    answers = set()
    for chunk in (2048, 300, 64):
        with open_arm(model, method, chunk).open() as target:
            answers.add(target.generate(Request(prompt, 8, 1024)).text)
    assert len(answers) == 1


def test_methods_leave_no_trace(model: Any) -> None:
    prompt = ids(900, model)
    none = open_arm(model, "none")
    with none.open() as target:
        before = target.logprobs(prompt, request_length=900)
    with open_arm(model, "yarn+dca").open() as target:
        changed = target.logprobs(prompt, request_length=900)
    with none.open() as target:
        after = target.logprobs(prompt, request_length=900)
    assert np.array_equal(before, after)
    assert np.abs(before[600:] - changed[600:]).max() > 1e-3


def test_log_probabilities(model: Any) -> None:
    prompt = ids(700, model)  # more than one block
    with open_arm(model, "none").open() as target:
        found = target.logprobs(prompt, request_length=700)
    logits = model(torch.tensor([prompt])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[torch.arange(699), torch.tensor(prompt[1:])]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("method", ["pi", "ntk", "yarn", "dca", "yarn+dca", "yarn-freqs+dca"])
def test_every_method_is_proved(model: Any, method: str) -> None:
    arm = open_arm(model, method)
    assert arm.proof["verified"], arm.proof
    assert arm.scheme["method"] == method
    assert arm.backend
    if method in ("dca", "yarn+dca"):
        assert arm.proof["short_change"] < 1e-5


def test_a_silent_no_op_does_not_pass(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        local_target, "_extend", lambda model, scheme, kernel: extend(model, "none")
    )
    with pytest.raises(UnprovenMethodError, match="--methods dca: it is not at work"):
        prove(model, resolve(model.config, "dca"), "auto")


def test_a_method_that_changes_short_prompts_does_not_pass(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        local_target, "_extend", lambda model, scheme, kernel: extend(model, "pi", factor=8.0)
    )
    with pytest.raises(UnprovenMethodError, match="within one chunk it must not"):
        prove(model, resolve(model.config, "dca"), "auto")


def test_the_proof_puts_the_model_back(model: Any) -> None:
    layers = model.config.num_hidden_layers
    prove(model, resolve(model.config, "dca"), "auto")
    assert model.config.num_hidden_layers == layers == len(model.base_model.layers)
    with extend(model, "dca"):
        pass  # extending twice would raise


@pytest.mark.parametrize("method", ["yarn", "dca", "yarn+dca", "yarn-freqs+dca"])
def test_the_scheme_that_was_settled_is_the_scheme_that_runs(model: Any, method: str) -> None:
    """Also where L0 of the temperature is the chunk and the ramp's is the trained window."""
    for numbers in ({}, {"original_length": 300}):
        scheme = resolve(model.config, method, request_length=1024, **numbers)
        with local_target._extend(model, scheme, "auto") as handle:
            assert handle.scheme == scheme


def test_what_cannot_be_extended_is_a_user_error(model: Any) -> None:
    scheme = resolve(model.config, "dca")
    with pytest.raises(UserError, match=r"--methods dca: .*no-such-kernel"):
        local_arm(
            model,
            scheme,
            decode=str,
            stop_ids=frozenset(),
            kernel="no-such-kernel",
            prefill_chunk=8,
        )


def test_the_device_of_an_offloaded_model(model: Any) -> None:
    assert input_device(model) == torch.device("cpu")


def test_blocks_in_bfloat16(model: Any, tiny_model: Path) -> None:
    source = models.locate(str(tiny_model))
    half = models.load_model(source, models.load_config(source), torch.bfloat16, "cpu")
    prompt = ids(1000, half)
    for method in ("none", "yarn", "dca", "yarn+dca"):
        with open_arm(half, method, 100).open() as target:
            assert target.generate(Request(prompt, 2, 1024)).text
