"""The engine on a GPU: prefixes, sampling, memory. Its numbers: `test_real_shapes_on_cuda.py`."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, prompt_of, run

from longctx.engine import EngineRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def test_prefixes_sampling_and_memory_work_there() -> None:
    model: Any = tiny_models.build().to("cuda", torch.bfloat16)
    with engine_for(model, "yarn+dca", share_from=16) as engine:
        requests = [EngineRequest([*prompt_of(90), n], max_new_tokens=8) for n in range(4)]
        answers = run(engine, *requests)
        assert [len(answer.token_ids) for answer in answers] == [8] * 4
        assert sum(answer.usage.cached_tokens > 0 for answer in answers) == 3
        assert engine.device.type == "cuda" and engine.stats().counts.failed == 0
