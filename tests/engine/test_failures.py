"""Cancellation and failures: one request never costs another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_helpers import drain, engine_for, greedy, prompt_of, run

from longctx.engine import (
    EngineRequest,
    Finished,
    sampling,
)
from longctx.engine.buffer import KvBuffer
from longctx.engine.prefix import PrefixTree


def test_cancelling_costs_one_step_and_no_neighbour(model: Any) -> None:
    with engine_for(model, chunk_budget=32, max_context=4000) as engine:
        want = greedy(engine, prompt_of(70, 7))
        long = engine.submit(EngineRequest(prompt_of(3000), max_new_tokens=2))
        other = engine.submit(
            EngineRequest(prompt_of(70, 7), max_new_tokens=12, share_prefix=False)
        )
        engine.step()
        engine.step()
        long.cancel()
        long.cancel()
        engine.step()
        *_, last = long.events(timeout=0)
        assert isinstance(last, Finished) and last.reason == "cancelled"
        assert engine.stats().running == 1
        assert drain(engine, other).token_ids == want
        # What was computed is kept: a client that comes back goes on from there.
        again = run(engine, EngineRequest(prompt_of(3000), max_new_tokens=2))[0]
        assert again.usage.cached_tokens >= 32


def test_waiting_requests_can_be_cancelled(model: Any) -> None:
    with engine_for(model, max_running=1) as engine:
        first = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=4))
        second = engine.submit(EngineRequest(prompt_of(20, 1), max_new_tokens=4))
        engine.step()
        second.cancel()
        engine.run_until_idle()
        assert first.result(timeout=0).finish_reason == "length"
        assert second.result(timeout=0).finish_reason == "cancelled"


@pytest.mark.parametrize("error", [RuntimeError("bad row"), torch.OutOfMemoryError("too much")])
def test_a_failing_request_fails_alone(
    model: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        prompts = [prompt_of(30, n) for n in range(4)]
        want = [greedy(engine, prompt) for prompt in prompts]
        forward, culprit = engine._runner.forward, 96

        def failing(tokens: Any, *rest: Any) -> Any:
            if culprit in tokens:
                raise error
            return forward(tokens, *rest)

        monkeypatch.setattr(engine._runner, "forward", failing)
        prompts = [[t % 90 for t in prompt] for prompt in prompts]
        clean = [engine.submit(EngineRequest(p, max_new_tokens=1)) for p in prompts]
        bad = engine.submit(EngineRequest([*prompt_of(20, 5), culprit], max_new_tokens=12))
        engine.run_until_idle()
        assert all(handle.result(timeout=0).finish_reason == "length" for handle in clean)
        with pytest.raises(type(error), match=str(error)):
            bad.result(timeout=0)
        monkeypatch.undo()
        assert engine.stats().counts.failed == 1 and engine.stats().running == 0
        assert [greedy(engine, prompt_of(30, n)) for n in range(4)] == want


@pytest.mark.parametrize("scored", [False, True], ids=["drawing", "scoring"])
def test_a_failure_behind_the_forward_fails_one_request(
    model: Any, scored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(30))
        good = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        bad = engine.submit(
            EngineRequest(prompt_of(30, 1), max_new_tokens=12, prompt_logprobs=scored)
        )
        draw = sampling.draw

        def failing(logits: Any, samplers: Any) -> Any:
            if any(sequence.sampler in samplers for sequence in broken):
                raise RuntimeError("no room to sort")
            return draw(logits, samplers)

        def never(*_: Any) -> None:
            raise RuntimeError("no room to sort")

        broken = [] if scored else [engine._inbox[1]]
        monkeypatch.setattr(sampling, "draw", failing)
        if scored:
            monkeypatch.setattr(engine._stepper, "_score", never)
        engine.run_until_idle()
        assert good.result(timeout=0).token_ids == want
        with pytest.raises(RuntimeError, match="no room to sort"):
            bad.result(timeout=0)
        assert engine.stats().counts.failed == 1


def test_a_passing_shortage_of_memory_fails_nobody(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(30))
        forward, failures = engine._runner.forward, [torch.OutOfMemoryError("too much")]

        def failing(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return forward(*arguments)

        monkeypatch.setattr(engine._runner, "forward", failing)
        assert engine.stats().retained_prefixes == 1
        handle = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        assert drain(engine, handle).token_ids == want


def test_no_memory_to_copy_a_prefix_costs_its_reuse_only(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        document = prompt_of(60)
        want = [greedy(engine, [*document, n]) for n in (1, 2)]
        engine._scheduler.prefixes.clear()
        greedy(engine, [*document, 1])
        used = engine.stats().kv_used_bytes
        copy, copied = KvBuffer.copy_from, []

        def failing(buffer: KvBuffer, *arguments: Any) -> None:
            copied.append(arguments)
            raise torch.OutOfMemoryError("too much")

        monkeypatch.setattr(KvBuffer, "copy_from", failing)
        other = engine.submit(EngineRequest(prompt_of(30, 9), max_new_tokens=12))
        second = engine.submit(EngineRequest([*document, 2], max_new_tokens=12))
        answer = drain(engine, second)
        assert copied and answer.token_ids == want[1] and answer.usage.cached_tokens == 0
        assert other.result(timeout=0).finish_reason == "length"
        monkeypatch.setattr(KvBuffer, "copy_from", copy)
        engine._scheduler.prefixes.clear()
        assert used > 0 and engine.stats().kv_used_bytes == 0


@pytest.mark.parametrize("cancelled", [False, True], ids=["answered", "cancelled"])
def test_no_memory_to_keep_a_prefix_costs_that_prefix_only(
    model: Any, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is complete when its keys are put by."""

    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("too much")

    with engine_for(model) as engine:
        monkeypatch.setattr(PrefixTree, "insert", failing)
        other = engine.submit(EngineRequest(prompt_of(30, 9), max_new_tokens=12))
        stops = frozenset() if cancelled else frozenset(range(97))
        first = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=300, stop_ids=stops))
        while not engine.stats().counts.completion_tokens:
            engine.step()
        if cancelled:
            first.cancel()
        reason = "cancelled" if cancelled else "stop"
        assert drain(engine, first).finish_reason == reason
        assert other.result(timeout=0).finish_reason == "length"
        engine._scheduler.prefixes.clear()
        assert engine.stats().kv_used_bytes == 0 and engine.stats().counts.failed == 0


def test_a_failing_listener_costs_itself_only(model: Any, caplog: Any) -> None:
    def listener(event: Any) -> None:
        raise OSError("gone")

    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(30))
        engine.submit(EngineRequest(prompt_of(30, 3), max_new_tokens=300), listener)
        other = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        assert drain(engine, other).token_ids == want
        assert engine.stats().counts.completion_tokens < 60
    assert "a listener failed" in caplog.text


def test_a_defect_of_the_engine_costs_what_is_in_flight_only(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(30))
        admit, defects = engine._scheduler.admit, [KeyError("a defect")]

        def failing() -> Any:
            if defects:
                raise defects.pop()
            return admit()

        monkeypatch.setattr(engine._scheduler, "admit", failing)
        lost = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        engine.start()
        with pytest.raises(KeyError, match="a defect"):
            lost.result(timeout=60)
        again = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        assert again.result(timeout=60).token_ids == want
    assert "a step of the engine failed" in caplog.text
