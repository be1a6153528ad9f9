"""What the tests of perplexity share: texts, the command's run, its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from longctx import cli
from longctx.eval.texts import prose

LENGTHS = (256, 640)
METHODS = ("none", "dca", "yarn+dca")


def write_texts(directory: Path) -> None:
    """Three documents that are long enough, with characters of several bytes, and a short one."""
    for number in range(3):
        text = prose.haystack(64, seed=50 + number).text[:6000]
        (directory / f"{number}.txt").write_text(f"Città {number}: 山. {text}")
    (directory / "short.md").write_text("Too short to count.")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, prog_name="longctx")


def done(*arguments: str) -> dict[str, Any]:
    """What a run that succeeds prints as JSON."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found
