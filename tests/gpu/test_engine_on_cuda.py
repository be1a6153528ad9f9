"""The engine on a GPU: as near to float32 as the drop-in in the same dtype, in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import CHUNKS, engine_for, prompt_of, run

from longctx.attention import extend
from longctx.engine import EngineRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def scores(model: Any, prompt: list[int], **options: Any) -> torch.Tensor:
    with engine_for(model, "dca", **options) as engine:
        request = EngineRequest(prompt, max_new_tokens=0, prompt_logprobs=True)
        (answer, *_) = run(engine, request, EngineRequest(prompt_of(70, 5), max_new_tokens=9))
    return torch.tensor(answer.prompt_logprobs, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_are_as_good_as_the_drop_ins(dtype: torch.dtype) -> None:
    prompt = prompt_of(200)
    exact = scores(tiny_models.build(), prompt)
    model: Any = tiny_models.build().to("cuda", dtype)
    ids = torch.tensor([prompt], device="cuda")
    with extend(model, "dca", **CHUNKS), torch.no_grad():
        plain = torch.log_softmax(model(ids).logits[0].double(), -1)
    plain = plain[:-1].gather(1, ids[0, 1:, None])[:, 0].cpu()
    for budget in (32, 4096):
        found = scores(model, prompt, chunk_budget=budget)
        error, allowed = (found - exact).abs().mean(), (plain - exact).abs().mean()
        assert error <= 1.5 * allowed + 1e-3


def test_prefixes_sampling_and_memory_work_there() -> None:
    model: Any = tiny_models.build().to("cuda", torch.bfloat16)
    with engine_for(model, "yarn+dca", share_from=16) as engine:
        requests = [EngineRequest([*prompt_of(90), n], max_new_tokens=8) for n in range(4)]
        answers = run(engine, *requests)
        assert [len(answer.token_ids) for answer in answers] == [8] * 4
        assert sum(answer.usage.cached_tokens > 0 for answer in answers) == 3
        assert engine.device.type == "cuda" and engine.stats().counts.failed == 0
