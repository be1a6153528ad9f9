"""Families that have Dual Chunk Attention in vLLM, and bfloat16, against the embedded engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from longctx.vllm import version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        version.installed() is None,
        reason="vLLM is not installed: `make test-vllm-full` runs this in an environment with it",
    ),
    pytest.mark.timeout(900),
]

LENGTHS = (128, 588, 1280)
ROUNDS = [[0], [1], [2], [0, 1, 2]]
OURS = "longctx.vllm.cpu.DualChunkCpuImpl"


def answers(model: Path, prompts: Any, directory: Path, **options: Any) -> list[list[dict]]:
    import vllm_helpers

    options = {"additional_config": vllm_helpers.asks("yarn+dca"), **options}
    engine = {"name": "yarn+dca", "options": options, "rounds": ROUNDS}
    job = {"model": str(model), "prompts": prompts, "new": vllm_helpers.NEW, "engines": [engine]}
    found = vllm_helpers.ask_vllm(job, directory)["yarn+dca"]
    assert "error" not in found, found["error"]
    assert set(found["workers"][0]) == {OURS}
    return found["rounds"]


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3", "qwen3_moe"])
def test_answers_equal_the_embedded_engines(family, tmp_path) -> None:
    import vllm_helpers

    vllm_helpers.save_model(tmp_path, family)
    prompts = vllm_helpers.prompts_of(LENGTHS)
    expected = vllm_helpers.engine_answers(tmp_path, "yarn+dca", prompts)
    for numbers, got in zip(ROUNDS, answers(tmp_path, prompts, tmp_path), strict=True):
        for number, answer in zip(numbers, got, strict=True):
            assert answer["tokens"] == expected[number]["tokens"], f"prompt {number}"
            assert answer["logprobs"] == pytest.approx(expected[number]["logprobs"], abs=1e-3)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="vLLM computes bfloat16 by instructions that this CPU has not",
)
def test_bfloat16_is_as_exact_as_in_the_embedded_engine(tmp_path) -> None:
    import vllm_helpers

    vllm_helpers.save_model(tmp_path)
    prompts = vllm_helpers.prompts_of(LENGTHS)
    own = vllm_helpers.engine_answers(tmp_path, "yarn+dca", prompts, torch.bfloat16)
    found = [each for (each,) in answers(tmp_path, prompts, tmp_path, dtype="bfloat16")[:3]]

    def worst(given: list[dict[str, Any]]) -> float:
        exact = vllm_helpers.dense_logprobs(tmp_path, "yarn+dca", prompts, given)
        pairs = zip(given, exact, strict=True)
        return max(
            abs(got - want)
            for answer, wanted in pairs
            for got, want in zip(answer["logprobs"], wanted, strict=True)
        )

    assert worst(found) <= 1.5 * worst(own) + 0.02
