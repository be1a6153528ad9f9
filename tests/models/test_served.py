"""The local model through the engine: what is measured is what is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from engine_helpers import CHUNKS, expected, prompt_of, scheme_of

from longctx.attention import METHODS, active, extend, kernels
from longctx.engine import NonFiniteLogitsError
from longctx.eval.protocol import Completion, ContextOverflowError, Request, TargetLostError
from longctx.models import served
from longctx.models.plain import PlainSession
from longctx.models.proof import UnprovenMethodError
from longctx.models.schemes import temperature_at
from longctx.models.served import Asking, ServedSession, sessions_for

AUTO = kernels.auto(torch.device("cpu"), torch.float32).name


class Ids:
    eos_token_id = None

    def __len__(self) -> int:
        return 97

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(f"{n}," for n in ids)


def session_of(model: Any, method: str, **asking: Any) -> ServedSession:
    given = {"kernel": "auto", "longest": 400, "prefill_chunk": 64, **asking}
    return ServedSession(model, Ids(), scheme_of(model, method), Asking(**given))


def test_a_cell_is_answered_at_its_nominal_length() -> None:
    model = tiny_models.build()
    prompt = prompt_of(64)  # 32 * 2: its own bucket's edge
    asked = session_of(model, "yarn+dca")
    assert asked.method == "yarn+dca" and asked.backend == AUTO and active(model) is None
    with asked as session:
        for cached in (0, 63):
            completion = session.generate(Request(prompt, 5, request_length=64))
            assert (completion.finish_reason, completion.cached_tokens) == ("length", cached)
            assert 0 < completion.ttft_s <= completion.total_s
        texts = {
            length: session.generate(Request(prompt, 5, request_length=length)).text
            for length in (64, 128)
        }
    assert texts[64] == Ids().decode(list(expected(model, "yarn+dca", prompt, 5)))
    with extend(model, "yarn+dca", request_length=128, **CHUNKS):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
    assert texts[128] == Ids().decode(out[0, 64:].tolist())


def test_logprobs_are_those_of_the_drop_in() -> None:
    model = tiny_models.build()
    ids = prompt_of(300)
    with session_of(model, "dca") as session:
        found = session.logprobs(ids, request_length=300)
        assert session.logprobs([1], request_length=1).shape == (0,)
    with extend(model, "dca", **CHUNKS), torch.no_grad():
        want = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    want = want[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    assert np.abs(found - want.numpy()).max() < 1e-3


def test_what_does_not_fit_is_an_overflow() -> None:
    with (
        session_of(tiny_models.build(), "dca") as session,
        pytest.raises(ContextOverflowError, match="the context is 400"),
    ):
        session.generate(Request(prompt_of(399), 5, request_length=399))


def column(length: int = 300, cells: int = 5) -> list[list[int]]:
    """Prompts that differ from ever later places on, as depths of one text do."""
    whole = prompt_of(length)
    cut = [at * length // cells for at in range(cells)]
    return [[*whole[:at], *prompt_of(length - at, seed=at + 1)] for at in cut]


@pytest.mark.parametrize("method", METHODS)
def test_many_at_once_answer_as_each_alone_and_as_the_plain_loop(method: str) -> None:
    model, prompts = tiny_models.build(), column()
    requests = [Request(prompt, 6, request_length=512) for prompt in prompts]
    answers: list[dict[int, str]] = []
    with session_of(model, method) as session:
        answers.append({id(r): found.text for r, found in session.answers(requests)})
    alone = {}
    for request in requests:
        with session_of(model, method, prefix_sharing=False) as session:
            alone[id(request)] = session.generate(request).text
    answers.append(alone)
    with PlainSession(model, Ids(), scheme_of(model, method)) as plain:
        answers.append({id(request): plain.generate(request).text for request in requests})
    assert answers[0] == answers[1] == answers[2]
    assert len(set(alone.values())) > 1


def test_a_column_computes_no_more_than_in_a_row() -> None:
    """In a row every prompt goes on from the one before; together they wait for each other."""
    model, prompts = tiny_models.build(), column()
    requests = [Request(prompt, 1, request_length=300) for prompt in prompts]
    with session_of(model, "dca") as session:
        together = [found.cached_tokens for _, found in session.answers(requests)]
    with PlainSession(model, Ids(), scheme_of(model, "dca")) as plain:
        in_a_row = [plain.generate(request).cached_tokens for request in requests]
    assert sum(together) >= 0.9 * sum(in_a_row) > 0
    with session_of(model, "dca", prefix_sharing=False) as session:
        assert [found.cached_tokens for _, found in session.answers(requests)] == [0] * 5


def test_a_failed_request_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request(prompt, 3, 300) for prompt in [*column(cells=2), prompt_of(399)]]
    with session_of(tiny_models.build(), "dca") as session:
        found = {id(request): outcome for request, outcome in session.answers(requests)}
    assert [type(found[id(request)]) for request in requests[:2]] == [Completion] * 2
    assert isinstance(found[id(requests[2])], ContextOverflowError)


def test_a_model_that_computes_no_numbers_gives_errors_and_no_answers() -> None:
    """A score of zero would be a finding about its memory."""
    model = tiny_models.build()
    with session_of(model, "none") as session:
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))
        ((_, outcome),) = session.answers([Request(prompt_of(30), 3, 30)])
        assert isinstance(outcome, NonFiniteLogitsError)
        with pytest.raises(NonFiniteLogitsError):
            session.logprobs(prompt_of(30), request_length=30)


def test_a_device_that_is_lost_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are asked again by the next one, in a process whose device answers."""

    def fails(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("an illegal memory access")

    with session_of(tiny_models.build(), "none") as session:
        monkeypatch.setattr(session.engine._runner._base, "forward", fails)
        asked = [Request(prompt_of(30, n), 3, 30) for n in range(5)]
        kinds = [type(session.answers([each]).__next__()[1]) for each in asked]
        monkeypatch.undo()
    assert kinds == [RuntimeError] * 3 + [TargetLostError] * 2


def test_requests_are_taken_as_they_can_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline ends what is asked: what was taken before it has to be answered."""
    monkeypatch.setattr(served, "_TOKENS", 0)  # memory for four contexts
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for seed in range(30):
            taken += 1
            yield Request(prompt_of(390, seed), 5, 400)

    with session_of(tiny_models.build(), "dca") as session:
        answers = session.answers(requests())
        next(answers)
        assert 4 <= taken <= 4 + served.AHEAD
        assert sum(1 for _ in answers) == 29


def test_shares_of_computing_add_up() -> None:
    requests = [Request(prompt, 4, 300) for prompt in column()]
    with session_of(tiny_models.build(), "dca") as session:
        found = [outcome for _, outcome in session.answers(requests)]
    assert all(0 < one.compute_s <= one.total_s for one in found)
    assert sum(one.compute_s for one in found) <= max(one.total_s for one in found) * 1.01


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_proved_on_the_engine(method: str) -> None:
    model = tiny_models.build()
    session = ServedSession(model, Ids(), scheme_of(model, method), Asking("auto", 400))
    assert session.proof["verified"]
    if method in ("dca", "yarn+dca"):
        assert session.proof["short_change"] < 1e-5


def test_a_silent_no_op_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.build()
    running = served._running
    monkeypatch.setattr(
        served,
        "_running",
        lambda model, _, kernel: running(model, scheme_of(model, "none"), kernel),
    )
    with pytest.raises(UnprovenMethodError, match="--methods yarn: it is not at work"):
        session_of(model, "yarn")
    assert active(model) is None


def test_what_the_engine_refuses_goes_to_the_plain_loop() -> None:
    model = tiny_models.build()
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    moving = type(model)(type(model.config)(**{**model.config.to_dict(), "rope_parameters": rope}))
    sessions, notes = sessions_for(
        moving.eval(), Ids(), [scheme_of(moving, "none")], Asking("auto", 400)
    )
    assert isinstance(sessions["none"], PlainSession)
    assert "none: a plain loop without batches, not the engine: rope_type 'dynamic'" in notes[0]
    sessions, notes = sessions_for(model, Ids(), [scheme_of(model, "none")], Asking("auto", 400))
    assert isinstance(sessions["none"], ServedSession) and notes == []


@pytest.mark.parametrize(
    ("method", "length", "at"),
    [("dca", 100, 100), ("yarn+dca", 20, 20), ("yarn+dca", 64, 64), ("yarn+dca", 65, 70)],
)
def test_the_temperature_is_taken_at_the_buckets_edge(method: str, length: int, at: int) -> None:
    assert temperature_at(scheme_of(tiny_models.build(), method), length) == at
