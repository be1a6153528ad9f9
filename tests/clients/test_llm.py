"""llm, the command line: from its own configuration, streamed and not, with a schema and a tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from common import KIND, SAY


@pytest.fixture(scope="module")
def home(url: str, tools_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    entries = [
        {"model_id": "served", "model_name": "embedded", "api_base": f"{url}/v1"},
        {"model_id": "tools", "model_name": "random-tools", "api_base": f"{tools_url}/v1"},
        {"model_id": "text", "model_name": "embedded", "api_base": f"{url}/v1",
         "completion": True},
    ]  # fmt: skip
    entries[0] |= {"supports_schema": True}
    entries[1] |= {"supports_tools": True}
    (folder / "extra-openai-models.yaml").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def llm(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments, "--key", "none"],
        env={**os.environ, "LLM_USER_PATH": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_answer_streamed_or_not(home: Path) -> None:
    streamed = llm(home, "-m", "served", "-o", "max_tokens", "12", SAY)
    whole = llm(home, "-m", "served", "-o", "max_tokens", "12", "--no-stream", SAY)
    assert streamed and streamed == whole
    assert llm(home, "-m", "text", "-o", "max_tokens", "6", "The special magic number")


def test_a_schema(home: Path) -> None:
    found = llm(home, "-m", "served", "-o", "max_tokens", "60", "--schema", json.dumps(KIND), SAY)
    assert json.loads(found)["kind"] in ("amber", "brisk")


def test_a_tool_is_offered(home: Path) -> None:
    """What random weights make of it is noise; the request and its stream are what counts."""
    found = llm(home, "-m", "tools", "-o", "max_tokens", "8", "-T", "llm_version", SAY)
    assert isinstance(found, str)
