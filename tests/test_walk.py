"""How far a command goes through the modules, and how far its options do."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = ("longctx/models", "longctx/engine", "eval", "plots", "attention")
# They take the options of `longctx needle` whole, and more than the model's part of them.
TAKE_NEEDLE_OPTIONS = {f"longctx/models/{name}.py" for name in ("local", "endpoint", "simulated")}


@pytest.mark.slow  # each call of ours is looked at
def test_a_needle_run_changes_modules_no_more_often_than_it_does() -> None:
    """Outside the cells' loop. The aim is 100; the run entered 95 modules when this was measured,
    most of them from several places."""
    done = subprocess.run(
        [sys.executable, "tests/support/walk.py", "needle"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.match(r"outside it: (\d+) stays in (\d+) rooms, (\d+) climbs", last)
    assert found, last
    stays, rooms, climbs = map(int, found.groups())
    assert rooms > 50, "the tracer has lost the run"
    assert stays <= 407
    assert climbs <= 3


def modules_below_runs() -> list[Path]:
    return sorted(file for folder in BELOW for file in (ROOT / folder).rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_what_a_run_consists_of_knows_no_command() -> None:
    for file in modules_below_runs():
        wrong = {name for name in imports_of(file) if name.startswith("longctx.commands")}
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_one_commands_options_go_no_further_than_they_do() -> None:
    commands = ("longctx.options.needle", "longctx.options.perplexity")
    found = {
        file.relative_to(ROOT).as_posix()
        for file in modules_below_runs()
        if any(name.startswith(commands) for name in imports_of(file))
    }
    assert found <= TAKE_NEEDLE_OPTIONS
