"""Random traffic: whatever arrives, shares, is cancelled or fails, answers and memory are right."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tiny_models
from engine_helpers import engine_for, prompt_of, run
from packing_kernel import PackingReference

from longctx.attention import kernels
from longctx.engine import EngineRequest, Finished, Generation, Sampling

BYTES = 2 * 2 * 2 * 8 * 4  # per token: K and V, layers, heads, head_dim, float32


@pytest.mark.parametrize("method", ["none", "yarn+dca"])
@pytest.mark.parametrize("seed", range(3))
def test_random_traffic(method: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second seed over one arena, by a kernel of packed sequences."""
    model = tiny_models.build()
    packing = PackingReference()
    monkeypatch.setitem(kernels._KERNELS, packing.name, packing)
    kernel = packing.name if seed % 2 else "auto"
    rng = random.Random(seed)
    documents = [prompt_of(n, seed=n) for n in (40, 90, 150)]

    def request() -> EngineRequest:
        document = rng.choice(documents)
        ids = document[: rng.randrange(1, len(document) + 1)]
        ids = ids + prompt_of(rng.randrange(0, 30), seed=rng.randrange(4))
        hot = Sampling(temperature=1.0, top_p=0.9, seed=rng.randrange(99))
        return EngineRequest(
            ids, max_new_tokens=rng.randrange(1, 20), sampling=rng.choice([Sampling(), hot])
        )

    requests = [request() for _ in range(40)]
    with engine_for(model, method, chunk_budget=4096) as engine:
        alone = {
            at: run(engine, EngineRequest(r.prompt_ids, r.max_new_tokens, r.sampling,
                                          share_prefix=False))[0].token_ids
            for at, r in enumerate(requests)
        }  # fmt: skip

    budget = rng.choice([250, 400, 1000]) * BYTES
    with engine_for(
        model,
        method,
        chunk_budget=rng.choice([16, 40, 128]),
        kv_budget_bytes=budget,
        share_from=rng.choice([1, 16, 64]),
        max_running=rng.choice([3, 8, 64]),
        kernel=kernel,
    ) as engine:
        forward = engine._runner.forward

        def fails_at_times(*arguments: Any) -> Any:
            if len(arguments[1]) > 1 and rng.random() < 0.05:
                raise RuntimeError("a passing failure")
            return forward(*arguments)

        monkeypatch.setattr(engine._runner, "forward", fails_at_times)
        handles: dict[int, Generation] = {}
        for at, each in enumerate(requests):
            handles[at] = engine.submit(each)
            for _ in range(rng.randrange(0, 6)):
                engine.step()
                assert engine.stats().kv_used_bytes <= budget
            if rng.random() < 0.2:
                handles[rng.choice(list(handles))].cancel()
        engine.run_until_idle()
        monkeypatch.undo()
        cancelled = 0
        for at, handle in handles.items():
            *_, last = events = list(handle.events(timeout=0))
            assert isinstance(last, Finished), last
            tokens = tuple(n for event in events for n in getattr(event, "token_ids", ()))
            cancelled += last.reason == "cancelled"
            if last.reason == "cancelled":
                assert tokens == alone[at][: len(tokens)]
            else:
                assert tokens == alone[at]
        assert cancelled < 20 and engine.stats().counts.cached_tokens > 0
        engine._scheduler.prefixes.clear()
        assert engine.stats().kv_used_bytes == 0
