"""Fairness, memory, cancellation and failures: what one request may do to another."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from engine_helpers import drain, engine_for, greedy, prompt_of, run

from longctx.attention import active
from longctx.engine import (
    ContextLengthError,
    Engine,
    EngineClosedError,
    EngineRequest,
    Failed,
    Finished,
    InsufficientMemoryError,
    Progress,
    QueueFullError,
    memory,
    sampling,
)
from longctx.engine.kv import KvBuffer, KvPool
from longctx.engine.prefix import Prefix, PrefixStore, common_prefix
from longctx.errors import UserError

BYTES = 2 * 2 * 2 * 8 * 4  # per token: K and V, layers, heads, head_dim, float32


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.build()


def steps_to_first_token(engine: Engine, request: EngineRequest) -> int:
    """Steps from submission to the first token."""
    seen: list[str] = []
    engine.submit(request, lambda event: seen.append(type(event).__name__))
    steps = 0
    while "Delta" not in seen:
        assert engine.step()
        steps += 1
    return steps


def test_the_default_context_counts_the_configs_own_yarn() -> None:
    model = tiny_models.build()
    model.config.rope_parameters = {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 1e4,
        "original_max_position_embeddings": 128,
    }
    with Engine(model, kv_budget_bytes=1 << 20) as engine:
        assert engine.max_context == 512


# -- fairness -------------------------------------------------------------------------------------


def test_a_short_request_does_not_wait_for_a_long_prompt(model: Any) -> None:
    with engine_for(model, chunk_budget=32, max_context=4000) as engine:
        long = engine.submit(EngineRequest(prompt_of(3000), max_new_tokens=2))
        for _ in range(3):
            engine.step()
        assert steps_to_first_token(engine, EngineRequest(prompt_of(10, 1), max_new_tokens=2)) == 1
        # Half of each step's 32 tokens are its own: 40 tokens take three steps.
        assert steps_to_first_token(engine, EngineRequest(prompt_of(40, 2), max_new_tokens=2)) == 3
        assert drain(engine, long).finish_reason == "length"


def test_short_requests_do_not_starve_a_long_prompt(model: Any) -> None:
    with engine_for(model, chunk_budget=32, max_context=4000) as engine:
        long = engine.submit(EngineRequest(prompt_of(640), max_new_tokens=1))
        for n in range(40):  # as much work as a step can do, in every step
            engine.submit(EngineRequest(prompt_of(16, n + 1), max_new_tokens=1))
            engine.step()
        # 16 tokens a step at least
        assert isinstance(list(long.events(timeout=0))[-1], Finished)


def test_decoding_goes_on_in_every_step_of_a_prefill(model: Any) -> None:
    with engine_for(model, chunk_budget=32, max_context=4000) as engine:
        first: list[Any] = []
        engine.submit(EngineRequest(prompt_of(5), max_new_tokens=40), first.append)
        engine.step()
        engine.submit(EngineRequest(prompt_of(900, 1), max_new_tokens=1))
        before = len(first)
        for _ in range(10):
            engine.step()
        assert len(first) == before + 10


def test_progress_is_told_after_every_chunk(model: Any) -> None:
    with engine_for(model, chunk_budget=32) as engine:
        greedy(engine, prompt_of(40))
        handle = engine.submit(EngineRequest(prompt_of(40) + prompt_of(60, 1), max_new_tokens=1))
        engine.run_until_idle()
        progress = [event for event in handle if isinstance(event, Progress)]
        assert progress == [Progress(100, 40, n) for n in (40, 72, 100)]


# -- memory ---------------------------------------------------------------------------------------


def test_over_long_requests_are_refused_with_the_numbers(model: Any) -> None:
    with engine_for(model, max_context=100) as engine:
        with pytest.raises(
            ContextLengthError, match="are 101 tokens, the context is 100"
        ) as caught:
            engine.submit(EngineRequest(prompt_of(95), max_new_tokens=6))
        assert (caught.value.limit, caught.value.asked) == (100, 101)
        assert (caught.value.prompt_tokens, caught.value.max_new_tokens) == (95, 6)
        assert len(greedy(engine, prompt_of(94), 6)) == 6


def test_requests_too_big_for_memory_are_refused_with_what_fits(model: Any) -> None:
    with engine_for(model, kv_budget_bytes=50 * BYTES) as engine:
        with pytest.raises(InsufficientMemoryError, match="holds 50 tokens") as caught:
            engine.submit(EngineRequest(prompt_of(45), max_new_tokens=6))
        assert caught.value.asked_tokens == 51 and caught.value.asked_bytes == 51 * BYTES
        assert caught.value.fitting_tokens == 50 and caught.value.budget_bytes == 50 * BYTES
        assert len(greedy(engine, prompt_of(44), 6)) == 6


def test_requests_wait_for_memory_and_prefixes_make_room(model: Any) -> None:
    prompts = [prompt_of(40, n) for n in range(5)]
    with engine_for(model) as engine:
        want = [greedy(engine, prompt, 6) for prompt in prompts]
    with engine_for(model, kv_budget_bytes=100 * BYTES) as engine:
        handles = [engine.submit(EngineRequest(p, max_new_tokens=6)) for p in prompts]
        while engine.step():
            assert engine.stats().running <= 2
            assert engine.stats().kv_used_bytes <= 100 * BYTES
        assert [handle.result(timeout=0).token_ids for handle in handles] == want
        assert engine.stats().retained_prefixes == 2
        # The prefix that a request goes on from stays, and what both need does not fit: it starts
        # from nothing rather than wait for ever.
        ids = prompts[-1] + prompt_of(54, 9)
        assert len(greedy(engine, ids, 6)) == 6


def test_a_large_request_is_not_overtaken_for_ever(model: Any) -> None:
    with engine_for(model, kv_budget_bytes=100 * BYTES) as engine:
        ended: list[str] = []

        def listen(name: str) -> Any:
            return lambda e: ended.append(name) if isinstance(e, Finished) else None

        engine.submit(EngineRequest(prompt_of(30), max_new_tokens=10), listen("first"))
        engine.step()
        engine.submit(EngineRequest(prompt_of(85, 1), max_new_tokens=5), listen("large"))
        for n in range(30):
            engine.submit(EngineRequest(prompt_of(20, n + 2), max_new_tokens=10), listen("small"))
        engine.run_until_idle()
        assert len(ended) == 32 and ended.index("large") < 15


def test_memory_is_all_given_back(model: Any) -> None:
    with engine_for(model, share_from=8) as engine:
        handles = [
            engine.submit(EngineRequest([*prompt_of(60), n], max_new_tokens=20)) for n in range(4)
        ]
        for _ in range(5):
            engine.step()
        handles[1].cancel()
        engine.run_until_idle()
        scheduler = engine._scheduler
        assert engine.stats().kv_used_bytes > 0 and not scheduler.running
        scheduler.prefixes.clear()
        assert engine.stats().kv_used_bytes == 0


def test_retained_buffers_are_trimmed() -> None:
    pool = KvPool(1, 10, 1000)
    buffer = pool.allocate(0, 50)
    k_KLD = torch.randn(2, 20, 4)
    buffer.write(0, 0, k_KLD, k_KLD)
    buffer.trim(20)
    assert pool.used_bytes == 200 and torch.equal(buffer.read(0, 0, 20)[0][0], k_KLD)
    buffer.release()
    assert pool.used_bytes == 0


def test_prefix_store_keeps_what_was_used_last() -> None:
    store = PrefixStore()
    a, b, c = (np.arange(20) + n for n in (0, 100, 200))

    def match(tokens: Any, bucket: int = 0) -> Any:
        return store.match(bucket, lambda _, stored: common_prefix(tokens, stored))

    for tokens in (a, b):
        store.add(Prefix(tokens, 0, []))
    entry, common = match(np.arange(30))
    assert entry is not None and common == 20 and match(np.arange(30), 1) == (None, 0)
    store.touch(entry)
    store.add(Prefix(c, 0, []))
    assert store.evict_oldest() and match(b) == (None, 0) and match(a)[1] == 20
    store.add(Prefix(a[:18], 0, []))  # covered
    store.add(Prefix(np.arange(25), 0, []))  # covers a
    assert len(store) == 2 and common_prefix(a, a[:0]) == 0


def test_requests_that_wait_for_a_document_hold_up_nobody(model: Any) -> None:
    with engine_for(model, chunk_budget=32, max_context=4000) as engine:
        document = prompt_of(2000)
        for n in range(40):
            engine.submit(EngineRequest([*document, n], max_new_tokens=1))
        engine.step()
        assert steps_to_first_token(engine, EngineRequest(prompt_of(10, 1), max_new_tokens=2)) == 1
        engine.run_until_idle()
        assert engine.stats().counts.prompt_tokens < 2000 + 41 * 17


def test_a_prompt_can_be_computed_ahead(model: Any) -> None:
    with engine_for(model) as engine:
        want = greedy(engine, prompt_of(90))
    with engine_for(model) as engine:
        (ahead,) = run(engine, EngineRequest(prompt_of(90)[:80], max_new_tokens=0))
        assert (ahead.token_ids, ahead.finish_reason) == ((), "length")
        (answer,) = run(engine, EngineRequest(prompt_of(90), max_new_tokens=12))
        assert answer.usage.cached_tokens == 80 and answer.token_ids == want


def test_the_default_budget_leaves_room_for_a_step(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free_host_bytes", lambda: 10_000_000)
    # 97 logits of 20 bytes; 4 x (3 x 48 + 3 x 64 + 4 x 48) + 4 x (2 x 48 + 3 x 48) per token
    step = 256 * 97 * 20 + 100 * (4 * (144 + 192 + 192) + 4 * (96 + 144))
    assert memory.step_bytes(model.config, 4, 100, 256) == step
    with Engine(model, chunk_budget=100) as engine:
        assert engine.stats().kv_budget_bytes == (10_000_000 - step) // 2
    moe = tiny_models.build("qwen2_moe").config
    assert memory.step_bytes(moe, 2, 1, 0) == 2 * (144 + 3 * (2 * 32 + 32) + 192) + 4 * 240
    with pytest.raises(UserError, match="one step needs about"):
        Engine(model, chunk_budget=10_000)
    assert active(model) is None


def test_a_containers_limit_is_seen(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", str(tmp_path))
    whole = memory._free_host_bytes()
    assert whole > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300000\n")
    assert memory._free_host_bytes() > 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory._free_host_bytes() == 700_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    assert memory._free_host_bytes() == 800_000


# -- cancellation ---------------------------------------------------------------------------------


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


# -- failures -------------------------------------------------------------------------------------


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
        monkeypatch.setattr(KvBuffer, "trim", failing)
        other = engine.submit(EngineRequest(prompt_of(30, 9), max_new_tokens=12))
        # Much less than what was set aside is used: the rest would be given back.
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


# -- threads, limits, arguments -------------------------------------------------------------------


def test_the_background_thread_serves_many_clients(model: Any) -> None:
    with engine_for(model) as engine:
        want = [greedy(engine, prompt_of(20 + n, n)) for n in range(6)]
    answers: dict[int, tuple[int, ...]] = {}
    with engine_for(model).start() as engine:

        def ask(n: int) -> None:
            handle = engine.submit(EngineRequest(prompt_of(20 + n, n), max_new_tokens=12))
            answers[n] = handle.result(timeout=60).token_ids

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answers[n] for n in range(6)] == want


def test_closing_ends_or_drains_what_is_in_flight(model: Any) -> None:
    engine = engine_for(model)
    handle = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=4))
    engine.step()
    engine.close()
    assert isinstance(list(handle)[-1], Failed)
    with pytest.raises(EngineClosedError, match="closed"):
        engine.submit(EngineRequest([1]))
    with pytest.raises(EngineClosedError, match="make a new one"):
        engine.start()
    engine = engine_for(model).start()
    handle = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=40))
    engine.close(drain=True)
    assert len(handle.result(timeout=0).token_ids) == 40


def test_the_queue_has_an_end(model: Any) -> None:
    with engine_for(model, max_waiting=2) as engine:
        for _ in range(2):
            engine.submit(EngineRequest([1], max_new_tokens=1))
        with pytest.raises(QueueFullError, match="max_waiting=2"):
            engine.submit(EngineRequest([1], max_new_tokens=1))
        engine.run_until_idle()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_ids": []}, "prompt_ids is empty"),
        ({"prompt_ids": [1], "max_new_tokens": -1}, "max_new_tokens=-1 must be at least 0"),
        ({"prompt_ids": [1], "top_logprobs": 2}, "top_logprobs=2 needs logprobs=True"),
        ({"prompt_ids": [1], "stop": ("",)}, "stop holds an empty string"),
        ({"prompt_ids": [1], "request_length": 0}, "request_length=0 must be at least 1"),
    ],
)
def test_requests_that_make_no_sense_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        EngineRequest(**arguments)


def test_requests_that_do_not_fit_the_model_are_refused(model: Any) -> None:
    with engine_for(model) as engine:
        with pytest.raises(UserError, match="prompt_ids hold 97: ids of this model are 0 to 96"):
            engine.submit(EngineRequest([1, 97]))
        with pytest.raises(UserError, match="stop needs text"):
            engine.submit(EngineRequest([1], stop=("x",)))
        with pytest.raises(UserError, match="json_schema needs text"):
            engine.submit(EngineRequest([1], json_schema={}))
        assert "Qwen2ForCausalLM" in repr(engine) and "torch_cpu" in repr(engine)
    for name in ("chunk_budget", "kv_budget_bytes", "max_context", "max_running", "share_from"):
        with pytest.raises(UserError, match=f"{name}=0 must be at least 1"):
            engine_for(model, **{name: 0})
    with pytest.raises(TypeError, match="transformers PreTrainedModel"):
        Engine(object())


@pytest.mark.parametrize(
    ("method", "context"), [("none", 512), ("yarn", 1000), ("dca", 2048), ("yarn+dca", 2048)]
)
def test_the_default_context_is_the_methods(model: Any, method: str, context: int) -> None:
    more = {"max_context": 1000} if method == "yarn" else {}  # a factor of 2
    with Engine(model, None, method, kv_budget_bytes=1 << 20, **more) as engine:
        assert engine.max_context == context
        assert engine.scheme.factor == (2.0 if more else None)


def test_no_event_within_the_timeout_is_an_error(model: Any) -> None:
    with engine_for(model) as engine:
        handle = engine.submit(EngineRequest([1], max_new_tokens=1))
        with pytest.raises(TimeoutError, match="is the engine started"):
            handle.result(timeout=0)
        assert drain(engine, handle).finish_reason == "length"
        with pytest.raises(RuntimeError, match="were read already"):
            handle.result()


def test_a_rotary_that_follows_the_longest_prompt_is_refused() -> None:
    model = tiny_models.build()
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UserError, match="rope_type 'dynamic'"):
        engine_for(model)


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
