"""`longctx needle` and `perplexity` with `--engine vllm`: the figures of a run without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longctx.vllm import version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        version.installed() is None,
        reason="vLLM is not installed: `make test-vllm-full` runs this in an environment with it",
    ),
    pytest.mark.timeout(1800),
]

GRID = (
    "--methods",
    "none,dca",
    "--lengths",
    "512,2K",
    "--depths",
    "50%",
    "--repeats",
    "1",
    "--dtype",
    "float32",
)


def answers(output: Path, *words: str) -> dict[tuple[str, int], tuple[str, float]]:
    records = recorded("needle", output, "results.jsonl", *GRID, *words)
    return {
        (each["scheme"]["method"], each["length"]): (each["response"], each["score"])
        for each in records
    }


def recorded(name: str, output: Path, file: str, *words: str) -> list[dict[str, Any]]:
    import vllm_helpers

    command = [name, "embedded", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "longctx", *command, *words],
        env=os.environ | vllm_helpers.ENVIRONMENT,
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = (output / file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_records_are_those_of_longctxs_own_engine(tmp_path) -> None:
    own = answers(tmp_path / "own")
    found = answers(tmp_path / "vllm", "--engine", "vllm")
    assert found == own
    assert found["dca", 2048][1] == 1.0 and found["none", 2048][1] == 0.0


PASSES = (
    *("--methods", "dca,yarn+dca", "--lengths", "512,1536", "--documents", "2"),
    *("--dtype", "float32"),
)


def losses(output: Path, *words: str) -> dict[tuple[str, str, int], list[float]]:
    records = recorded("perplexity", output, "perplexity.jsonl", *PASSES, *words)
    assert all(each["status"] == "ok" for each in records)
    return {
        (each["scheme"]["method"], each["document"]["sha256"], each["tokens"]): each["nll"]
        for each in records
    }


def test_losses_are_those_of_longctxs_own_engine(tmp_path) -> None:
    """Token by token, also where a prompt's own length decides the temperature."""
    own = losses(tmp_path / "own")
    found = losses(tmp_path / "vllm", "--engine", "vllm")
    assert found.keys() == own.keys() and len(own) == 6  # dca in one pass, yarn+dca a length each
    for key, want in own.items():
        assert found[key] == pytest.approx(want, abs=1e-3)
