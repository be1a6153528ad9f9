"""`longctx needle --base-url`: the command against servers that behave and that do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Reply, error, reads, serving
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval.runfolder import records
from longctx.models import openai_client
from longctx.models.openai_client import LOST_AFTER
from longctx.runs import needle
from longctx.tiny import WEIGHTS

pytestmark = pytest.mark.usefixtures("no_proxy_and_no_key")


ROOT = Path(__file__).resolve().parents[2]


GRID = ("--lengths", "256,512", "--depths", "0,50,100", "--repeats", "1")


def command(url: str, output: Path, *more: str) -> list[str]:
    endpoint_words = ["--base-url", url, "--tokenizer", str(WEIGHTS), "--output", str(output)]
    return ["needle", "served", *GRID, *endpoint_words, *more]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, which are tested above, and no pictures."""
    monkeypatch.setattr(needle, "draw", lambda *_: [])
    monkeypatch.setattr(
        openai_client.EndpointSession.__init__,
        "__kwdefaults__",
        {
            "concurrency": 1,
            "pause": lambda _: None,
        },
    )


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, prog_name="longctx")


def statuses(output: Path) -> list[str]:
    return [record["status"] for record in records.read(output / "results.jsonl")]


def test_a_run_against_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("LONGCTX_API_KEY", "sk-secret")
    with serving(lambda n, body: reads(body)) as server:
        done = invoke(*command(server.url, tmp_path, "--json"))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told["methods"]) == ["unverified"]
    assert told["states"] == {"ok": 6, "not_run": 0}
    assert told["controls"]["closed_book"] == 0
    assert len(server.asked) == 8  # a greeting, six cells, the closed book
    assert {one["authorization"] for one in server.headers} == {"Bearer sk-secret"}
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {"heatmap.png", "report.html", "summary.md", "run.json"} <= set(files)
    assert not [name for name, data in files.items() if b"sk-secret" in data]
    assert "sk-secret" not in done.output
    run = json.loads(files["run.json"])
    assert run["settings"]["model"] == f"endpoint:chat:{server.url}#served"
    assert run["sessions"][0]["arms"]["unverified"]["proof"]["verified"] is None
    # What a chat endpoint is asked has no answer prefix in it.
    assert run["settings"]["answer_prefix"] == ""
    for record, body in zip(
        records.read(tmp_path / "results.jsonl"), server.asked[1:], strict=False
    ):
        assert record["prompt_tokens"] + record["slack"] + 32 == record["length"]
        assert record["expected"][0] in body["messages"][-1]["content"]


def test_the_servers_own_count_is_reported_once(tmp_path: Path, quick: None) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        reply = reads(body)
        reply.prompt_tokens = 9999
        return reply

    with serving(script) as server:
        done = invoke(*command(server.url, tmp_path))
    assert done.exit_code == 0, done.output
    assert done.stderr.count("the server counts 9999 prompt tokens") == 1
    assert {r["server_prompt_tokens"] for r in records.read(tmp_path / "results.jsonl")} == {9999}


def test_concurrent_answers_are_the_same_records(tmp_path: Path, quick: None) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        reply = reads(body)
        reply.hang_s = 0.03 if number % 3 else 0.15
        return reply

    found = []
    with serving(script) as server:
        for name, more in (("one", ()), ("four", ("--concurrency", "4"))):
            output = tmp_path / name
            done = invoke(*command(server.url, output, "--repeats", "2", *more))
            assert done.exit_code == 0, done.output
            lines = (output / "results.jsonl").read_text().splitlines()
            kept = [json.loads(line) for line in lines]
            found.append({r["key"]: (r["response"], r["status"]) for r in kept})
            assert len(lines) == 12
    assert found[0] == found[1]
    assert server.most_at_once == 4


def test_a_server_that_dies_leaves_a_run_that_goes_on(tmp_path: Path, quick: None) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        # A greeting and two cells, and then nothing but trouble.
        return reads(body) if number < 3 or alive else error(502, "bad gateway")

    alive = False
    with serving(script) as server:
        done = invoke(*command(server.url, tmp_path, "--json"))
        assert done.exit_code == 3, done.output
        assert "the target is lost" in done.stderr
        assert "the same command goes on from here" in done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["states"] == {"ok": 2, "error": LOST_AFTER, "not_run": 1}
        # An error is no zero: two of two were found.
        assert told["methods"]["unverified"]["lengths"]["256"]["n"] == 2
        assert told["methods"]["unverified"]["lengths"]["256"]["score"] == 1
        before = (tmp_path / "results.jsonl").read_bytes()
        asked = len(server.asked)
        alive = True
        done = invoke(*command(server.url, tmp_path, "--json"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)
    assert json.loads(done.stdout.splitlines()[-1])["states"] == {"ok": 6, "not_run": 0}
    assert len(server.asked) - asked == 1 + 4 + 1  # a greeting, what was left, the closed book


def test_a_server_that_dies_between_tasks_is_code_3_too(tmp_path: Path, quick: None) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return reads(body) if number < 2 or alive else error(502, "bad gateway")

    alive = False
    tasks = ("--tasks", "needle,latent")
    with serving(script) as server:
        done = invoke(*command(server.url, tmp_path, *tasks, "--json"))
        assert done.exit_code == 3, done.output
        assert "task latent did not begin" in done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 3
        alive = True
        assert invoke(*command(server.url, tmp_path, *tasks)).exit_code == 0
    assert (tmp_path / "tasks.md").exists()


def test_states_of_a_bad_day(tmp_path: Path, quick: None) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        cell = len({json.dumps(one["messages"]) for one in server.asked}) - 2
        day: dict[int, Callable[[], Reply]] = {
            0: lambda: error(400, "maximum context length is 100 tokens"),
            1: lambda: error(500, "oops"),
            2: lambda: Reply("It is 12", finish_reason=None),
            3: lambda: Reply("<think>well", finish_reason="length"),
            4: lambda: Reply("No.", finish_reason="content_filter"),
        }
        return day.get(cell, lambda: reads(body))()

    with serving(script) as server:
        done = invoke(*command(server.url, tmp_path, "--json"))
    assert done.exit_code == 3, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert statuses(tmp_path) == ["overflow", "error", "error", "truncated_output", "miss", "ok"]
    lengths = told["methods"]["unverified"]["lengths"]
    assert (lengths["256"]["n"], lengths["256"]["score"]) == (0, None)
    assert (lengths["512"]["n"], lengths["512"]["score"]) == (3, 0.333333)


def test_control_c_with_requests_in_flight(tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return reads(body) if number < 4 else Reply("late", hang_s=60)

    with serving(script) as server:
        words = command(server.url, tmp_path, "--concurrency", "2")
        started = subprocess.Popen(
            [sys.executable, "-m", "longctx", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 100
        while len(server.asked) < 6:
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        started.send_signal(signal.SIGINT)
        _, stderr = started.communicate(timeout=60)
    assert started.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "3 cells left: the same command goes on" in stderr
    assert statuses(tmp_path) == ["ok"] * 3


def test_a_dry_run_calls_nobody(tmp_path: Path) -> None:
    done = invoke(*command("http://127.0.0.1:9/v1", tmp_path / "run", "--dry-run"))
    assert done.exit_code == 0, done.output
    assert "6 cells: 0 done, 6 to do" in done.stderr and "time unknown" in done.stderr
    assert not (tmp_path / "run").exists()


BAD = {
    "methods": (("--methods", "none"), "--methods none: an endpoint has one arm"),
    "kernel": (("--kernel", "reference"), "--kernel reference: an endpoint has one arm"),
    "sharing": (("--no-prefix-sharing",), "--no-prefix-sharing: an endpoint has one arm"),
    "chunk": (("--prefill-chunk", "1K"), "--prefill-chunk 1024: an endpoint has one arm"),
    "address": (("--base-url", "localhost:8000"), "--base-url localhost:8000: not an address"),
    "brackets": (("--base-url", "http://[::1/v1"), r"--base-url http://\[::1/v1: not an address"),
    "port": (("--base-url", "http://h:abc/v1"), "--base-url http://h:abc/v1: not an address"),
    "hidden": (("--base-url", "http://me:pw@h:abc/v1"), "--base-url …: not an address"),
    "endless": (("--timeout", "inf"), "--timeout inf: must be a number of seconds above 0"),
    "credentials": (("--base-url", "http://me:pw@host/v1"), "http://host.*LONGCTX_API_KEY"),
    "path": (("--base-url", "http://host/v1/completions"), "leave /completions out"),
    "tokenizer": (("--tokenizer", "./nowhere"), r"--tokenizer \./nowhere: no such directory"),
    "api": (("--api", "chats"), "--api chats: not known: use chat or completions"),
    "concurrency": (("--concurrency", "0"), "--concurrency 0: must be at least 1"),
    "timeout": (("--timeout", "0"), "--timeout 0: must be a number of seconds above 0"),
    "prefix": (("--answer-prefix", "Sure:"), "--answer-prefix Sure:: a chat endpoint begins"),
    "template": (("--template", "none"), "--template none: a chat endpoint has its own"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, tmp_path: Path) -> None:
    arguments, message = BAD[case]
    words = [*command("http://127.0.0.1:9/v1", tmp_path / "run"), *arguments]
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_what_only_endpoints_have() -> None:
    with pytest.raises(UserError, match="--concurrency 2: is for endpoints"):
        CliRunner().invoke(cli.app, ["needle", "--concurrency", "2"], catch_exceptions=False)
    words = ["needle", "--base-url", "http://h/v1"]
    with pytest.raises(UserError, match="MODEL is missing"):
        CliRunner().invoke(cli.app, [*words], catch_exceptions=False)
    with pytest.raises(UserError, match="give --tokenizer DIR"):
        CliRunner().invoke(cli.app, [*words[:1], "m", *words[1:]], catch_exceptions=False)


def test_a_key_with_a_line_end_is_sent_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCTX_API_KEY", "sk-secret\n")
    assert openai_client.api_key() == "sk-secret"
    monkeypatch.setenv("LONGCTX_API_KEY", " \n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    assert openai_client.api_key() == "sk-other"


@pytest.mark.parametrize("key", ["sk-sec\nret", "ключ", "sk\x00"])
def test_what_is_no_key_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {**os.environ, "LONGCTX_API_KEY": key})
    with pytest.raises(UserError, match="LONGCTX_API_KEY: holds characters") as caught:
        openai_client.api_key()
    assert key not in str(caught.value) and "sec" not in str(caught.value)


def test_a_prompt_of_a_server_comes_back(tmp_path: Path, quick: None) -> None:
    with serving(lambda _, body: reads(body)) as server:
        assert invoke(*command(server.url, tmp_path)).exit_code == 0
    done = invoke("reconstruct", str(tmp_path), "--row", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["checked"] is True
    run = json.loads((tmp_path / "run.json").read_text())
    del run["sessions"][0]["tokenizer"]  # as older versions left it
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=r"--model: .* is a server's name"):
        CliRunner().invoke(
            cli.app, ["reconstruct", str(tmp_path), "--row", "1"], catch_exceptions=False
        )


def test_a_wrong_key_is_told_before_the_run(tmp_path: Path) -> None:
    message = r"does not answer \(HTTP 401: no such key\)"
    refuses = serving(lambda *_: error(401, "no such key"))
    with refuses as server, pytest.raises(UserError, match=message):
        CliRunner().invoke(cli.app, command(server.url, tmp_path / "r"), catch_exceptions=False)
    assert not (tmp_path / "r" / "run.json").exists()
