"""The README is run, not trusted.

A block with `<!-- test: run -->` on the line before it runs as it stands, from an empty directory.
Every other `longctx ...` and `make ...` line must at least name a command, options and targets that
exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from longctx.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


class Block(NamedTuple):
    """One fenced block: the line it starts at, its language, its text, and whether it is run."""

    line: int
    language: str
    text: str
    run: bool


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page.

    >>> blocks("<!-- test: run -->\\n```bash\\nls\\n```\\n")
    [Block(line=2, language='bash', text='ls\\n', run=True)]
    """
    pattern = r"(?P<mark><!-- test: run -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    return [
        Block(
            line=markdown.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            text=match["text"],
            run=match["mark"] is not None,
        )
        for match in re.finditer(pattern, markdown, re.MULTILINE | re.DOTALL)
    ]


MARKED = [block for block in blocks(README) if block.run]


def test_blocks_are_found() -> None:
    page = "a\n```text\nx\n```\n<!-- test: run -->\n```bash\nls\npwd\n```\n"
    assert blocks(page) == [
        Block(2, "text", "x\n", False),
        Block(6, "bash", "ls\npwd\n", True),
    ]
    assert MARKED, "README.md marks no block with <!-- test: run -->"


@pytest.mark.parametrize("block", MARKED, ids=[f"line{block.line}" for block in MARKED])
def test_marked_blocks_run(block: Block, tmp_path: Path) -> None:
    if block.language == "bash":
        if not (BIN / "longctx").exists():
            pytest.skip("longctx is not installed in this environment")
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    else:
        assert block.language == "python", f"line {block.line}: cannot run {block.language!r}"
        command = [sys.executable, "-c", block.text]
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    if block.language == "python":
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"README.md line {block.line}:\n{done.stdout}{done.stderr}"


def shell_lines() -> list[list[str]]:
    text = "".join(block.text for block in blocks(README) if block.language == "bash")
    return [
        shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines() if line
    ]


def test_longctx_lines_name_real_commands_and_options() -> None:
    root = typer.main.get_command(app)
    for words in shell_lines():
        if words[:1] != ["longctx"]:
            continue
        command = root
        if len(words) > 1 and not words[1].startswith("-"):
            known = root.commands  # type: ignore[attr-defined]
            assert words[1] in known, f"README.md: `longctx {words[1]}` does not exist"
            command = known[words[1]]
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        options.add("--help")
        wrong = [w for w in words if w.startswith("--") and w.split("=")[0] not in options]
        assert not wrong, f"README.md: `{shlex.join(words)}` has unknown {', '.join(wrong)}"


def test_make_lines_name_real_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for words in shell_lines():
        if words[:1] == ["make"]:
            wrong = [w for w in words[1:] if "=" not in w and w not in targets]
            assert not wrong, f"README.md: make has no target {', '.join(wrong)}"
