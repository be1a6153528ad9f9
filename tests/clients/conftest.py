"""Clients that people use, in their newest versions, against real servers in own processes.

Run by `make test-clients`, in an environment that has these clients; elsewhere nothing here is
collected.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
HERE = bool(os.environ.get("LONGCTX_CLIENTS"))
if not HERE:
    collect_ignore_glob = ["test_*.py"]

# None of the clients may look anything up elsewhere.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "OPENAI_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
}
if HERE:
    os.environ.update(OFFLINE)


CLIENTS = ("openai", "litellm", "langchain-openai", "llm", "lm_eval", "inspect_ai")


def pytest_report_header() -> str:
    """What the table in docs/serving.md says of versions."""
    if not HERE:
        return ""
    return "clients: " + ", ".join(f"{name} {metadata.version(name)}" for name in CLIENTS)


@contextmanager
def serve(*arguments: str) -> Iterator[str]:
    """The address of `longctx serve` with these arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "longctx", "serve", *arguments, "--port", str(port)]
    process = subprocess.Popen([*command, "--kv-budget", "256M"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 180
        while True:
            assert process.poll() is None and time.monotonic() < end, "the server did not start"
            try:
                urllib.request.urlopen(f"{url}/ready", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The embedded model."""
    with serve() as found:
        yield found


@pytest.fixture(scope="session")
def tools_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model of random weights with a template in Qwen2.5's form: what it says is noise, so that
    every call that a client sees complete was made so by the server."""
    import torch
    from serve_fakes import QWEN25
    from transformers import AutoConfig, AutoModelForCausalLM

    from longctx.tiny import WEIGHTS

    folder = tmp_path_factory.mktemp("models") / "random-tools"
    shutil.copytree(WEIGHTS, folder)
    (folder / "chat_template.jinja").write_text(QWEN25, encoding="utf-8")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, dtype=torch.float32)
    assert config.to_dict()["hidden_size"] == settings["hidden_size"]
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with serve(str(folder), "--served-name", "random-tools") as found:
        yield found
