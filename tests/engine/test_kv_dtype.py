"""Keys and values in another dtype than the model's: half the memory, nearly the same answers."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, greedy, prompt_of, run

from longctx.engine import EngineRequest


@pytest.mark.parametrize("method", ["none", "yarn", "dca", "yarn+dca"])
def test_keys_in_bf16_take_half_the_memory_and_give_close_scores(method: str) -> None:
    prompt = prompt_of(150)
    request = EngineRequest(prompt, max_new_tokens=0, prompt_logprobs=True)
    with engine_for(tiny_models.build(), method) as engine:
        (want,) = run(engine, request)
        whole = engine.fitting_tokens
        assert engine.kv_dtype is torch.float32
    with engine_for(tiny_models.build(), method, kv_dtype=torch.bfloat16) as engine:
        (got,) = run(engine, request)
        assert engine.fitting_tokens == 2 * whole
        assert engine.kv_dtype is torch.bfloat16
        buffer = engine._scheduler.pool.allocate(0, 4)
        buffer.write(0, 0, torch.ones(2, 4, 8), torch.ones(2, 4, 8))
        assert buffer.read(0, 0, 4)[0].dtype is torch.bfloat16
    wrong = torch.tensor(got.prompt_logprobs) - torch.tensor(want.prompt_logprobs)
    assert 0 < wrong.abs().max() < 0.05  # bf16 keeps eight bits


def test_any_batch_and_split_of_the_prompt_gives_the_same() -> None:
    prompts = [prompt_of(100, seed) for seed in range(3)]
    answers = []
    for budget in (16, 256):
        with engine_for(
            tiny_models.build(), "yarn+dca", kv_dtype=torch.bfloat16, chunk_budget=budget
        ) as engine:
            together = run(engine, *(EngineRequest(p, max_new_tokens=8) for p in prompts))
            answers.append([answer.token_ids for answer in together])
        with engine_for(
            tiny_models.build(), "yarn+dca", kv_dtype=torch.bfloat16, chunk_budget=budget
        ) as engine:
            answers.append([greedy(engine, prompt, 8) for prompt in prompts])
    assert all(answer == answers[0] for answer in answers)
