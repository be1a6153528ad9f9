"""What Prometheus reads of an engine."""

from __future__ import annotations

import tiny_models
from engine_helpers import engine_for, prompt_of, run

from longctx.engine import EngineRequest
from longctx.serve.metrics import Metrics

BYTES = 2 * 2 * 2 * 8 * 4  # per token: K and V, layers, heads, head_dim, float32


def test_a_request_that_gives_its_memory_up_is_counted() -> None:
    with engine_for(tiny_models.build(), kv_budget_bytes=110 * BYTES) as engine:
        metrics = Metrics(engine.stats)

        def told() -> float:
            rows = metrics.render().decode().splitlines()
            (row,) = (row for row in rows if row.startswith("longctx_requests_preempted_total "))
            return float(row.split()[1])

        run(engine, EngineRequest(prompt_of(30), max_new_tokens=30))
        assert told() == 0
        run(engine, *(EngineRequest(prompt_of(30, n), max_new_tokens=30) for n in range(3)))
        assert told() == engine.stats().counts.preempted > 0
