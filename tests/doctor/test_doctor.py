"""`longctx doctor` as a person meets it: planted mistakes are named, and a crash is a row."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import doctor_plants
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from longctx import cli
from longctx.attention import kernels
from longctx.attention.native import library
from longctx.doctor import checks as doctor
from longctx.doctor import child as doctor_child
from longctx.doctor import info
from longctx.doctor import process as doctor_process
from longctx.doctor import table as doctor_table
from longctx.doctor.checks import CheckRow, DoctorReport, Facts
from longctx.engine import drawing, layer_ops
from longctx.models import int8_native

ROOT = Path(__file__).resolve().parent.parent


def offered(*names: str, dtypes: tuple[str, ...] = ("float32",)) -> Facts:
    """A CPU on which the kernels run, and where linear layers are of no interest."""
    statuses = [info.KernelStatus("cpu", name, d, True, None) for name in names for d in dtypes]
    return Facts({"longctx": "0", "vllm": None}, [info.Device("cpu", "a [CPU]")], statuses)


def check(*names: str, dtypes: tuple[str, ...] = ("float32",), **how: Any) -> DoctorReport:
    planted = {name: f"doctor_plants:{name}" for name in names}
    return doctor.check(kernel_factories=planted, facts=offered(*names, dtypes=dtypes), **how)


def verdicts(report: DoctorReport) -> dict[tuple[str, str | None], str]:
    return {(row.what, row.dtype): row.verdict for row in report.rows}


# Crashes, in processes of their own.


def test_planted_kernels_are_code_1_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ScaledKeys", "Segfaults")
    planted = {name: f"doctor_plants:{name}" for name in names}
    replaced = partial(doctor.check, kernel_factories=planted, facts=offered(*names))
    monkeypatch.setattr(doctor, "check", replaced)
    result = CliRunner().invoke(cli.app, ["doctor"], env={"COLUMNS": "120"})
    assert result.exit_code == 1, result.output
    for words in (
        "WRONG: ScaledKeys float32 on cpu: out of 'square' is off by",
        "WRONG: dca, ScaledKeys float32 on cpu",
        "CRASHED: Segfaults float32 on cpu: SIGSEGV in 'square'",
        "verdict: 3 of 3 are not right",
    ):
        assert words in result.stdout


@pytest.mark.slow
def test_a_crash_in_one_dtype_leaves_the_others() -> None:
    report = check("AbortsInBf16", "RaisesInBf16", "Right", dtypes=("bfloat16", "float32"))
    assert verdicts(report) == {
        ("AbortsInBf16", "bfloat16"): "crashed",
        ("AbortsInBf16", "float32"): "ok",
        ("dca, AbortsInBf16", "float32"): "ok",
        ("RaisesInBf16", "bfloat16"): "crashed",
        ("RaisesInBf16", "float32"): "ok",
        ("dca, RaisesInBf16", "float32"): "ok",
        ("Right", "bfloat16"): "ok",
        ("Right", "float32"): "ok",
        ("dca, Right", "bfloat16"): "ok",
        ("dca, Right", "float32"): "ok",
    }
    reasons = [row.reason for row in report.rows if row.verdict == "crashed"]
    assert reasons == [
        "SIGABRT in 'one token'",
        "RuntimeError: no such instruction in 'square'",
    ]
    assert report.verdict == "wrong"


@pytest.mark.slow
def test_a_hang_and_a_quiet_exit_are_rows() -> None:
    told: list[str] = []
    report = check("Hangs", "Quits", timeout=3, tell=told.append)
    assert [(row.what, row.verdict, row.reason) for row in report.rows] == [
        ("Hangs", "timed out", "no word for 3 s in 'square'"),
        ("Quits", "crashed", "exit code 3: out of luck in 'square'"),
    ]
    assert "cpu  Quits  float32  square" in told


def test_a_signal_without_a_name_has_its_number() -> None:
    child = doctor_process.Child({}, 1)
    child._code = -40
    assert child.failure() == ("crashed", "signal 40")


@pytest.mark.slow
def test_a_crash_of_the_first_question_is_a_row() -> None:
    planted = {"UnanswerableKernel": "doctor_plants:UnanswerableKernel"}
    report = doctor.check(kernel_factories=planted)
    assert [(row.what, row.verdict, row.reason) for row in report.rows] == [
        ("longctx info", "crashed", "SIGABRT"),
        ("longctx info, without the processor", "crashed", "SIGABRT"),
    ]
    assert report.verdict == "wrong" and report.versions["torch"]
    assert "verdict: 2 of 2 are not right" in shown(report)


@pytest.mark.slow
def test_where_the_processor_cannot_be_asked_kernels_are_run() -> None:
    planted = {"torch_cpu": "doctor_plants:kernel_on_a_bad_processor"}
    report = doctor.check(kernel_factories=planted)
    assert (report.rows[0].what, report.rows[0].reason) == ("longctx info", "SIGILL")
    assert verdicts(report)["dca, torch_cpu", "float32"] == "ok"
    assert report.features == [] and report.verdict == "wrong"


# This machine.


@pytest.mark.slow
@pytest.mark.parametrize(
    "limits", [{}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}]
)
def test_all_is_well_here(limits: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits make a processor without AVX-512 of any x86."""
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-m", "longctx", "doctor", "--json"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert list(told) == ["versions", "devices", "features", "rows", "verdict", "notes"]
    assert told["verdict"] == "ok" and told["versions"]["torch"]
    on_cpu = {(r["what"], r["dtype"]): r for r in told["rows"] if r["device"] == "cpu"}
    for dtype in info.DTYPES:
        offered = [
            name
            for name in ("native", "torch_cpu", "reference")
            if on_cpu[name, dtype]["verdict"] != "not offered"
        ]
        assert offered[-2:] == ["torch_cpu", "reference"]
        for what in (*offered, *(f"dca, {name}" for name in offered), "linear"):
            assert on_cpu[what, dtype]["verdict"] == "ok"
        packs = next(
            f for f in told["features"] if (f["name"], f["dtype"]) == ("packed linear", dtype)
        )
        packed = on_cpu["packed linear", dtype]
        assert packed["verdict"] == ("ok" if packs["available"] else "not offered")
        assert packs["available"] or packed["reason"] == packs["reason"]
    if limits:
        assert on_cpu["packed linear", "bfloat16"]["verdict"] == "not offered"
        assert "ONEDNN_MAX_CPU_ISA=AVX2" in told["notes"][0]
    assert any(note.startswith("bf16 linear: ") for note in told["notes"])


def test_the_first_question_says_what_info_says() -> None:
    told = doctor_child.facts({"planted": "doctor_plants:Right"}, processor=True)
    names = [feature["name"] for feature in told["info"]["features"]]
    assert names == [
        "native bf16",
        "native kernel",
        "native draws",
        "native layers",
        *["packed linear"] * 3,
        "int8 linear",
        "native int8",
    ]
    planted = [status for status in told["info"]["kernels"] if status["kernel"] == "planted"]
    assert {status["dtype"] for status in planted} == set(info.DTYPES)
    assert told["auto_dtype"] in info.DTYPES
    without = doctor_child.facts({}, processor=False)
    assert without["info"]["features"] == []


# What is told.


def shown(report: DoctorReport, width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        doctor_table.show(report, console)
    return capture.get()


def notes(native: bool, auto: str | None, **rates: float) -> list[str]:
    features = [info.Feature("cpu", "native bf16", "bfloat16", native, "by its flags")]
    rows = [CheckRow("cpu", "linear", d, "ok", prefill_gflops=rate) for d, rate in rates.items()]
    return doctor._notes(Facts({}, features=features, auto_dtype=auto), rows)


def test_notes_say_what_bf16_means_here() -> None:
    assert notes(True, "bfloat16", bfloat16=210.0, float32=100.0) == [
        "bf16 is native on the cpu: by its flags",
        "--dtype auto computes bf16 checkpoints in bfloat16 on the cpu",
        "bf16 linear: 2.1x float32's rate",
    ]
    assert notes(False, None) == ["bf16 is not native on the cpu: by its flags"]


@pytest.mark.parametrize(
    ("native", "auto", "rate", "remark"),
    [
        (True, "bfloat16", 11.0, "float32 is faster: try --dtype float32"),
        (False, "float32", 200.0, "bf16 is faster: try --dtype bfloat16"),
        (False, "bfloat16", 11.0, "--dtype float32 is faster here for bf16 checkpoints"),
        (False, "float32", 11.0, None),
        (False, "bfloat16", 110.0, None),
    ],
)
def test_flags_and_measurement_that_disagree_are_a_remark(
    native: bool, auto: str, rate: float, remark: str | None
) -> None:
    told = notes(native, auto, bfloat16=rate, float32=100.0)
    remarks = [note for note in told if note.startswith("remark: ")]
    assert len(remarks) == (remark is not None)
    assert remark is None or remarks[0].endswith(remark)


def test_an_apple_gpu_is_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = info.collect()
    detail = "Apple GPU, no attention kernel runs on it: --device-map auto uses the cpu"
    # A kernel that has been tried there ends this: NO_MPS of models/schemes.py must go with it.
    assert found.devices[-1] == info.Device("mps", detail)
    assert not any(status.available for status in found.kernels if status.device == "mps")
    on_mps = [status for status in found.kernels if status.device == "mps"]
    report = doctor.check(facts=Facts({}, found.devices[-1:], on_mps))
    assert {row.verdict for row in report.rows} == {"not offered"} and report.verdict == "ok"
    lines = [" ".join(line.split()) for line in shown(report, 120).splitlines()]
    assert f"mps {detail}" in lines
    assert "verdict: nothing runs here" in lines
    whys = "runs on cuda, not on mps; runs on cpu, not on mps; the device has no float64"
    assert f"mps every kernel all {whys}" in lines


def test_a_kernel_that_runs_on_an_apple_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(type(kernels.get("reference")), "unavailable", lambda *_: None)
    assert info.collect().devices[-1].detail == "Apple GPU, attention kernels: reference"


def test_info_tells_features_with_reasons() -> None:
    told = json.loads(CliRunner().invoke(cli.app, ["info", "--json"]).stdout)["features"]
    assert [list(feature) for feature in told] == [
        ["device", "name", "dtype", "available", "reason"]
    ] * 9
    assert all(feature["reason"] for feature in told)
    (native,) = [feature for feature in told if feature["name"] == "native kernel"]
    loaded = library.load()
    assert native["available"] is isinstance(loaded, library.Library)
    assert native["reason"] == str(loaded)
    (draws,) = [feature for feature in told if feature["name"] == "native draws"]
    assert draws["available"] is isinstance(drawing.load(), drawing.Drawer)
    assert draws["reason"] == str(drawing.load())
    (few,) = [feature for feature in told if feature["name"] == "native int8"]
    assert (few["available"], few["reason"]) == astuple(int8_native.able())
    (layers,) = [feature for feature in told if feature["name"] == "native layers"]
    assert layers["available"] is isinstance(layer_ops.load(), layer_ops.LayerOps)
    assert layers["reason"] == str(layer_ops.load())
    shown_info = CliRunner().invoke(cli.app, ["info"], env={"COLUMNS": "120"}).stdout
    assert "native bf16" in shown_info and "packed linear" in shown_info
    assert "int8 linear" in shown_info


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit(width: int) -> None:
    numbers = {"error_out": 1.8e-3, "bound_out": 1.6e-2, "error_lse": 4e-6, "bound_lse": 1e-3}
    times = {
        "prefill_ms": 123.0,
        "prefill_gflops": 123456.0,
        "decode_ms": 0.01,
        "decode_gbps": 99.0,
    }
    rows = [
        CheckRow("cuda:0", "dca, flash_attn", "bfloat16", "ok", None, **numbers, **times),
        CheckRow("cuda:0", "flash_attn", "float16", "timed out", "no word for 60 s in 'square'"),
        CheckRow("cuda:0", "flash_attn", "float32", "not offered", "takes float16 or bfloat16"),
        CheckRow("cpu", "flash_attn", "float32", "not offered", "runs on [cuda]"),
    ]
    devices = [info.Device("cuda:0", "a GPU"), info.Device("cpu", "a CPU")]
    text = shown(
        DoctorReport({"torch": "2", "vllm": None}, devices, [], rows, "wrong", ["a note"]), width
    )
    assert max(map(len, text.splitlines())) <= width
    for words in ("dca, flash_attn", "1.8e-3", "123456", "99.00", "TIMED OUT", "[cuda]", "a note"):
        assert words in text
    assert (" ms " in text) == (width == 120)
    assert "of lse" in text and "…" not in text


def test_progress_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with doctor_table.progress() as tell:
        tell("cpu  kernel")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with doctor_table.progress() as tell:
        tell("cpu  kernel")
    captured = capsys.readouterr()
    assert "cpu  kernel" in captured.err and captured.out == ""


def test_the_parent_loads_no_torch() -> None:
    code = (
        "import sys, longctx.doctor.checks, longctx.doctor.table; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_plant_is_used() -> None:
    files = Path(__file__).parent.glob("test_*.py")
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    plants = [
        n for n, o in vars(doctor_plants).items() if getattr(o, "__module__", "") == "doctor_plants"
    ]
    assert plants and all(name in text for name in plants)
