"""The time that a prompt may take, before any was read: proportions, and when it is not known."""

from __future__ import annotations

import pytest
from engine_helpers import engine_for, prompt_of
from tiny_models import build

from longctx.engine import EngineRequest
from longctx.serve.first_estimate import FirstEstimate


def test_long_prompts_cost_more_a_token_and_what_is_reused_nothing() -> None:
    model = build()
    with engine_for(model, max_context=8192) as engine:
        first = FirstEstimate(engine, model.config, engine.run_until_idle)
        seconds = [first.seconds(tokens) for tokens in (1000, 2000, 4000)]
        assert all(each is not None and each > 0 for each in seconds)
        small, double, fourfold = (each or 0.0 for each in seconds)
        assert 2 * small < double < 4 * small and 4 * small < fourfold < 16 * small
        assert first.seconds(4000, 4000) == 0.0
        assert first.seconds(4000, 2000) == pytest.approx(fourfold - double)
        assert engine.stats().retained_prefixes == 0  # what was timed is no prompt of anybody


def test_beside_others_it_is_not_measured() -> None:
    model = build()
    with engine_for(model) as engine:
        handle = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=2))
        first = FirstEstimate(engine, model.config, engine.run_until_idle)
        assert first.seconds(1000) is None
        engine.run_until_idle()
        assert handle.done and (first.seconds(1000) or 0) > 0
