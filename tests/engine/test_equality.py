"""Greedy answers do not depend on batch, chunk budget, cache or neighbours, and are the model's."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from engine_helpers import SCHEMES, engine_for, expected, greedy, prompt_of, run, scheme_of

from longctx.attention import active
from longctx.engine import Engine, EngineRequest


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen2_moe", "qwen3"])
@pytest.mark.parametrize("method", list(SCHEMES))
def test_answers_are_those_of_the_drop_in(family: str, method: str) -> None:
    model = tiny_models.build(family)
    prompts = [prompt_of(n, seed=n) for n in (5, 24, 25, 70, 131)]
    want = [expected(model, method, prompt) for prompt in prompts]
    with engine_for(model, method) as engine:
        assert [greedy(engine, prompt) for prompt in prompts] == want


@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_a_prompt_within_a_chunk_is_the_unextended_models(method: str) -> None:
    model = tiny_models.build()
    prompt = prompt_of(12)
    want = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    with engine_for(model, method) as engine:  # chunk_len 24: the answer ends on its border
        assert [*prompt, *greedy(engine, prompt)] == want[0].tolist()


@pytest.mark.parametrize("method", ["none", "yarn+dca"])
@pytest.mark.parametrize("budget", [16, 64, 256, 4096])
@pytest.mark.parametrize("family", ["qwen2", "qwen2_moe"])
def test_neither_batch_nor_budget_nor_arrival_changes_an_answer(
    family: str, method: str, budget: int
) -> None:
    model = tiny_models.build(family)
    prompts = [prompt_of(n, seed=n) for n in (150, 3, 47, 90, 24, 33, 120, 61)]
    with engine_for(model, method, chunk_budget=4096) as engine:
        alone = [greedy(engine, prompt) for prompt in prompts]
    with engine_for(model, method, chunk_budget=budget) as engine:
        handles = []
        for at, prompt in enumerate(prompts):
            handles.append(engine.submit(EngineRequest(prompt, max_new_tokens=12)))
            for _ in range(at % 3):
                engine.step()
        engine.run_until_idle()
        assert [handle.result(timeout=0).token_ids for handle in handles] == alone


@pytest.mark.parametrize("share_from", [1, 10_000], ids=["in place", "copied"])
@pytest.mark.parametrize("method", ["none", "dca", "yarn+dca"])
def test_a_cached_prefix_changes_no_answer(method: str, share_from: int) -> None:
    model = tiny_models.build()
    document = prompt_of(100)
    questions = [document + prompt_of(3 + n, seed=n) for n in range(3)]
    with engine_for(model, method) as engine:
        fresh = [
            run(engine, EngineRequest(ids, max_new_tokens=12, share_prefix=False))[0]
            for ids in questions
        ]
    assert [answer.usage.cached_tokens for answer in fresh] == [0, 0, 0]
    with engine_for(model, method, share_from=share_from) as engine:
        answers = [run(engine, EngineRequest(ids, max_new_tokens=12))[0] for ids in questions]
        assert [answer.token_ids for answer in answers] == [a.token_ids for a in fresh]
        assert [answer.usage.cached_tokens for answer in answers] == [0, 100, 100]


@pytest.mark.parametrize("method", ["none", "yarn+dca"])
def test_a_conversation_goes_on_from_its_own_answers(method: str) -> None:
    model = tiny_models.build()
    with engine_for(model, method, share_from=8) as engine:
        ids, previous = prompt_of(90), 0
        for turn in range(6):
            shared = run(engine, EngineRequest(ids, max_new_tokens=9))[0]
            fresh = run(engine, EngineRequest(ids, max_new_tokens=9, share_prefix=False))[0]
            assert shared.token_ids == fresh.token_ids
            if turn and method == "none":  # the last token of an answer was never computed
                assert shared.usage.cached_tokens == previous + 8
            previous = len(ids)
            ids = [*ids, *shared.token_ids, *prompt_of(4, seed=turn)]


def test_prefixes_are_not_shared_across_temperature_buckets() -> None:
    model = tiny_models.build()
    ids = prompt_of(60)
    with engine_for(model, "yarn+dca") as engine:
        run(engine, EngineRequest(ids[:42], max_new_tokens=4))
        # 32 * 2^(3/8) = 41.5 and 32 * 2^(4/8) = 45.3: edges 42 and 46.
        same, other = run(
            engine,
            EngineRequest(ids[:41], max_new_tokens=4),
            EngineRequest(ids[:43], max_new_tokens=4),
        )
        assert (same.usage.cached_tokens, other.usage.cached_tokens) == (40, 0)
        said = EngineRequest(ids[:43], max_new_tokens=4, request_length=42)
        assert run(engine, said)[0].usage.cached_tokens == 42
    assert other.token_ids == expected(model, "yarn+dca", ids[:43], 4)


def test_requests_that_arrive_together_compute_their_document_once() -> None:
    model = tiny_models.build()
    document = prompt_of(120)
    questions = [[*document, n, n + 1] for n in (5, 10, 15, 20)]
    with engine_for(model, "dca", chunk_budget=32, share_from=16) as engine:
        want = [greedy(engine, ids) for ids in questions]
    with engine_for(model, "dca", chunk_budget=32, share_from=16) as engine:
        answers = run(engine, *(EngineRequest(ids, max_new_tokens=12) for ids in questions))
        assert [answer.token_ids for answer in answers] == want
        assert engine.stats().counts.prompt_tokens < 120 + 4 * 64
        assert sum(answer.usage.cached_tokens > 0 for answer in answers) == 3


def test_the_model_is_given_back() -> None:
    model = tiny_models.build()
    config, inv_freq = model.config, model.model.rotary_emb.inv_freq.clone()
    ids = torch.tensor([prompt_of(20)])
    before = model(ids).logits
    engine = engine_for(model, "yarn")
    assert active(model) is not None
    with pytest.raises(RuntimeError, match="belongs to a longctx engine"):
        model(ids)
    with pytest.raises(RuntimeError, match="has another longctx scheme or engine"):
        Engine(model, None, scheme_of(model, "none"))
    engine.close()
    engine.close()
    assert active(model) is None and model.config is config
    assert torch.equal(model.model.rotary_emb.inv_freq, inv_freq)
    assert torch.equal(model(ids).logits, before)
