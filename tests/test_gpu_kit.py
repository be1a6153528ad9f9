"""benchmarks/gpu.py without a GPU: sections run, a stop leaves what was done, checks can fail."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_step_checks
import oracle
import paging_kernels
import pytest
import torch
from gpu_checks import Check, Shape
from packing_kernel import PackingReference

from longctx.attention import kernels
from longctx.attention.kernels.base import Partial

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"
CPU, FLOAT32 = torch.device("cpu"), torch.float32
SHAPE, FOLD = Shape(4, 2, 16), gpu_step_checks.Fold(64, 8)


def gpu(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(folder / "out"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done, json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_section_runs_dry(tmp_path: Path) -> None:
    done, results = gpu(tmp_path, "--dry", "--minutes", "15")
    assert done.returncode == 0, done.stdout + done.stderr
    names = ["correct", "embedded", "attention", "model", "layers", "flash4"]
    assert list(results["sections"]) == names
    table = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    for name, section in results["sections"].items():
        assert section["status"] == "ok" and section["rows"] and not section["error"]
        assert f"### {name}: ok" in table
    states = [row["state"] for section in results["sections"].values() for row in section["rows"]]
    assert states.count("ok") > 80 and set(states) == {"ok", ""}
    assert results["about"]["ceilings"]["tflops"] > 0
    assert "to paste into docs/results.md" in done.stdout.splitlines()[-1]
    expected = [row for row in results["sections"]["model"]["rows"] if row["expected"]]
    assert {row["unit"] for row in expected} == {"tok/s", "ms"}


def test_a_section_that_takes_too_long_is_stopped_and_recorded(tmp_path: Path) -> None:
    done, results = gpu(tmp_path, "--dry", "--minutes", "0.03", "--sections", "correct")
    assert done.returncode == 1
    section = results["sections"]["correct"]
    assert section["status"] == "stopped" and "stopped at its limit of 2 s" in section["error"]
    assert "### correct: stopped" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    done, results = gpu(tmp_path, "--sections", "flash4")
    assert done.returncode == 1 and results["sections"]["flash4"]["status"] == "failed"
    assert "torch finds no CUDA device: --dry" in results["sections"]["flash4"]["error"]


def test_unknown_sections_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--sections", "correct,speed"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown: speed" in done.stderr


# A section of four items: the second kills its process, the third hangs, the last is fine.
DEADLY = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from gpu_kit import kit, results, sizes
kit._LEAST_LIMIT_S = 1.0
made = results.Results(Path(sys.argv[1]))
one = kit.Kit(made, "correct", sizes.DRY, 60)
value = one.attempt("needed", lambda: 7, anew=True)
one.attempt("first", lambda: one.row("first", float(value)))
one.attempt("kills", lambda: os.kill(os.getpid(), signal.SIGSEGV))
one.attempt("hangs", lambda: time.sleep(60))
one.attempt("loses the device", lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: lost")))
one.attempt("last", lambda: one.row("last", float(value)))
one.section.settle()
made.write()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_item_that_ends_its_process_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_kit.kit import DEVICE_LOST
    from gpu_kit.results import Results, Section

    module = runpy.run_path(str(SCRIPT))
    assert module["_DEVICE_LOST"] == DEVICE_LOST
    started = Results(tmp_path)
    started.sections["correct"] = Section()
    started.write()
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), str(BENCHMARKS.parent / "tests" / "support")]
    words = [sys.executable, "-c", DEADLY, str(tmp_path), *paths]
    monkeypatch.setitem(module["supervise"].__globals__, "command", lambda *_: words)
    module["supervise"](argparse.Namespace(output=tmp_path), "correct", 120.0)
    section = Results(tmp_path).sections["correct"]
    assert [(row.what, row.state) for row in section.rows] == [
        ("first", ""),
        ("kills", "failed"),
        ("hangs", "failed"),
        ("loses the device", "failed"),
        ("last", ""),
    ]
    assert section.rows[1].note == "the process ended with -11"
    assert section.status == "failed" and section.rows[-1].measured == 7.0


class TestItems:
    @pytest.fixture
    def kit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        from gpu_kit import results, sizes
        from gpu_kit.kit import Kit

        made = results.Results(tmp_path)
        made.sections["one"] = results.Section()
        return Kit(made, "one", sizes.DRY, 60)

    def test_one_that_fails_is_a_row_and_the_next_goes_on(self, kit: Any) -> None:
        def fails() -> None:
            raise ValueError("no such kernel")

        assert kit.attempt("first", fails) is None
        assert kit.attempt("second", lambda: 7) == 7
        kit.row("speed", 3.0, "tok/s", 6.0)
        kit.section.settle()
        assert kit.section.status == "failed" and "no such kernel" in kit.section.error
        again = type(kit.results)(kit.results.folder)
        assert [row.state for row in again.sections["one"].rows] == ["failed", ""]
        assert again.sections["one"].rows[0].note == "ValueError: no such kernel"
        assert "| speed | 3 tok/s | (6) | 50 % |  |" in again.table()

    def test_one_without_time_is_left_out(self, kit: Any) -> None:
        late = type(kit)(kit.results, "one", kit.sizes, -1)
        assert late.attempt("first", lambda: 7) is None
        late.section.settle()
        assert late.section.status == "partial" and late.section.rows[0].state == "skipped"

    @pytest.mark.parametrize("error", [2.0, float("nan")])
    def test_a_check_that_is_off_is_wrong(self, kit: Any, error: float) -> None:
        kit.checks([Check("a", 0.5, 1.0), Check("b", error, 1.0)])
        kit.section.settle()
        assert kit.section.status == "wrong"
        assert [row.state for row in kit.section.rows] == ["ok", "wrong"]

    def test_shares_of_times_and_of_rates(self, kit: Any) -> None:
        from gpu_kit.results import Row

        assert Row("", 4.0, "ms", 1.0).share == 0.25
        assert Row("", 1.0, "GB/s", 4.0).share == 0.25
        assert Row("", 1.0, "", 4.0, "ok").share is None


class Wrong(PackingReference):
    """A kernel with one defect."""

    def __init__(self, defect: str) -> None:
        super().__init__()
        self._defect = defect

    def __call__(self, q: Any, k: Any, v: Any, *, causal: bool, scale: float) -> Partial:
        if self._defect == "scale":
            scale = q.shape[-1] ** -0.5
        if self._defect == "last key" and not causal:
            k, v = k[:, :, :-1], v[:, :, :-1]
        found = super().__call__(q, k, v, causal=causal, scale=scale)
        return found._replace(lse_BHL=found.lse_BHL * 1.4427) if self._defect == "lse" else found

    def packed(self, q: Any, k: Any, v: Any, sequences: Any, *, causal: bool, scale: float) -> Any:
        if self._defect == "starts":
            sequences = sequences._replace(starts_k=torch.zeros_like(sequences.starts_k))
        out, lse = super().packed(q, k, v, sequences, causal=causal, scale=scale)
        return (out + 1e-3 if self._defect == "empty" else out), lse


@pytest.mark.parametrize("defect", ["", "scale", "last key", "lse"])
def test_calls_are_held_to_the_oracle(defect: str) -> None:
    found = gpu_checks.shape_checks("x", Wrong(defect), SHAPE, 100, FLOAT32, CPU)
    assert all(check.ok for check in found) == (not defect)


@pytest.mark.parametrize("defect", ["", "scale", "lse", "starts", "empty"])
def test_packed_sequences_are_held_to_the_oracle(defect: str) -> None:
    found = gpu_checks.packing_checks("x", Wrong(defect), SHAPE, 100, FLOAT32, CPU)
    assert len(found) == 12 and all(check.ok for check in found) == (not defect)
    far = gpu_checks.far_checks(Wrong(defect), SHAPE, 1 << 10, FLOAT32, CPU)
    assert all(check.ok for check in far) == (not defect)


@pytest.mark.parametrize("defect", ["", "order", "length"])
def test_pages_are_held_to_the_oracle(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Varlen(paging_kernels.Version2):
        def __call__(self, q: Any, k: Any, v: Any, ends_q: Any, ends_k: Any, *m: Any, **n: Any):
            if defect == "order":
                n["block_table"] = n["block_table"].sort(1)[0]
            if defect == "length":
                ends_k, m = ends_k * 0, (m[0], 0)
            return super().__call__(q, k, v, ends_q, ends_k, *m, **n)

    kernel = paging_kernels.install(monkeypatch, Varlen(16))
    assert gpu_checks.ways_of(kernel, SHAPE.dim) == [16]
    found = gpu_checks.packing_checks("x", kernel, SHAPE, 100, FLOAT32, CPU)
    assert len(found) == 12 and all(check.ok for check in found) == (not defect)
    far = gpu_checks.far_checks(kernel, SHAPE, 1 << 10, FLOAT32, CPU)
    assert all(check.ok for check in far) == (not defect)


@pytest.mark.parametrize("defect", ["", "scale", "lse", "starts"])
@pytest.mark.parametrize("rows", [gpu_step_checks.ragged, gpu_step_checks.across_a_border])
def test_steps_are_held_to_the_oracle(rows: Any, defect: str) -> None:
    asked = rows(250, FOLD, 6)
    found = gpu_step_checks.dca_checks("x", Wrong(defect), SHAPE, FOLD, asked, FLOAT32, CPU)
    # Plain attention, which says what is allowed, goes through the same kernel.
    assert all(check.ok for check in found) == (not defect)


def test_distances_are_those_of_the_definition() -> None:
    for position in range(0, 250, 7):
        seen = gpu_step_checks.seen_at(position, position + 1, FOLD, CPU).tolist()
        assert seen == [
            oracle.relative_position(position, j, FOLD.chunk, FOLD.local, FOLD.chunk)
            for j in range(position + 1)
        ]
    assert gpu_step_checks.seen_at(3, 4, None, CPU).tolist() == [3, 2, 1, 0]


def test_there_is_a_kernel_to_check_here() -> None:
    assert kernels.get("torch_cpu").unavailable(CPU, FLOAT32) is None
