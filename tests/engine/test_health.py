"""A device that fails every step is told from requests that do."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from engine_helpers import engine_for, greedy, prompt_of, run
from serve_helpers import wait_for

from longctx.engine import EngineBrokenError, EngineRequest
from longctx.engine.health import FAILED_STEPS


def _failing(engine: Any, monkeypatch: pytest.MonkeyPatch, *, device: bool) -> None:
    def fails(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(engine._runner, "forward", fails)
    if device:
        monkeypatch.setattr(engine._runner._base, "forward", fails)


def _ask(engine: Any) -> Exception:
    with pytest.raises(RuntimeError) as caught:
        run(engine, EngineRequest(prompt_of(20), max_new_tokens=2))
    return caught.value


def test_a_device_that_fails_every_step_is_broken(model: Any, monkeypatch: Any) -> None:
    with engine_for(model) as engine:
        _failing(engine, monkeypatch, device=True)
        for _ in range(FAILED_STEPS):
            assert engine.broken is None
            assert "illegal memory access" in str(_ask(engine))
        assert "illegal memory access" in str(engine.broken)
        wanted = r"^the device fails every step \(RuntimeError: an illegal .*\): start the program"
        with pytest.raises(EngineBrokenError, match=wanted):
            engine.submit(EngineRequest(prompt_of(20), max_new_tokens=2))


def test_what_is_in_flight_with_a_broken_device_ends(model: Any, monkeypatch: Any) -> None:
    with engine_for(model, max_running=1) as engine:
        _failing(engine, monkeypatch, device=True)
        asked = [engine.submit(EngineRequest(prompt_of(9, n), max_new_tokens=2)) for n in range(9)]
        engine.start()
        errors = []
        for handle in asked:
            with pytest.raises(RuntimeError) as caught:
                handle.result(timeout=30)
            errors.append(caught.value)
        assert [type(each) is EngineBrokenError for each in errors] == [False] * 3 + [True] * 6


def test_requests_that_fail_in_a_row_break_nothing(model: Any, monkeypatch: Any) -> None:
    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(30))
        with monkeypatch.context() as patch:
            _failing(engine, patch, device=False)
            for _ in range(3 * FAILED_STEPS):
                _ask(engine)
        assert engine.broken is None and greedy(engine, prompt_of(30)) == want


def test_a_model_that_computes_no_numbers_is_broken(model: Any, monkeypatch: Any) -> None:
    with engine_for(model) as engine:
        norm = engine._runner._base.norm
        monkeypatch.setattr(norm, "forward", lambda states: states * float("nan"))
        for _ in range(FAILED_STEPS):
            assert "not finite" in str(_ask(engine))
        assert "not finite" in str(engine.broken)


def test_seconds_without_the_end_of_a_step_are_counted_where_one_is_due(
    model: Any, monkeypatch: Any
) -> None:
    with engine_for(model).start() as engine:
        go, forward = threading.Event(), engine._runner.forward

        def held(*arguments: Any) -> Any:
            assert go.wait(30)
            return forward(*arguments)

        monkeypatch.setattr(engine._runner, "forward", held)
        assert engine.stalled_s == 0
        handle = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=2))
        wait_for(lambda: engine.stalled_s > 0.2)
        go.set()
        handle.result(timeout=30)
        wait_for(lambda: engine.stalled_s == 0)


def test_a_panic_of_a_library_does_not_end_the_loop(model: Any, monkeypatch: Any) -> None:
    class Panic(BaseException):
        pass

    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(30))
        admit, panics = engine._scheduler.admit, [Panic("entered unreachable code")]

        def panicking() -> Any:
            if panics:
                raise panics.pop()
            return admit()

        monkeypatch.setattr(engine._scheduler, "admit", panicking)
        lost = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        engine.start()
        with pytest.raises(RuntimeError, match="entered unreachable code"):
            lost.result(timeout=30)
        again = engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12))
        assert again.result(timeout=30).token_ids == want
