"""The engine over one tensor of keys a layer, for kernels that read all rows of a step at once."""

from __future__ import annotations

import random

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, expected, greedy, prompt_of
from packing_kernel import PackingReference

from longctx.attention import kernels
from longctx.engine import EngineRequest
from longctx.engine.arena import Arena
from longctx.engine.kv import KvPool


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> PackingReference:
    made = PackingReference()
    monkeypatch.setitem(kernels._KERNELS, made.name, made)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_runs_never_overlap_and_holes_join_again(seed: int) -> None:
    rng = random.Random(seed)
    arena = Arena(200, 1, None)
    free = set(range(200))
    held: list[tuple[int, int]] = []

    def longest() -> int:
        best = run = 0
        for slot in range(200):
            run = run + 1 if slot in free else 0
            best = max(best, run)
        return best

    for _ in range(300):
        count = rng.randrange(1, 60)
        if held and rng.random() < 0.5:
            at, length = held.pop(rng.randrange(len(held)))
            kept = rng.choice((0, 0, length // 2))  # a tail alone, as trim() does it
            arena.give(at + kept, length - kept)
            free |= set(range(at + kept, at + length))
            if kept:
                held.append((at, kept))
        elif count <= arena.longest:
            at = arena.take(count)
            assert set(range(at, at + count)) <= free
            free -= set(range(at, at + count))
            held.append((at, count))
        else:
            with pytest.raises(MemoryError, match=f"no run of {count} slots"):
                arena.take(count)
        assert arena.longest == longest()
    for run in held:
        arena.give(*run)
    assert arena.longest == 200


def test_buffers_are_runs_of_the_arena() -> None:
    pool = KvPool(2, 10, 1000, in_arena=True)
    first, second = pool.allocate(0, 30), pool.allocate(7, 50)
    k_KLD, v_KLD = torch.randn(2, 2, 20, 4)
    for layer in range(2):
        second.write(layer, 7, k_KLD, v_KLD)
    assert (first.at, second.at, pool.free_tokens) == (0, 30, 20)
    for got, want in zip(second.read(1, 7, 27), (k_KLD, v_KLD), strict=True):
        assert torch.equal(got[0], want)
    k_1KMD, _ = second.home.stack(1)
    assert k_1KMD.shape == (1, 2, 100, 4) and torch.equal(k_1KMD[0, :, 30:50], k_KLD)
    first.release()
    assert pool.free_tokens == 50 and pool.used_bytes == 500
    second.trim(20)
    assert pool.free_tokens == 80 and torch.equal(second.read(1, 7, 27)[0][0], k_KLD)
    third = pool.allocate(0, 50)
    third.copy_from(second, 7, 27)
    assert third.at == 50 and torch.equal(third.read(1, 7, 27)[1][0], v_KLD)


@pytest.mark.parametrize("method", ["none", "dca", "yarn+dca", "yarn-freqs+dca"])
@pytest.mark.parametrize("share_from", [1, 10_000], ids=["in place", "copied"])
def test_a_step_of_any_rows_is_at_most_two_calls_and_changes_no_answer(
    method: str, share_from: int, kernel: PackingReference
) -> None:
    model = tiny_models.build()
    document = prompt_of(100)
    prompts = [prompt_of(n, seed=n) for n in (3, 150, 47)]
    prompts += [document + prompt_of(3 + n, seed=n) for n in range(3)]
    want = [expected(model, method, prompt) for prompt in prompts]
    options = {"kernel": kernel.name, "share_from": share_from}
    with engine_for(model, method, **options) as engine:
        handles = []
        for prompt in prompts:
            handles.append(engine.submit(EngineRequest(prompt, max_new_tokens=12)))
            engine.step()
        steps = engine.stats().counts.steps
        calls = len(kernel.calls)
        while engine.step():
            pass
        taken = engine.stats().counts.steps - steps
        assert len(kernel.calls) - calls <= 2 * model.config.num_hidden_layers * taken
        answers = [handle.result(timeout=0) for handle in handles]
        assert [answer.token_ids for answer in answers] == want
        assert answers[-1].usage.cached_tokens >= 100
        pool, prefixes = engine._scheduler.pool, engine._scheduler.prefixes
        prefixes.clear()
        assert pool.arena is not None and pool.used_bytes == 0
        assert pool.arena.longest == (1 << 24) // pool.bytes_per_token
    assert not any(pool.arena._layers)  # the next engine finds the memory free


def test_requests_wait_for_a_run_of_slots(kernel: PackingReference) -> None:
    model = tiny_models.build()
    prompts = [prompt_of(n, seed=n) for n in (40, 21, 55, 33, 80, 12, 64)]
    want = [expected(model, "dca", prompt, 6) for prompt in prompts]
    with engine_for(model, "dca") as engine:
        size = engine._runner.kv_bytes_per_token
    with engine_for(model, "dca", kernel=kernel.name, kv_budget_bytes=100 * size) as engine:
        handles = [engine.submit(EngineRequest(p, max_new_tokens=6)) for p in prompts]
        while engine.step():
            assert engine.stats().kv_used_bytes <= 100 * size
        assert [handle.result(timeout=0).token_ids for handle in handles] == want
        assert len(greedy(engine, prompt_of(94), 6)) == 6  # all of it, whatever was kept
