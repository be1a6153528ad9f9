"""A device that computes nonsense, nothing, or not at all: told to clients and to supervisors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serve_helpers import CHAT, Served, body


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_no_empty_answer(
    server: Served, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = server.service.engine._runner
    forward = runner.forward

    def spoils(*arguments: Any) -> Any:
        logits = forward(*arguments).clone()
        logits[:, 7] = value
        return logits

    monkeypatch.setattr(runner, "forward", spoils)
    scored = {"prompt": "a b c", "max_tokens": 0, "echo": True, "logprobs": 0}
    for path, sent in ((CHAT, body()), ("/v1/completions", scored)):
        status, error = server.error(path, sent)
        assert (status, error["type"], error["code"]) == (500, "server_error", "logits_not_finite")
        assert error["message"].startswith("The model computed no answer: its logits are not fin")
    status, _, text = server.call(CHAT, body(stream=True))
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert status == 200 and events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "logits_not_finite"
    monkeypatch.undo()
    assert server.call(CHAT, body())[0] == 200
