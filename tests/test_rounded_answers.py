"""benchmarks/rounded_answers.py asks the same prompts under every rounding, and counts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from longctx.attention import cpu

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "rounded_answers.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rounded_answers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records(length: int, *answers: tuple[str, float]) -> dict[Any, Any]:
    return {
        ("dca", length, 50.0, repeat): {
            "prompt_sha256": f"{length} {repeat}",
            "response": response,
            "score": score,
        }
        for repeat, (response, score) in enumerate(answers)
    }


def settings(folder: Path) -> tuple[str, str]:
    """Weights and keys of the run in a folder."""
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    return session["quantize"], session["kv_dtype"]


def test_other_answers_lost_and_won_hits_are_counted_by_length(script: ModuleType) -> None:
    plain = records(512, ("7", 1.0), ("8", 1.0), ("0", 0.0), ("x", 0.0)) | records(1024, ("9", 1.0))
    int8 = records(512, ("7.", 1.0), ("3", 0.0), ("5", 1.0), ("x", 0.0)) | records(1024, ("9", 1.0))
    rows = list(script.compare("both", plain, int8))
    assert rows == [
        script.Row("both", "dca", 512, prompts=4, hits=2, other=3, lost=1, won=1),
        script.Row("both", "dca", 1024, prompts=1, hits=1, other=0, lost=0, won=0),
    ]
    whole = [*script.compare(script.PLAIN, plain, plain), *rows]
    head, line, *body = script.table(whole)
    assert head.split(" | ")[2:4] == ["plain: hits", "int8 weights: hits, other answers"]
    assert head.count("|") == line.count("|") == 7
    assert body == [
        "| dca, 512 | 4 | 2 | 0, 0 | 0, 0 | 2, 3 |",
        "| dca, 1024 | 1 | 1 | 0, 0 | 0, 0 | 1, 0 |",
        "| all | 5 | 3 | 0, 0 | 0, 0 | 3, 3 |",
    ]


def test_other_prompts_are_not_compared(script: ModuleType) -> None:
    changed = records(512, ("7", 1.0))
    next(iter(changed.values()))["prompt_sha256"] = "another"
    with pytest.raises(ValueError, match="both: another prompt at dca, 512"):
        list(script.compare("both", records(512, ("7", 1.0)), changed))
    with pytest.raises(ValueError, match="both: 1 prompts beside 2"):
        list(script.compare("both", records(512, ("7", 1.0), ("8", 1.0)), changed))


@pytest.mark.slow
@pytest.mark.skipif(not cpu.multiplies_int8(), reason="this processor has no products of int8")
def test_every_arm_answers_the_same_prompts_and_the_command_goes_on(tmp_path: Path) -> None:
    def run(lengths: str) -> Any:
        words = ["--lengths", lengths, "--depths", "2", "--repeats", "1", "--json"]
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *words, "--output", "out"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)["results"]

    first = run("256")
    assert [row["arm"] for row in first] == ["plain", "int8 weights", "int8 keys", "both"]
    assert all((row["length"], row["prompts"], row["hits"]) == (256, 2, 2) for row in first)
    assert first[0]["other"] == 0
    asked = {row["arm"]: settings(tmp_path / "out" / row["arm"].replace(" ", "-")) for row in first}
    assert asked == {
        "plain": ("none", "float32"),
        "int8 weights": ("int8", "float32"),
        "int8 keys": ("none", "int8"),
        "both": ("int8", "int8"),
    }
    before = (tmp_path / "out" / "plain" / "results.jsonl").read_text()
    second = run("256,320")
    assert [row for row in second if row["length"] == 256] == first
    assert (tmp_path / "out" / "plain" / "results.jsonl").read_text().startswith(before)


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", "nowhere/at-all"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
