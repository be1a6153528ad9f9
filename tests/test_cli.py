"""The command line as a person meets it: version, info, help, and one line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import longctx
from longctx import cli
from longctx.doctor import info
from longctx.errors import StoppedError, UserError

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`longctx ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "longctx", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_version() -> None:
    done = run("--version")
    assert done.stdout == f"longctx {longctx.__version__}\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_info_is_there() -> None:
    assert "info" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"], prog_name="longctx")
    assert result.exit_code == 0
    assert command in result.stdout


def test_no_arguments_prints_help() -> None:
    result = CliRunner().invoke(cli.app, [])
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("arguments", [("no-such-command",), ("info", "--no-such-option")])
def test_bad_usage_is_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert arguments[-1] in done.stderr
    assert "Traceback" not in done.stderr


def test_user_error_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise UserError("--length 7 is too short:\n  give at least 8")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: --length 7 is too short: give at least 8\n"
    assert captured.out == ""


def test_a_stopped_run_is_one_line_and_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(**_: object) -> None:
        raise StoppedError("runs/x: the disk is full")

    monkeypatch.setattr(cli, "app", stop)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 3
    assert capsys.readouterr().err == "error: runs/x: the disk is full\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


def test_info_json_is_one_line_that_says_everything() -> None:
    from longctx.attention import kernels

    result = CliRunner().invoke(cli.app, ["info", "--json"])
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    told = json.loads(result.stdout)
    assert told["versions"]["longctx"] == longctx.__version__
    assert told["versions"]["torch"]
    assert told["devices"][0]["device"] == "cpu"
    on_cpu = [row for row in told["kernels"] if row["device"] == "cpu"]
    assert {row["kernel"] for row in on_cpu} == set(kernels.names())
    # A kernel that does not run says why, and one that runs has nothing to say.
    assert all(row["available"] == (row["reason"] is None) for row in told["kernels"])
    runs = {(row["kernel"], row["dtype"]) for row in on_cpu if row["available"]}
    chosen = [(row["kernel"], row["dtype"]) for row in told["auto"] if row["device"] == "cpu"]
    assert [dtype for _, dtype in chosen] == list(info.DTYPES)
    assert all(choice in runs for choice in chosen if choice[0] is not None)
    assert any(kernel is not None for kernel, _ in chosen)


def test_info_for_people_names_every_kernel() -> None:
    from longctx.attention import kernels

    result = CliRunner().invoke(cli.app, ["info"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for name in ("transformers", "not installed", "cpu", *kernels.names()):
        assert name in result.stdout


def test_info_says_when_nothing_fast_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from longctx.attention import kernels

    def nothing(device: object, dtype: object) -> object:
        raise ValueError("no fast kernel")

    monkeypatch.setattr(kernels, "auto", nothing)
    collected = info.collect()
    assert {choice.kernel for choice in collected.auto} == {None}
    info.show(collected)
