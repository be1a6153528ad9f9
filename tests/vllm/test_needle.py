"""`longctx needle --engine vllm`: the answers of a run without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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

GRID = ("--lengths", "512,2K", "--depths", "50%", "--repeats", "1", "--dtype", "float32")


def answers(output: Path, *words: str) -> dict[tuple[str, int], tuple[str, float]]:
    import vllm_helpers

    command = ["needle", "embedded", "--methods", "none,dca", *GRID, "--output", str(output)]
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
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {
        (each["scheme"]["method"], each["length"]): (each["response"], each["score"])
        for each in records
    }


def test_records_are_those_of_longctxs_own_engine(tmp_path) -> None:
    own = answers(tmp_path / "own")
    found = answers(tmp_path / "vllm", "--engine", "vllm")
    assert found == own
    assert found["dca", 2048][1] == 1.0 and found["none", 2048][1] == 0.0
