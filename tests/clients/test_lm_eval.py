"""lm-eval over the API: the same figures as the adapter that asks the engine in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

import longctx.models.lm_eval  # noqa: F401 (registers the model `longctx`)
from longctx.tiny import WEIGHTS

FOLDER = Path(__file__).parent


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tasks' data are named from here."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))


def evaluated(model: str, arguments: dict[str, Any], task: str, **options: Any) -> Any:
    manager = TaskManager(include_path=str(FOLDER / "tasks"), include_defaults=False)
    return simple_evaluate(
        model, model_args=arguments, tasks=[task], task_manager=manager, bootstrap_iters=0,
        log_samples=True, **options,
    )  # fmt: skip


def in_process(task: str, **options: Any) -> Any:
    """At the temperature of prompts within the window, which the server gives these: the adapter
    takes one for all, by default that of `max_length`."""
    arguments = {
        **{"pretrained": str(WEIGHTS), "method": "yarn+dca", "max_length": 16384},
        **{"dtype": "float32", "request_length": 512},
    }
    return evaluated("longctx", arguments, task, device="cpu", **options)


def scores(found: Any, task: str) -> list[list[float]]:
    """Of every question, the log-likelihoods of its choices."""
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [[float(choice[0][0]) for choice in sample["resps"]] for sample in samples]


@pytest.fixture(scope="module")
def adapters() -> dict[str, Any]:
    """Asked once."""
    return {}


@pytest.mark.parametrize("tokenizer", ["ids", "texts", "remote"])
def test_multiple_choice_over_completions(
    url: str, adapters: dict[str, Any], tokenizer: str
) -> None:
    task = "longctx_numbers_choice"
    arguments: dict[str, Any] = {
        **{"model": "embedded", "base_url": f"{url}/v1/completions", "num_concurrent": 2},
        **{"max_length": 8192, "tokenized_requests": tokenizer == "ids"},
    }
    if tokenizer != "remote":
        arguments |= {"tokenizer_backend": "huggingface", "tokenizer": str(WEIGHTS)}
    over_api = evaluated("local-completions", arguments, task, batch_size=8)
    if task not in adapters:
        adapters[task] = in_process(task)
    own = adapters[task]
    assert over_api["results"][task]["acc,none"] == own["results"][task]["acc,none"] > 0.25
    assert over_api["results"][task]["acc_norm,none"] == own["results"][task]["acc_norm,none"]
    for got, want in zip(scores(over_api, task), scores(own, task), strict=True):
        assert got == pytest.approx(want, abs=1e-3)


def test_answers_in_words_over_chat_equal_the_adapters(url: str) -> None:
    task = "longctx_numbers_said"
    arguments = {
        **{"model": "embedded", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 4},
        "max_length": 8192,
    }
    over_api = evaluated("local-chat-completions", arguments, task, apply_chat_template=True)
    own = in_process(task, apply_chat_template=True)
    said = [
        [sample["resps"][0][0] for sample in sorted(found["samples"][task],
                                                   key=lambda one: one["doc_id"])]
        for found in (over_api, own)
    ]  # fmt: skip
    assert said[0] == said[1]
    metric = "exact_match,number"
    assert over_api["results"][task][metric] == own["results"][task][metric] > 0
