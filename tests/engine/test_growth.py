"""Memory that grows with the answers: who is admitted, who starts over, and no answer tells."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tiny_models
from engine_helpers import engine_for, greedy, prompt_of, run
from packing_kernel import PackingReference
from paging_kernels import Version2, install

from longctx.attention import kernels
from longctx.engine import Engine, EngineRequest, Finished, InsufficientMemoryError, Sampling, kv
from longctx.engine.memory import MAX_SCORED, step_rows

BYTES = 2 * 2 * 2 * 8 * 4  # per token: K and V, layers, heads, head_dim, float32


def used_now(engine: Engine) -> tuple[int, int]:
    """Blocks that are held by anybody, and by kept prefixes alone: counted anew."""
    scheduler = engine._scheduler
    buffers = {id(each.kv.own): each.kv.own for each in scheduler.running if each.kv}
    for sequence in scheduler.running:
        buffers |= {id(each.buffer): each.buffer for each in sequence.kv.shared}  # type: ignore[union-attr]
    nodes = [*scheduler.prefixes._roots.values()]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children.values())
        if node.buffer is not None:
            buffers[id(node.buffer)] = node.buffer
    used = sum(int(((b._users > 0) | (b._kept > 0)).sum()) for b in buffers.values())
    idle = sum(int(((b._users == 0) & (b._kept > 0)).sum()) for b in buffers.values())
    return used, idle


def test_a_request_that_waits_takes_nothing_from_what_is_kept(model: Any) -> None:
    """A document stays while a request waits that could not start even without it."""
    with engine_for(model, kv_budget_bytes=300 * BYTES, share_from=16) as engine:
        document = prompt_of(120)
        greedy(engine, document, 1)
        running = engine.submit(EngineRequest(prompt_of(100, 1), max_new_tokens=40))
        engine.step()
        large = engine.submit(EngineRequest(prompt_of(220, 2), max_new_tokens=2))
        for _ in range(10):
            engine.step()
        assert engine.stats().waiting == 1
        (answer,) = run(engine, EngineRequest([*document, 5], max_new_tokens=1))
        assert answer.usage.cached_tokens == 120
        assert running.result(timeout=0).finish_reason == "length"
        assert large.result(timeout=0).finish_reason == "length"


def test_answers_that_may_be_long_run_together_while_they_are_short(model: Any) -> None:
    prompts = [prompt_of(20, n) for n in range(4)]
    with engine_for(model, kv_budget_bytes=150 * BYTES) as engine:
        stop = frozenset(range(97))
        for prompt in prompts:  # each may take 120 of the 150 tokens, and ends after one
            engine.submit(EngineRequest(prompt, max_new_tokens=100, stop_ids=stop))
        engine.step()
        engine.step()
        assert engine.stats().counts.finished == 4
        assert engine.stats().counts.preempted == 0


@pytest.mark.parametrize("kernel", ["auto", PackingReference.name])
@pytest.mark.parametrize("method", ["none", "yarn+dca"])
def test_who_starts_over_answers_as_before(
    method: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernels._KERNELS, PackingReference.name, PackingReference())
    model = tiny_models.build()
    hot = Sampling(temperature=1.0, seed=3)
    requests = [
        EngineRequest(prompt_of(30, n), max_new_tokens=30, sampling=hot if n == 2 else Sampling())
        for n in range(3)
    ]
    with engine_for(model, method) as engine:
        want = [run(engine, request)[0].token_ids for request in requests]
    with engine_for(model, method, kv_budget_bytes=110 * BYTES, kernel=kernel) as engine:
        answers = run(engine, *requests)
        assert [answer.token_ids for answer in answers] == want
        assert engine.stats().counts.preempted > 0
        assert all(answer.usage.cached_tokens == 0 for answer in answers)
        # The first is the oldest: nobody takes its memory.
        assert answers[0].usage.total_s == min(answer.usage.total_s for answer in answers)


def test_scores_of_a_prompt_that_starts_over_are_whole(model: Any) -> None:
    scored = {"max_new_tokens": 8, "prompt_logprobs": True}
    with engine_for(model) as engine:
        want = run(engine, EngineRequest(prompt_of(70, 1), **scored))[0]
    with engine_for(model, kv_budget_bytes=128 * BYTES, chunk_budget=16) as engine:
        first = engine.submit(EngineRequest(prompt_of(40), max_new_tokens=60))
        for _ in range(4):
            engine.step()
        second = engine.submit(EngineRequest(prompt_of(70, 1), **scored))
        engine.run_until_idle()
        got = second.result(timeout=0)
        assert engine.stats().counts.preempted > 0 and first.result(timeout=0).token_ids
    assert got.token_ids == want.token_ids
    assert got.prompt_logprobs == pytest.approx(want.prompt_logprobs, abs=1e-4)
    assert len(got.prompt_logprobs or ()) == 69


def test_what_is_read_elsewhere_leaves_no_room_for_is_refused(model: Any) -> None:
    """Even alone: what holds memory may take long."""
    with engine_for(model, kv_budget_bytes=100 * BYTES, share_from=16) as engine:
        greedy(engine, prompt_of(60), 1)
        scheduler = engine._scheduler
        match = scheduler.prefixes.match(0, np.array(prompt_of(60)))
        assert match.length == 60
        with scheduler.pool.holding(match.segments, match.length):
            at_once = engine.submit(EngineRequest(prompt_of(50, 1), max_new_tokens=2))
            later = engine.submit(EngineRequest(prompt_of(20, 2), max_new_tokens=70))
            engine.run_until_idle()
            with pytest.raises(InsufficientMemoryError, match="51 tokens need"):
                at_once.result(timeout=0)
            with pytest.raises(InsufficientMemoryError, match="holds 40 tokens"):
                later.result(timeout=0)
        assert len(greedy(engine, prompt_of(90, 3), 6)) == 6


def test_logits_of_scored_prompts_are_bounded_for_a_step(model: Any) -> None:
    assert step_rows(64) == MAX_SCORED and step_rows(300) == 316
    with engine_for(model, chunk_budget=4096, max_context=2000) as engine:
        forward, rows = engine._runner.forward, []

        def counting(tokens: Any, batch: Any, wanted: Any) -> Any:
            rows.append(len(wanted))
            return forward(tokens, batch, wanted)

        engine._runner.forward = counting  # type: ignore[method-assign]
        scored = [
            EngineRequest(prompt_of(200, n), max_new_tokens=0, prompt_logprobs=True)
            for n in range(4)
        ]
        answers = run(engine, *scored, EngineRequest(prompt_of(40, 9), max_new_tokens=3))
    assert [len(answer.prompt_logprobs or ()) for answer in answers[:4]] == [199] * 4
    assert max(rows) <= MAX_SCORED and sum(rows) == 4 * 200 + 3


@pytest.mark.parametrize("seed", range(6))
def test_random_arrivals_cancellations_preemptions_and_failures(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step: every block is counted, and in the end each answer is the request's alone."""
    rng = random.Random(seed)
    model, method = tiny_models.build(), ("none", "yarn+dca")[seed % 2]
    packing = PackingReference()
    paging = install(monkeypatch, Version2(16))
    for kernel in (packing, paging):
        monkeypatch.setitem(kernels._KERNELS, kernel.name, kernel)
    documents = [prompt_of(n, seed=n) for n in (40, 90)]

    def request() -> EngineRequest:
        document = rng.choice(documents)
        ids = document[: rng.randrange(1, len(document) + 1)]
        ids = ids + prompt_of(rng.randrange(0, 20), seed=rng.randrange(4))
        share = rng.random() < 0.9
        return EngineRequest(ids, max_new_tokens=rng.randrange(1, 30), share_prefix=share)

    requests = [request() for _ in range(14)]
    with engine_for(model, method, chunk_budget=4096) as engine:
        alone = [
            run(engine, EngineRequest(each.prompt_ids, each.max_new_tokens, share_prefix=False))[0]
            for each in requests
        ]
    block = rng.choice([1, 4, 16])
    monkeypatch.setattr(kv, "block_tokens", lambda *_: block)
    budget = rng.choice([10, 13, 20]) * 16 * BYTES
    with engine_for(
        model,
        method,
        chunk_budget=rng.choice([16, 40, 128]),
        kv_budget_bytes=budget,
        share_from=rng.choice([1, 16, 64]),
        kernel=("auto", paging.name, packing.name)[seed % 3],
    ) as engine:
        forward, pool = engine._runner.forward, engine._scheduler.pool

        def fails_at_times(*arguments: Any) -> Any:
            if len(arguments[1]) > 1 and rng.random() < 0.1:
                raise rng.choice([RuntimeError("a passing failure"), MemoryError("short")])
            return forward(*arguments)

        monkeypatch.setattr(engine._runner, "forward", fails_at_times)
        handles = []
        pending = list(requests)
        while pending or engine._busy:
            if pending and rng.random() < 0.7:
                handles.append(engine.submit(pending.pop(0)))
            if rng.random() < 0.03:
                rng.choice(handles).cancel()
            if engine._scheduler.running and rng.random() < 0.05:
                engine._scheduler._preempt(engine._scheduler.running[-1])
            engine.step()
            assert pool.used_blocks <= pool.blocks
            assert (pool.used_blocks, pool.idle_blocks) == used_now(engine)
        for handle, want in zip(handles, alone, strict=True):
            *_, last = events = list(handle.events(timeout=0))
            assert isinstance(last, Finished), last
            tokens = tuple(n for event in events for n in getattr(event, "token_ids", ()))
            assert tokens == want.token_ids[: len(tokens)]
            assert last.reason == "cancelled" or tokens == want.token_ids
        engine._scheduler.prefixes.clear()
        assert pool.used_blocks == pool.idle_blocks == 0
        assert pool.arena is None or pool.arena.longest == pool.budget_tokens
