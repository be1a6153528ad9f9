"""`benchmarks/hostile.py` is hostile to servers of its own, and finds nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "hostile.py"
# Who can be answered may still take too long on a busy machine.
REFUSED = {
    *("patterns", "optional groups", "products", "3500 properties"),
    *("tool parameters", "a million objects", "five million strings", "20 MB of text"),
    "two million tokens",
}
ANSWERED = {
    *("9000 values", "repetitions", "divisors", "deep definitions", "huge counts", "alternations"),
}


def found(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--json"], capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_what_is_not_known_is_refused() -> None:
    for flag, value in (("--only", "bombs,x"), ("--kinds", "x")):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), flag, value], capture_output=True, text=True
        )
        assert done.returncode == 2 and f"{flag}: unknown: x" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_six_of_each_kind_hold_up_nobody() -> None:
    """/health answers all the time, how fast `hostile.py` tells; memory stays within a tenth."""
    report = found("--only", "bombs", "--seconds", "1")
    rows = {row["kind"].replace(",", ""): row for row in report["bombs"]}
    assert rows.pop("nothing")["health"]["failed"] == 0
    assert set(rows) == REFUSED | ANSWERED
    for kind, row in rows.items():
        statuses = {answer.split()[0] for answer in row["answers"]}
        assert statuses <= {"400", "429"} if kind in REFUSED else statuses <= {"200", "400"}, row
        assert not any("stream" in answer or "line" in answer for answer in row["answers"]), row
        assert row["chats"] and row["chats_alike"] == row["chats"], row
        health = row["health"]
        assert health["failed"] == 0, row
        assert health["worst_ms"] < 10_000, row  # these stopped it for half a minute, or for ever
        before, after = row["memory_mib"]
        assert after < 1.1 * before + 10, row


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_signals_in_every_phase_and_kill_9_leave_nothing() -> None:
    report = found("--only", "ends,kill")
    assert [row["phase"] for row in report["ends"]] == [
        "loading", "idle", "prefill", "decode", "compile",
    ]  # fmt: skip
    for row in report["ends"]:
        assert row["seconds"] < row["allowed_s"] + 1, row  # a busy machine
        assert row["workers_left"] == 0, row
    assert report["kill"]["workers_left"] == 0 and report["kill"]["same_answer"]
