"""The curl examples of README.md and docs/serving.md are run against a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serve_helpers import Served

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/serving.md")
ADDRESS = "http://127.0.0.1:8000"


def examples(page: str) -> list[str]:
    """The page's bash blocks with a curl in them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if re.search(r"^curl ", block, re.MULTILINE)]


FOUND = [(page, at, block) for page in PAGES for at, block in enumerate(examples(page))]


def test_both_pages_have_examples() -> None:
    assert {page for page, _, _ in FOUND} == set(PAGES)
    assert all(ADDRESS in block for _, _, block in FOUND)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("page", "at", "block"), FOUND, ids=[f"{page}-{at}" for page, at, _ in FOUND]
)
def test_an_example_is_answered(server: Served, page: str, at: int, block: str) -> None:
    script = block.replace(ADDRESS, server.url).replace("curl -s", "curl -w '\\n' --fail -s")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    if "data: [DONE]" in lines:
        lines.remove("data: [DONE]")
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert any("prompt_progress" in event for event in events)
        assert all("error" not in event for event in events)
    else:
        assert len(lines) == block.count("curl ")
        assert all(json.loads(line).get("error") is None for line in lines)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_readme_shows_what_the_server_says(server: Served) -> None:
    """The answer's text in README is the one that the embedded model gives."""
    (block,) = examples("README.md")
    script = block.replace(ADDRESS, server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True
    )
    value = json.loads(done.stdout.splitlines()[0])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    content = json.dumps(value["choices"][0]["message"]["content"])
    assert f'"content": {content}' in readme
    assert f'"prompt_tokens": {value["usage"]["prompt_tokens"]}' in readme
