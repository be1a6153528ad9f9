"""A device that computes nonsense, nothing, or not at all: told to clients and to supervisors."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest
from serve_helpers import CHAT, Served, body, json_bytes, served, wait_for

from longctx.serve import run


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


def test_a_device_that_fails_every_step_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("an illegal memory access")

    with served() as server:
        assert server.call(CHAT, body())[0] == 200
        runner = server.service.engine._runner
        monkeypatch.setattr(runner._base, "forward", fails)
        monkeypatch.setattr(run, "_TOLD_SECONDS", 3.0)
        for _ in range(3):
            assert server.call("/ready")[0] == 200
            assert server.error(CHAT, body())[0] in (500, 503)
        for path, sent in (("/ready", None), (CHAT, body())):
            status, error = server.error(path, sent)
            assert (status, error["code"]) == (503, "device_failed")
        assert server.call("/health")[0] == 200
        wait_for(lambda: server.server.should_exit)
        monkeypatch.undo()


def test_no_client_can_bring_that_about(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> Any:
        raise RuntimeError("a prompt that a kernel does not like")

    monkeypatch.setattr(server.service.engine._runner, "forward", fails)
    for _ in range(7):
        assert server.error(CHAT, body())[0] == 500
    monkeypatch.undo()
    assert server.call("/ready")[0] == 200 and server.call(CHAT, body())[0] == 200


def test_a_step_without_an_end_is_not_ready_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, lines: list[logging.LogRecord]
) -> None:
    go = threading.Event()
    with served(stalled_after=0.3) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        runner = server.service.engine._runner
        forward = runner.forward

        def held(*arguments: Any) -> Any:
            assert go.wait(60)
            return forward(*arguments)

        monkeypatch.setattr(runner, "forward", held)
        asked = pool.submit(server.call, CHAT, body())
        wait_for(lambda: server.call("/ready")[0] == 503)
        assert server.error("/ready", None)[1]["code"] == "device_stalled"
        assert server.call("/health")[0] == 200
        wait_for(lambda: any("no step has ended" in line.getMessage() for line in lines))
        go.set()
        assert asked.result(60)[0] == 200
        wait_for(lambda: server.call("/ready")[0] == 200)
        wait_for(lambda: any("ready again" in line.getMessage() for line in lines))
    told = [line.getMessage() for line in lines if "step" in line.getMessage()]
    assert len(told) == 2 and told[0].startswith("no step has ended for ")


@pytest.mark.parametrize("stream", [False, True])
def test_a_step_that_takes_longer_than_any_may_ends_the_server(
    monkeypatch: pytest.MonkeyPatch, lines: list[logging.LogRecord], stream: bool
) -> None:
    """Whoever waits is told, although the engine's thread can tell nobody."""
    go = threading.Event()
    with served(step_timeout=1.0) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        runner = server.service.engine._runner
        forward = runner.forward

        def held(*arguments: Any) -> Any:
            assert go.wait(60)
            return forward(*arguments)

        monkeypatch.setattr(runner, "forward", held)
        asked = [pool.submit(server.call, CHAT, body(stream=stream)) for _ in range(3)]
        wait_for(lambda: server.server.should_exit)
        for each in asked:
            status, _, value = each.result(10)
            if stream:
                value = json.loads(value.split("\n\n")[-3].removeprefix("data: "))
            assert status == (200 if stream else 503)
            assert value["error"]["code"] == "device_failed"
        go.set()
    assert any("(TimeoutError: no step has ended for 1 s)" in line.getMessage() for line in lines)
    assert any(f"exit code {run.DEVICE_FAILED}" in line.getMessage() for line in lines)


_BREAKS = """
import sys, threading
from longctx.engine.runner import Runner

def broken(*arguments):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def stuck(*arguments):
    threading.Event().wait()

Runner.forward = Runner.hidden = locals()[sys.argv[1]]
from longctx.cli import main
sys.argv = ["longctx", "serve", "--port", "0", "--kv-budget", "64M", "--step-timeout", "2"]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "requests", "words"),
    [("broken", 3, "(RuntimeError: CUDA"), ("stuck", 1, "(TimeoutError: no step has ended for 2")],
)
def test_a_supervisor_is_told_by_the_exit_code(how: str, requests: int, words: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _BREAKS, how], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"API +(http://\S+)/v1", line):
                for _ in range(requests):
                    with pytest.raises(urllib.error.HTTPError) as failed:
                        urllib.request.urlopen(
                            urllib.request.Request(
                                found[1] + CHAT,
                                json_bytes(body()),
                                {"Content-Type": "application/json"},
                            ),
                            timeout=30,
                        )
                    assert failed.value.code in (500, 503)
                    failed.value.close()
        assert process.wait(30) == run.DEVICE_FAILED == 75
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert any(f"the device fails every step {words}" in line for line in lines)
