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


# Outside the cells' loop. A stay per module would be the least of all: 121 are entered.
@pytest.mark.slow  # each call of ours is looked at
@pytest.mark.parametrize(
    ("granularity", "fewest_rooms", "most_stays", "most_climbs"),
    [((), 50, 531, 4), (("--packages",), 10, 64, 9)],
    ids=["modules", "packages"],
)
def test_a_needle_run_goes_back_and_forth_no_more_than_it_does(
    granularity: tuple[str, ...], fewest_rooms: int, most_stays: int, most_climbs: int
) -> None:
    """523 stays in 132 modules, 61 in 19 packages where this was measured; a machine with other
    kernels may differ."""
    done = subprocess.run(
        [sys.executable, "tests/support/walk.py", "needle", *granularity],
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
    assert rooms >= fewest_rooms, "the tracer has lost the run"
    assert stays <= most_stays
    assert climbs <= most_climbs


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


def test_one_commands_options_reach_no_module_below_runs() -> None:
    commands = ("longctx.options.needle", "longctx.options.perplexity")
    for file in modules_below_runs():
        wrong = {name for name in imports_of(file) if name.startswith(commands)}
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"
