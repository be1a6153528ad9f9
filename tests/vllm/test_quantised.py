"""Checkpoints of 4-bit weights, which vLLM reads by itself, under longctx's attention.

vLLM's CPU kernels for them compute in bfloat16, so their answers are held to the exact ones as
closely as those of the same numbers in ordinary weights are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from longctx.vllm import version

pytestmark = [
    pytest.mark.skipif(
        version.installed() is None,
        reason="vLLM is not installed: `make test-vllm` runs this in an environment that has it",
    ),
    pytest.mark.skipif(
        not torch.backends.mkldnn.is_available()
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        reason="vLLM's kernels of 4-bit weights compute in bfloat16, which this CPU does not",
    ),
    pytest.mark.timeout(900),
]

LENGTHS = (200, 588, 1280)  # within a chunk of 256, in 3 and in 5 chunks
EACH = [[number] for number in range(len(LENGTHS))]
OURS = "longctx.vllm.cpu.DualChunkCpuImpl"
FORMATS = ("gptq", "awq")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import vllm_helpers
    import vllm_quantised

    directory = tmp_path_factory.mktemp("quantised")
    models = vllm_quantised.save_models(directory)
    prompts = vllm_helpers.prompts_of(LENGTHS)
    found: dict[str, Any] = {"prompts": prompts, "plain model": models["plain"]}
    for kind, model in models.items():
        arms = {"dca": {"additional_config": vllm_helpers.asks("dca")}}
        if kind in FORMATS:
            arms["stock"] = {}
        engines = [
            {"name": name, "options": {"dtype": "bfloat16", **options}, "rounds": EACH}
            for name, options in arms.items()
        ]
        job = {"model": str(model), "prompts": prompts, "new": 1, "engines": engines}
        found[kind] = vllm_helpers.ask_vllm(job, directory)
    return found


def firsts(answers: dict[str, Any], kind: str, arm: str) -> list[dict[str, Any]]:
    return [answer for (answer,) in answers[kind][arm]["rounds"]]


def errors(answers: dict[str, Any], kind: str, arm: str) -> list[float]:
    """Of the first token's log-probability, against a dense float32 forward pass."""
    import vllm_helpers

    found = firsts(answers, kind, arm)
    exact = vllm_helpers.dense_logprobs(
        Path(answers["plain model"]), "dca", answers["prompts"], found
    )
    return [abs(got["logprobs"][0] - want[0]) for got, want in zip(found, exact, strict=True)]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_layer_runs_on_longctxs_attention(kind, answers) -> None:
    assert set(answers[kind]["dca"]["workers"][0]) == {OURS}


@pytest.mark.parametrize("kind", FORMATS)
def test_answers_are_as_near_to_the_exact_ones_as_those_of_ordinary_weights(kind, answers) -> None:
    ordinary = errors(answers, "plain", "dca")
    assert max(errors(answers, kind, "dca")) <= 2 * max(ordinary) + 0.02


@pytest.mark.parametrize("kind", FORMATS)
def test_within_a_chunk_as_without_longctx_and_beyond_it_otherwise(kind, answers) -> None:
    stock, ours = firsts(answers, kind, "stock"), firsts(answers, kind, "dca")
    assert ours[0]["tokens"] == stock[0]["tokens"]
    assert ours[0]["logprobs"] == pytest.approx(stock[0]["logprobs"], abs=0.02)
    assert errors(answers, kind, "stock")[-1] > 5 * max(errors(answers, kind, "dca"))
