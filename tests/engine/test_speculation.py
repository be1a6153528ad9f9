"""Guessed tokens change how many steps an answer takes, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from engine_helpers import engine_for, prompt_of, run

from longctx.engine import Answer, Delta, Engine, EngineRequest, Sampling, stepper
from longctx.engine.speculation import MOST, MOST_TOGETHER, Speculator
from longctx.errors import UserError


class Told(Speculator):
    """Knows the answer, and is wrong where it is told to be."""

    def __init__(
        self, request: EngineRequest, answer: tuple[int, ...], width: int, wrong_at: int
    ) -> None:
        super().__init__(
            request.prompt_ids, len(request.prompt_ids) + request.max_new_tokens, width
        )
        self._answer, self._wrong_at, self._first = answer, wrong_at, self._count
        self.seen: list[tuple[int, int]] = []

    def propose(self, room: int, together: int = 1) -> list[int]:
        left = len(self._tokens) - self._count
        at = self._count - self._first
        found = list(self._answer[at : at + max(0, min(self._most, room, left - 1))])
        if len(found) > self._wrong_at:
            found[self._wrong_at] = (found[self._wrong_at] + 1) % 97
        return found

    def checked(self, proposed: int, accepted: int) -> None:
        self.seen.append((proposed, accepted))


def told(
    engine: Engine, request: EngineRequest, answer: Answer, width: int, wrong_at: int = 99
) -> tuple[Answer, Told]:
    """The request served with guesses out of its own answer."""
    handle = engine.submit(request)
    sequence = engine._inbox[-1]
    speculator = Told(request, answer.token_ids, width, wrong_at)
    sequence.speculator = speculator
    engine.run_until_idle()
    return handle.result(timeout=0), speculator


@pytest.mark.parametrize("method", ["none", "dca", "yarn+dca"])
@pytest.mark.parametrize("length", [5, 20, 24, 70])
@pytest.mark.parametrize(("width", "wrong_at"), [(1, 9), (4, 9), (8, 3), (8, 0), (30, 20)])
def test_tokens_are_those_without_guesses(
    model: Any, method: str, length: int, width: int, wrong_at: int
) -> None:
    """Blocks cross the ends of chunks of 24 tokens, right and wrong ones."""
    request = EngineRequest(prompt_of(length), max_new_tokens=40, logprobs=True, top_logprobs=2)
    with engine_for(model, method, speculate="off") as engine:
        (want,) = run(engine, request)
        steps = engine.stats().counts.steps
    assert want.usage.accepted_tokens == want.usage.rejected_tokens == 0
    with engine_for(model, method, chunk_budget=256) as engine:
        answer, speculator = told(engine, request, want, width, wrong_at)
        counts = engine.stats().counts
    assert answer.token_ids == want.token_ids and len(want.token_ids) == 40
    assert answer.usage.completion_tokens == 40
    for one, other in zip(answer.logprobs, want.logprobs, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]
    accepted = sum(right for _, right in speculator.seen)
    assert answer.usage.accepted_tokens == counts.accepted_tokens == accepted
    rejected = sum(proposed - right for proposed, right in speculator.seen)
    assert answer.usage.rejected_tokens == counts.rejected_tokens == rejected
    assert all(right == min(wrong_at, proposed) for proposed, right in speculator.seen)
    # An accepted token is a step less.
    assert counts.steps == steps - accepted - (0 if length <= 64 else 1)


def test_what_is_kept_of_a_guessed_answer_serves_the_next_turn(model: Any) -> None:
    """Keys of wrong guesses are overwritten or given back."""
    request = EngineRequest(prompt_of(50), max_new_tokens=30)
    with engine_for(model, "dca", speculate="off", share_from=8) as engine:
        (want,) = run(engine, request)
        turn = EngineRequest([*request.prompt_ids, *want.token_ids, 5, 6], max_new_tokens=12)
        (after,) = run(engine, turn)
    for wrong_at in (0, 3, 99):
        with engine_for(model, "dca", share_from=8) as engine:
            answer, _ = told(engine, request, want, 7, wrong_at)
            (again,) = run(engine, turn)
            assert answer.token_ids == want.token_ids and again.token_ids == after.token_ids
            assert again.usage.cached_tokens == after.usage.cached_tokens == 79


@pytest.mark.parametrize("at", range(1, 10))
def test_an_answer_ends_within_a_block(model: Any, at: int) -> None:
    """By a stop id, by its length: guesses behind the end are no part of anything."""
    prompt = prompt_of(30)
    with engine_for(model, speculate="off") as engine:
        (whole,) = run(engine, EngineRequest(prompt, max_new_tokens=12))
        for ended in (
            EngineRequest(
                prompt, max_new_tokens=12, stop_ids=frozenset(whole.token_ids[at : at + 1])
            ),
            EngineRequest(prompt, max_new_tokens=at),
        ):
            (want,) = run(engine, ended)
            with engine_for(tiny_models.build()) as other:
                answer, _ = told(other, ended, whole, 8)
                assert answer.token_ids == want.token_ids
                assert answer.finish_reason == want.finish_reason and answer.stop == want.stop
                assert answer.usage.accepted_tokens < max(2, len(answer.token_ids))
                kept = other._scheduler.prefixes
                assert len(kept) == 1 and other.stats().running == 0
                turn = EngineRequest([*prompt, *want.token_ids, 7], max_new_tokens=6)
                assert run(other, turn)[0].token_ids == run(engine, turn)[0].token_ids


class Letters:
    """Token n is a character, so that a stop string may end anywhere."""

    def __len__(self) -> int:
        return 97

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(0x4E00 + n) for n in ids)


def kept_of(engine: Engine, tokens: list[int]) -> int:
    """How many of these tokens a later request would find."""
    return engine._scheduler.prefixes.match(0, np.array(tokens)).length


def ended_alike(answer: Answer, want: Answer) -> None:
    """All that a client sees but the times and the guesses."""
    assert answer.text == want.text and answer.token_ids == want.token_ids
    assert (answer.finish_reason, answer.stop) == (want.finish_reason, want.stop)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert getattr(answer.usage, name) == getattr(want.usage, name)


@pytest.mark.parametrize("how", ["stop string", "two stop strings", "max_tokens", "eos"])
@pytest.mark.parametrize("at", range(1, 10))
def test_the_end_of_an_answer_is_found_inside_accepted_guesses(
    model: Any, how: str, at: int
) -> None:
    """Eight tokens are guessed at a time, all right: the end lies at any of them.

    Text, tokens, usage, reason and what is kept are those without guesses.
    """
    prompt = prompt_of(30, 177)  # its answer repeats no token
    with engine_for(model, tokenizer=Letters(), speculate="off") as engine:
        (whole,) = run(engine, EngineRequest(prompt, max_new_tokens=12))
    text, ids = whole.text, whole.token_ids
    assert len(set(ids)) == 12
    ended = {
        "stop string": EngineRequest(prompt, max_new_tokens=12, stop=(text[at - 1 : at + 1],)),
        # The first begins before, and is held back while the second comes.
        "two stop strings": EngineRequest(
            prompt, max_new_tokens=12, stop=(text[at - 1 : at + 1] + "x", text[at : at + 2])
        ),
        "max_tokens": EngineRequest(prompt, max_new_tokens=at + 1),
        "eos": EngineRequest(prompt, max_new_tokens=12),
    }[how]
    model.generation_config.eos_token_id = ids[at] if how == "eos" else None
    try:
        with engine_for(model, tokenizer=Letters(), speculate="off") as engine:
            (want,) = run(engine, ended)
            length = at + 2 if how == "two stop strings" else at + 1
            assert want.token_ids == ids[:length]
            kept = kept_of(engine, [*prompt, *ids])
            assert kept == 30 + length - 1
        with engine_for(model, tokenizer=Letters()) as engine:
            answer, speculator = told(engine, ended, whole, 8)
            ended_alike(answer, want)
            assert kept_of(engine, [*prompt, *ids]) == kept
            counts = engine.stats().counts
            assert counts.steps < 3 + length // 4  # the guesses were taken
            assert counts.completion_tokens == length
            guessed = sum(proposed for proposed, _ in speculator.seen)
            assert counts.accepted_tokens + counts.rejected_tokens == guessed
            assert answer.usage.accepted_tokens == counts.accepted_tokens <= length
    finally:
        model.generation_config.eos_token_id = None


@pytest.mark.parametrize("wrong_at", [0, 2, 99])
def test_log_probabilities_of_guessed_tokens_are_those_of_drawn_ones(
    model: Any, wrong_at: int
) -> None:
    """Every token has its own, in its own delta; a wrong guess has none."""
    request = EngineRequest(prompt_of(30), max_new_tokens=20, logprobs=True, top_logprobs=3)
    with engine_for(model, speculate="off") as engine:
        (want,) = run(engine, request)
    with engine_for(model) as engine:
        events: list[Any] = []
        engine.submit(request, events.append)
        engine._inbox[-1].speculator = Told(request, want.token_ids, 6, wrong_at)
        engine.run_until_idle()
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [delta.token_ids for delta in deltas] == [(token,) for token in want.token_ids]
    for delta, other in zip(deltas, want.logprobs, strict=True):
        (one,) = delta.logprobs
        assert one.token_id == other.token_id == one.top[0][0]
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]
        assert [value for _, value in one.top] == pytest.approx(
            [value for _, value in other.top], abs=1e-5
        )


def narrowest(answer: Answer, at: int) -> float:
    """How much likelier its token is than the next one, there."""
    (_, first), (_, second) = answer.logprobs[at].top[:2]
    return first - second


@pytest.mark.parametrize("method", ["none", "yarn+dca"])
def test_tokens_differ_only_where_two_are_as_good_as_equal(model: Any, method: str) -> None:
    """Greedy, in float32: where the gap of the two best logits is below 1e-4 either may come.

    Such cases are counted: a guess is no reason for another.
    """
    requests = [
        EngineRequest(repeating(seed), max_new_tokens=40, logprobs=True, top_logprobs=2)
        for seed in range(9)
    ]
    with engine_for(model, method, speculate="off") as engine:
        plain = [run(engine, each)[0] for each in requests]
    with engine_for(model, method, speculate="auto") as engine:
        guessed = run(engine, *requests)
        accepted = engine.stats().counts.accepted_tokens
    ties = 0
    for want, answer in zip(plain, guessed, strict=True):
        pairs = zip(want.token_ids, answer.token_ids, strict=True)
        at = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
        if at is not None:
            assert narrowest(want, at) < 1e-4
            ties += 1
    assert accepted > 60 and ties <= 1


def test_guessed_tokens_are_streamed_one_by_one(model: Any) -> None:
    request = EngineRequest(prompt_of(30), max_new_tokens=12)
    with engine_for(model, speculate="off") as engine:
        (want,) = run(engine, request)
    with engine_for(model) as engine:
        events: list[Any] = []
        engine.submit(request, events.append)
        engine._inbox[-1].speculator = Told(request, want.token_ids, 4, 99)
        engine.run_until_idle()
    deltas = [event.token_ids for event in events if isinstance(event, Delta)]
    assert deltas == [(token,) for token in want.token_ids]


def repeating(seed: int) -> list[int]:
    return prompt_of(15, seed) * 4


@pytest.mark.parametrize("budget", [16, 256])
@pytest.mark.parametrize("speculate", ["auto", "1", "12"])
def test_many_requests_with_guesses_get_their_own_answers(
    model: Any, budget: int, speculate: str
) -> None:
    """Greedy and seeded ones, beside prompts that are being computed."""
    requests = [
        EngineRequest(
            repeating(n),
            max_new_tokens=30,
            sampling=Sampling() if n % 2 else Sampling(temperature=0.3, top_k=3, seed=n),
        )
        for n in range(6)
    ]
    with engine_for(model, "dca", speculate="off") as engine:
        alone = [run(engine, each)[0].token_ids for each in requests]
    with engine_for(model, "dca", speculate=speculate, chunk_budget=budget) as engine:
        handles = []
        for at, each in enumerate(requests):
            handles.append(engine.submit(each))
            for _ in range(at % 3):
                engine.step()
        engine.run_until_idle()
        answers = [handle.result(timeout=0) for handle in handles]
        assert [answer.token_ids for answer in answers] == alone
        counts = engine.stats().counts
    accepted = sum(answer.usage.accepted_tokens for answer in answers)
    assert counts.accepted_tokens == accepted > 0
    assert counts.rejected_tokens == sum(answer.usage.rejected_tokens for answer in answers)


def test_a_failed_step_with_guesses_is_repeated(model: Any, monkeypatch: Any) -> None:
    request = EngineRequest(repeating(1), max_new_tokens=30)
    with engine_for(model, speculate="off") as engine:
        want = run(engine, request, EngineRequest(prompt_of(9), max_new_tokens=30))
    with engine_for(model, speculate="4") as engine:
        forward, calls = engine._runner.forward, [0]

        def fails_at_times(*arguments: Any) -> Any:
            calls[0] += 1
            if len(arguments[1]) > 1 and calls[0] % 3 == 0:
                raise torch.OutOfMemoryError("at times")
            return forward(*arguments)

        monkeypatch.setattr(engine._runner, "forward", fails_at_times)
        found = run(engine, request, EngineRequest(prompt_of(9), max_new_tokens=30))
        assert [each.token_ids for each in found] == [each.token_ids for each in want]
        assert engine.stats().counts.accepted_tokens > 0


@pytest.mark.parametrize(
    "sampling", [Sampling(repetition_penalty=1.2), Sampling(frequency_penalty=0.5)], ids=repr
)
def test_rules_that_follow_the_answer_are_not_guessed_past(model: Any, sampling: Sampling) -> None:
    with engine_for(model, speculate="8") as engine:
        run(engine, EngineRequest(repeating(1), max_new_tokens=20, sampling=sampling))
        least = EngineRequest(
            repeating(1), max_new_tokens=20, min_new_tokens=20, stop_ids=frozenset([3])
        )
        run(engine, least)
        counts = engine.stats().counts
        assert counts.accepted_tokens == counts.rejected_tokens == 0


def speculator(tokens: list[int], most: int | None = 4, room: int = 50) -> Speculator:
    return Speculator(tokens, len(tokens) + room, most)


@pytest.mark.parametrize(
    ("tokens", "guessed"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], [4, 5, 6, 7]),
        ([1, 2, 3, 9, 1, 2, 3, 5, 9, 1, 2, 3], [5, 9, 1, 2]),  # the later of equal matches
        ([8, 1, 2, 3, 9, 7, 1, 2, 3, 4, 9, 8, 1, 2, 3], [9, 7, 1, 2]),  # the longer match
        ([1, 2, 3, 4, 9, 2, 3], []),  # two tokens are too little
        ([1, 2, 3, 4], []),
        ([5, 5, 5, 5], [5, 5, 5, 5]),  # what repeats itself goes on so
        ([7, 1, 2, 1, 2, 1], [2, 1, 2, 1]),
        ([5], []),
    ],
)
def test_guesses_are_what_stood_behind_the_longest_match(
    tokens: list[int], guessed: list[int]
) -> None:
    assert speculator(tokens).propose(99) == guessed
    assert speculator(tokens).propose(1) == guessed[:1]
    assert speculator(tokens).propose(0) == []


def test_the_answer_is_part_of_the_text_and_its_last_token_is_drawn() -> None:
    made = speculator([1, 2, 3, 4], most=9, room=6)
    for token in (5, 1, 2, 3):
        made.note(token)
    assert made.propose(99) == [4]  # two tokens are still to come
    made.note(4)
    assert made.propose(99) == []


def test_guesses_grow_where_they_are_right_and_pause_where_they_are_wrong() -> None:
    made = speculator([1, 2, 3, *range(4, 40), 1, 2, 3], most=None, room=999)
    widths = []
    for _ in range(4):
        widths.append(len(made.propose(99)))
        made.checked(widths[-1], widths[-1])
    assert widths == [4, 8, 16, MOST]
    made.checked(16, 5)
    assert len(made.propose(99)) == 6
    pauses = []
    for _ in range(8):
        made.checked(2, 0)
        silent = 0
        while not made.propose(99):
            made.note(3)
            made._count -= 1
            silent += 1
        pauses.append(silent)
    assert pauses == [0, 8, 16, 32, 64, 128, 256, 256]
    made.checked(2, 1)
    made.checked(2, 0)
    assert made.propose(99)


def test_nothing_is_guessed_while_many_answers_grow() -> None:
    """But where somebody said how many."""
    text = [1, 2, 3, 4, 5, 1, 2, 3]
    assert speculator(text, most=None).propose(99, together=MOST_TOGETHER) == [4, 5, 1, 2]
    assert speculator(text, most=None).propose(99, together=MOST_TOGETHER + 1) == []
    assert speculator(text, most=4).propose(99, together=MOST_TOGETHER + 1) == [4, 5, 1, 2]


@pytest.mark.parametrize(("requests", "guesses"), [(MOST_TOGETHER, True), (9, False)])
def test_a_full_step_has_no_guesses(model: Any, requests: int, guesses: bool) -> None:
    """As many answers begin together, they end together."""
    asked = [EngineRequest(repeating(n), max_new_tokens=20) for n in range(requests)]
    with engine_for(model, chunk_budget=1024) as engine:
        run(engine, *asked)
        counts = engine.stats().counts
        assert (counts.accepted_tokens + counts.rejected_tokens > 0) == guesses


def test_guesses_keep_to_the_rows_of_logits_that_are_planned(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepper, "step_rows", lambda running: running + 10)
    with engine_for(model, speculate="30", chunk_budget=1024, max_running=5) as engine:
        forward, wanted = engine._runner.forward, []

        def counted(*arguments: Any) -> Any:
            wanted.append(len(arguments[2]))
            return forward(*arguments)

        engine._runner.forward = counted  # type: ignore[method-assign]
        run(engine, *(EngineRequest(repeating(n), max_new_tokens=30) for n in range(5)))
        assert 5 + 5 < max(wanted) <= 5 + 10


@pytest.mark.parametrize("said", ["0", "-1", "on", "", "1.5"])
def test_what_may_be_said(model: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"speculate='{said}': use auto, off, or the most tokens"):
        Engine(model, speculate=said)
