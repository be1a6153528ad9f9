"""Guessed tokens as clients see them: the same answer, and what was guessed of it."""

from __future__ import annotations

from typing import Any

import pytest
from serve_helpers import served

from longctx.errors import UserError
from longctx.serve.settings import ServeSettings

COMPLETIONS = "/v1/completions"


def asked(**options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The answer to a text that repeats itself, and the figures of `/metrics`."""
    with served(**options) as server:
        sent = {"prompt": "1234567 " * 20, "max_tokens": 40, "temperature": 0}
        status, _, answer = server.call(COMPLETIONS, sent)
        assert status == 200, answer
        text = server.call("/metrics")[2]
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return answer, dict(rows)


@pytest.mark.parametrize("said", [{"speculate": "4"}, {}], ids=["4", "default"])
def test_guesses_are_told_and_change_no_text(said: dict[str, str]) -> None:
    """They are made unless somebody says otherwise."""
    plain, _ = asked(speculate="off")
    details = plain["usage"]["completion_tokens_details"]
    assert details == {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    answer, figures = asked(**said)
    assert answer["choices"][0]["text"] == plain["choices"][0]["text"]
    told = answer["usage"]["completion_tokens_details"]
    assert told["accepted_prediction_tokens"] > 0
    assert answer["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    for name in ("accepted", "rejected"):
        assert float(figures[f"longctx_{name}_tokens_total"]) == told[f"{name}_prediction_tokens"]


@pytest.mark.parametrize("said", ["0", "on", "-2"])
def test_what_may_be_said(said: str) -> None:
    with pytest.raises(UserError, match=f"--speculate {said}: use auto, off, or the most tokens"):
        ServeSettings(speculate=said)


def test_vllm_guesses_by_its_own_arguments() -> None:
    with pytest.raises(UserError, match="--speculate 4: not with --engine vllm"):
        ServeSettings(speculate="4", engine="vllm")
    assert ServeSettings(speculate="off", engine="vllm").speculate == "off"
