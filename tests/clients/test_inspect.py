"""inspect_ai: an evaluation over chat completions and over responses, with a tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from common import SAY
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool


@tool
def weather() -> Tool:
    async def execute(place: str) -> str:
        """The weather at a place.

        Args:
            place: Where.
        """
        return f"Rain in {place}."

    return execute


def run(model: Any, folder: Path, *solvers: Any, **config: Any) -> Any:
    number = "One of the special magic numbers for amber-anchor is: 7239160.\n"
    question = "What is the special magic number for amber-anchor mentioned in the provided text?"
    task = Task(
        dataset=[Sample(input=number + question, target="7239160"), Sample(input=SAY, target="x")],
        solver=list(solvers) or [generate()],
        scorer=includes(),
        config=GenerateConfig(**config),
    )
    (log,) = eval(task, model=model, log_dir=str(folder), display="none", log_samples=True)
    assert log.status == "success", log.error
    return log


@pytest.mark.parametrize("responses", [False, True])
def test_an_evaluation(url: str, tmp_path: Path, responses: bool) -> None:
    model = get_model(
        "openai/embedded", base_url=f"{url}/v1", api_key="none", responses_api=responses
    )
    log = run(model, tmp_path, max_tokens=40, temperature=0.0, stop_seqs=None)
    assert log.samples[0].scores["includes"].value == "C"
    assert sum(each.output_tokens for each in log.stats.model_usage.values()) > 0


@pytest.mark.parametrize("responses", [False, True])
def test_a_tool_is_called_and_answered(tools_url: str, tmp_path: Path, responses: bool) -> None:
    model = get_model(
        "openai/random-tools", base_url=f"{tools_url}/v1", api_key="none", responses_api=responses
    )
    solvers = [use_tools(weather(), tool_choice="any"), generate(tool_calls="single")]
    log = run(model, tmp_path, *solvers, max_tokens=120, temperature=0.0)
    roles = [message.role for message in log.samples[0].messages]
    assert "tool" in roles
