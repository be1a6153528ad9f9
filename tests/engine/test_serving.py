"""Fairness, memory, cancellation and failures: what one request may do to another."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tiny_models
from engine_helpers import drain, engine_for, greedy, prompt_of, run

from longctx.engine import (
    Engine,
    EngineClosedError,
    EngineRequest,
    Failed,
    Finished,
    Progress,
    QueueFullError,
)
from longctx.errors import UserError


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


# -- cancellation ---------------------------------------------------------------------------------


# -- failures -------------------------------------------------------------------------------------


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
        assert "Qwen2ForCausalLM" in repr(engine) and engine.kernel_name in repr(engine)
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


@pytest.mark.parametrize("method", ["none", "dca", "yarn+dca"])
@pytest.mark.parametrize("budget", [16, 64])
def test_scores_from_an_index_on_are_the_last_of_all_and_share_what_stands_before(
    method: str, budget: int
) -> None:
    prompts = [[*prompt_of(120), *prompt_of(20, seed)] for seed in (1, 2, 3)]
    scored = {"max_new_tokens": 0, "prompt_logprobs": True}
    with engine_for(tiny_models.build(), method, chunk_budget=budget) as engine:
        whole = run(engine, *(EngineRequest(p, share_prefix=False, **scored) for p in prompts))
    with engine_for(tiny_models.build(), method, chunk_budget=budget) as engine:
        some = run(engine, *(EngineRequest(p, prompt_logprobs_from=120, **scored) for p in prompts))
    # With small steps the others go on once little of the first is left to wait for.
    cached = [answer.usage.cached_tokens for answer in some]
    assert cached[0] == 0 and all(100 < tokens <= 119 for tokens in cached[1:])
    for all_of_it, tail in zip(whole, some, strict=True):
        assert all_of_it.prompt_logprobs is not None and tail.prompt_logprobs is not None
        assert len(all_of_it.prompt_logprobs) == 139 and len(tail.prompt_logprobs) == 20
        assert tail.prompt_logprobs == pytest.approx(all_of_it.prompt_logprobs[-20:], abs=1e-4)
        assert all_of_it.prompt_likeliest is not None
        assert tail.prompt_likeliest == all_of_it.prompt_likeliest[-20:]


def test_the_likeliest_token_is_the_greedy_one() -> None:
    prompt = prompt_of(60)
    with engine_for(tiny_models.build()) as engine:
        first = greedy(engine, prompt, 1)
        (scored,) = run(
            engine, EngineRequest([*prompt, *first], max_new_tokens=0, prompt_logprobs=True)
        )
    assert scored.prompt_likeliest is not None and scored.prompt_likeliest[-1] == first[0]


@pytest.mark.parametrize("index", [0, 60])
def test_scores_from_outside_the_prompt_are_refused(index: int) -> None:
    with pytest.raises(UserError, match=f"prompt_logprobs_from={index} must be at least 1"):
        EngineRequest(prompt_of(60), prompt_logprobs=True, prompt_logprobs_from=index)


def test_prompts_first_decodes_together_and_answers_alike() -> None:
    prompts = [prompt_of(150, seed) for seed in range(4)]
    requests = [EngineRequest(prompt, max_new_tokens=6) for prompt in prompts]
    answers, steps = [], []
    for first in (False, True):
        with engine_for(tiny_models.build(), "dca", prompts_first=first) as engine:
            answers.append([answer.token_ids for answer in run(engine, *requests)])
            steps.append(engine.stats().counts.steps)
    assert answers[0] == answers[1]
    # All prompts in 600 / 64 steps, whose last one draws the last's first token, then 5 tokens.
    assert steps[1] == 10 + 5
