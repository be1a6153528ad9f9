"""A needle run's model that is asked through vLLM: what is refused before vLLM is started, and how
its answers become events. vLLM itself runs in tests/vllm."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from longctx.cli import app
from longctx.engine import Delta, EngineRequest, Finished, Progress
from longctx.models import vllm_options, vllm_session
from longctx.models.base import LoadedModels
from longctx.models.vllm_answer import VllmAnswer
from longctx.options.needle import NeedleOptions
from longctx.runs.needle_prepare import prepare
from longctx.runs.settle import settle_needle
from longctx.vllm import version

GRID = ("--lengths", "512", "--depths", "50%", "--repeats", "1", "--dry-run")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vllm_options, version):
        monkeypatch.setattr(module, "installed", lambda: ("vllm", "0.33.0"))
    monkeypatch.setattr(vllm_options, "entry_points", lambda group: [EntryPoint("longctx", "", "")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "none,yarn"), "--methods yarn does not run in vLLM"),
        (("--methods", "dca", "--kernel", "reference"), "--kernel reference: vLLM decides"),
        (("--methods", "dca", "--engine", "tgi"), "--engine tgi: use longctx or vllm"),
    ],
)
def test_refusals_name_the_argument(words, message, vllm) -> None:
    done = CliRunner().invoke(app, ["needle", "--engine", "vllm", *GRID, *words])
    assert done.exit_code != 0
    assert message in (str(done.exception) + done.output)


def test_perplexity_refuses_windows_whose_temperature_vllm_cannot_know(vllm) -> None:
    words = ["perplexity", "--engine", "vllm", "--lengths", "512,1K", "--dry-run"]
    done = CliRunner().invoke(app, [*words, "--methods", "yarn+dca", "--metric", "window"])
    assert done.exit_code != 0
    assert "--metric window: vLLM takes the temperature of yarn+dca" in str(done.exception)
    done = CliRunner().invoke(app, [*words, "--methods", "dca", "--metric", "window", "--json"])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout.splitlines()[-1])["settings"]["kernel"] == "vllm 0.33.0"
    done = CliRunner().invoke(app, [*words, "--methods", "yarn"])
    assert done.exit_code != 0 and "yarn does not run in vLLM" in str(done.exception)


def test_one_vllm_runs_and_only_another_method_starts_it_anew(vllm, monkeypatch, tmp_path) -> None:
    """Of the engine itself only its start and end are watched: it runs in tests/vllm."""
    events: list[str] = []

    class Watched:
        broken: Exception | None = None

        def __init__(self, tokenizer: Any, scheme: Any, *_: Any, **__: Any) -> None:
            self.method = scheme.method
            events.append(f"start {self.method}")

        def close(self) -> None:
            events.append(f"end {self.method}")

    monkeypatch.setattr(vllm_session, "VllmEngine", Watched)
    done = CliRunner().invoke(app, ["needle", "--engine", "vllm", *GRID, "--methods", "dca"])
    assert done.exit_code == 0 and not events  # a dry run starts nothing
    options = replace(settle_needle(NeedleOptions(engine="vllm", methods=("none", "dca"))))
    model = prepare(replace(options, output=tmp_path)).model
    with LoadedModels() as loaded:
        first, second = (model.sessions(loaded) for _ in range(2))  # two tasks of one command
        for method in ("none", "none", "dca", "dca"):
            for sessions in (first, second):
                with sessions[method]:
                    pass
        assert events == ["start none", "end none", "start dca"]
        with first["dca"] as session:
            session.engine.broken = RuntimeError("gone")
        with first["dca"]:
            pass
        assert events[3:] == ["end dca", "start dca"]
    assert events[5:] == ["end dca"]


def test_a_machine_without_vllm_says_so(monkeypatch) -> None:
    monkeypatch.setattr(vllm_options, "installed", lambda: None)
    words = ["needle", "--engine", "vllm", "--methods", "dca", *GRID]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and "vLLM is not installed" in str(done.exception)


def test_an_endpoint_has_no_engine_of_ours() -> None:
    words = ["needle", "served", "--base-url", "http://127.0.0.1:9/v1", "--engine", "vllm", *GRID]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and "leave --engine out" in str(done.exception)


# -- one answer -----------------------------------------------------------------------------------

WORDS = {1: "alpha ", 2: "beta ", 3: "gamma ", 9: ""}


def decode(ids: list[int]) -> str:
    return "".join(WORDS[token] for token in ids)


def given(tokens: list[int], *, cached: int = 0, finish: str | None = None, **more: Any) -> Any:
    """What vLLM hands out: new tokens, each with its own log-probability and the likeliest."""

    def about(token: int) -> dict[int, Any]:
        return {
            token: SimpleNamespace(logprob=-1.5, rank=2),
            7: SimpleNamespace(logprob=-0.5, rank=1),
        }

    made = SimpleNamespace(
        token_ids=tokens, logprobs=[about(token) for token in tokens], finish_reason=finish
    )
    return SimpleNamespace(
        outputs=[made],
        num_cached_tokens=cached,
        metrics=SimpleNamespace(scheduled_ts=5.0, queued_ts=4.5),
        prompt_logprobs=more.get("prompt_logprobs"),
    )


def test_tokens_become_events() -> None:
    request = EngineRequest([1, 2, 3], max_new_tokens=5, logprobs=True, top_logprobs=1)
    answer = VllmAnswer(request, frozenset({9}), decode)
    assert answer.begun() == Progress(3, 0, 0)
    first = answer.heard(given([1], cached=2))
    assert first[0] == Progress(3, 2, 3)
    assert isinstance(first[1], Delta) and first[1].text == "alpha " and first[1].token_ids == (1,)
    (logprob,) = first[1].logprobs
    assert (logprob.token_id, logprob.logprob, logprob.top) == (1, -1.5, ((7, -0.5),))
    assert not answer.ended
    (second,) = answer.heard(given([9], finish="stop"))
    assert isinstance(second, Delta) and second.token_ids == (9,) and answer.ended
    last = answer.finished()
    assert (last.reason, last.stop) == ("stop", 9)
    assert last.usage.prompt_tokens == 3 and last.usage.cached_tokens == 2
    assert last.usage.completion_tokens == 2 and last.usage.admitted_s == 0.5


def test_a_stop_string_ends_the_answer_before_vllm_does() -> None:
    answer = VllmAnswer(EngineRequest([1], stop=("ta",)), frozenset({9}), decode)
    events = answer.heard(given([1, 2, 3]))
    assert answer.ended  # the third token is not wanted
    assert "".join(each.text for each in events if isinstance(each, Delta)) == "alpha be"
    assert answer.finished().stop == "ta" and answer.finished().usage.completion_tokens == 2


def test_an_answer_at_its_length_shows_what_was_held_back() -> None:
    answer = VllmAnswer(EngineRequest([1], max_new_tokens=1, stop=("a X",)), frozenset(), decode)
    events = answer.heard(given([1], finish="length"))
    assert events[-1] == Delta("alpha ", (1,), ()) or events[-1].text == "alpha "
    assert answer.finished().reason == "length"


def test_eos_is_a_token_where_it_is_ignored() -> None:
    answer = VllmAnswer(EngineRequest([1], ignore_eos=True), frozenset({9}), decode)
    answer.heard(given([9]))
    assert not answer.ended


def test_a_prompts_log_probabilities() -> None:
    request = EngineRequest([1, 2, 3], max_new_tokens=0, prompt_logprobs=True)
    answer = VllmAnswer(request, frozenset(), decode)
    of_prompt = [
        None,
        {2: SimpleNamespace(logprob=-1.0, rank=1)},
        {3: SimpleNamespace(logprob=-2.0, rank=5), 8: SimpleNamespace(logprob=-0.1, rank=1)},
    ]
    events = answer.heard(given([1], finish="length", prompt_logprobs=of_prompt))
    assert events == [Progress(3, 0, 3)]  # the token that vLLM cannot leave out is nobody's
    last = answer.finished()
    assert isinstance(last, Finished)
    assert (last.prompt_logprobs, last.prompt_likeliest) == ((-1.0, -2.0), (2, 8))
    assert last.usage.completion_tokens == 0 and last.usage.first_token_s is None


def test_a_cancelled_answer_says_so() -> None:
    answer = VllmAnswer(EngineRequest([1]), frozenset(), decode)
    assert answer.cancelled().reason == "cancelled"
