"""What `longctx doctor` finds: every kernel that is offered here, run and held against float64.

Runs nothing itself and imports no torch: each device's kernels run in child processes, one for each
kernel, so that a crash or a hang is a row of the report. Knows no formula and no bound, which
doctor_cases.py has, no process (doctor_process.py) and no table (doctor_table.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from longctx.doctor import info
from longctx.doctor.process import TIMEOUT, Child

Verdict = Literal["ok", "wrong", "crashed", "timed out", "not offered"]
FAILURES: tuple[Verdict, ...] = ("wrong", "crashed", "timed out")
PLAIN, PACKED, ASKING = "linear", "packed linear", "longctx info"
_PACKED_LINEARS = "longctx.engine.packed:PackedLinears"
# bf16 against float32 in one process: a shared machine moves this ratio by less than that.
_CLEARLY = 1.25


@dataclass(frozen=True)
class CheckRow:
    """One thing in one dtype on one device. Errors are the largest of its cases.

    Errors are relative L2 distances from float64; None where there is no such number, which for a
    row that has run means that it was not finite.
    """

    device: str
    what: str
    dtype: str | None
    verdict: Verdict
    reason: str | None = None
    error_out: float | None = None
    bound_out: float | None = None
    error_lse: float | None = None
    bound_lse: float | None = None
    prefill_ms: float | None = None
    prefill_gflops: float | None = None
    decode_ms: float | None = None
    decode_gbps: float | None = None
    cases: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """What there is to check, as `longctx info` tells it.

    auto_dtype: what `--dtype auto` makes of a bf16 checkpoint on the CPU; None where the question
        crashed.
    """

    versions: dict[str, str | None]
    devices: list[info.Device] = field(default_factory=list)
    kernels: list[info.KernelStatus] = field(default_factory=list)
    features: list[info.Feature] = field(default_factory=list)
    auto_dtype: str | None = None


@dataclass(frozen=True)
class DoctorReport:
    """Everything the command prints; `to_json` is this object, field by field."""

    versions: dict[str, str | None]
    devices: list[info.Device]
    features: list[info.Feature]
    rows: list[CheckRow]
    verdict: Literal["ok", "wrong"]
    notes: list[str]

    def to_json(self) -> str:
        """One line for programs."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)


def check(
    *,
    kernel_factories: Mapping[str, str] | None = None,
    packed_factory: str | None = _PACKED_LINEARS,
    facts: Facts | None = None,
    timeout: float = TIMEOUT,
    tell: Callable[[str], None] = lambda words: None,
) -> DoctorReport:
    """Run everything that is offered on this machine.

    Args:
        kernel_factories: kernels by name in place of the package's own, each as `module:object`,
            something that returns a kernel when it is called.
        packed_factory: what packs a model's linear layers, in the same way; None leaves linear
            layers out.
        facts: what there is, where it is known already. None asks, in a child.
        timeout: seconds without a word from a child after which it is killed.
        tell: is given a few words before each thing that is run.
    """
    planted = kernel_factories or {}
    rows: list[CheckRow] = []
    if facts is None:
        tell("versions and devices")
        facts, rows = _ask(planted, timeout)
    for device in facts.devices:
        # Kernel by kernel, for a process each.
        names = list(planted) or dict.fromkeys(status.kernel for status in facts.kernels)
        for name in names:
            offered = [s for s in facts.kernels if (s.device, s.kernel) == (device.device, name)]
            rows += [_not_offered(s, s.kernel) for s in offered if not s.available]
            tasks = [
                _Task(what, kind, s.dtype, name, planted.get(name))
                for what, kind in ((name, "kernel"), (f"dca, {name}", "dca"))
                for s in offered
                if s.available
            ]
            rows += _run(device.device, tasks, timeout, tell)
        if packed_factory is not None:
            packs = [f for f in facts.features if (f.device, f.name) == (device.device, PACKED)]
            tasks = [_Task(PLAIN, "linear", str(f.dtype)) for f in packs]
            tasks += [
                _Task(PACKED, "linear", str(f.dtype), factory=packed_factory)
                for f in packs
                if f.available
            ]
            rows += _run(device.device, tasks, timeout, tell)
            rows += [_not_offered(f, PACKED) for f in packs if not f.available]
    verdict: Literal["ok", "wrong"] = (
        "wrong" if any(row.verdict in FAILURES for row in rows) else "ok"
    )
    notes = _notes(facts, rows)
    return DoctorReport(facts.versions, facts.devices, facts.features, rows, verdict, notes)


@dataclass(frozen=True)
class _Task:
    """What a child is asked to run; the fields are those that doctor_child.py reads."""

    what: str
    kind: str
    dtype: str
    kernel: str | None = None
    factory: str | None = None


def _not_offered(found: info.KernelStatus | info.Feature, what: str) -> CheckRow:
    return CheckRow(found.device, what, found.dtype, "not offered", found.reason)


def _ask(planted: Mapping[str, str], timeout: float) -> tuple[Facts, list[CheckRow]]:
    """The facts, and a row where the question itself crashed. Then the processor is not asked."""
    rows: list[CheckRow] = []
    for processor in (True, False):
        child = Child({"factories": dict(planted), "processor": processor}, timeout)
        for told in child:
            if "facts" in told:
                found = told["facts"]["info"]
                return Facts(
                    found["versions"],
                    [info.Device(**each) for each in found["devices"]],
                    [info.KernelStatus(**each) for each in found["kernels"]],
                    [info.Feature(**each) for each in found["features"]],
                    told["facts"]["auto_dtype"],
                ), rows
        what = ASKING if processor else f"{ASKING}, without the processor"
        rows.append(CheckRow("cpu", what, None, *child.failure()))
    return Facts(info.versions()), rows


def _run(
    device: str, tasks: Sequence[_Task], timeout: float, tell: Callable[[str], None]
) -> list[CheckRow]:
    """A row for each task. One that ends its process is a row, and the others get a new one.

    A kernel that has ended a process is not run again as a part of Dual Chunk Attention.
    """
    rows: list[CheckRow] = []
    left = list(tasks)
    while left:
        child = Child({"device": device, "tasks": [asdict(task) for task in left]}, timeout)
        failed: tuple[_Task, Verdict, str] | None = None
        at = "its start"
        tell(f"{device}  {left[0].what}  {left[0].dtype}")
        for told in child:
            if "at" in told:
                at = told["at"]
                tell(f"{device}  {left[0].what}  {left[0].dtype}  {at}")
            elif "row" in told:
                task, row = left.pop(0), told["row"]
                if "raised" in row:
                    failed = (task, "crashed", row["raised"])
                    break
                rows.append(_judged(device, task, row))
                if not left:  # how it leaves is of no interest, and takes it a second
                    break
        if failed is None and left:
            failed = (left.pop(0), *child.failure())
        if failed is not None:
            task, verdict, reason = failed
            rows.append(CheckRow(device, task.what, task.dtype, verdict, f"{reason} in {at!r}"))
            left = [t for t in left if t.kind != "dca" or t.dtype != task.dtype]
    return rows


def _judged(device: str, task: _Task, told: Mapping[str, Any]) -> CheckRow:
    """The verdict on what a child found."""
    bound_out, bound_lse = told["bounds"]
    wrong = []
    for name, out, lse in told["cases"]:
        # `not <=`: NaN is wrong too.
        for which, error, bound in (("out", out, bound_out), ("lse", lse, bound_lse)):
            if error is not None and not error <= bound:
                wrong.append(f"{which} of {name!r} is off by {error:.1e}, allowed is {bound:.1e}")
    has_lse = all(lse is not None for _, _, lse in told["cases"])
    more = f" ({len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return CheckRow(
        device,
        task.what,
        task.dtype,
        "wrong" if wrong else "ok",
        wrong[0] + more if wrong else None,
        _worst([out for _, out, _ in told["cases"]]),
        bound_out,
        _worst([lse for _, _, lse in told["cases"]]) if has_lse else None,
        bound_lse if has_lse else None,
        **told["times"],
        cases=[
            {"case": name, "error_out": _worst([out]), "error_lse": _worst([lse])}
            for name, out, lse in told["cases"]
        ],
    )


def _worst(errors: Sequence[float | None]) -> float | None:
    """The largest; None where one is none, or is not finite."""
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return max(known) if len(known) == len(errors) else None


def _notes(facts: Facts, rows: Sequence[CheckRow]) -> list[str]:
    """What bf16 means on this CPU: by its flags, for `--dtype auto`, and as measured."""
    native = next((f for f in facts.features if f.name == "native bf16"), None)
    if native is None:
        return []
    notes = [f"bf16 is {'' if native.available else 'not '}native on the cpu: {native.reason}"]
    if facts.auto_dtype is not None:
        notes.append(
            f"--dtype auto computes bf16 checkpoints in {facts.auto_dtype} on the cpu"
            + (" where that fits" if facts.auto_dtype == "float32" else "")
        )
    rates = {
        row.dtype: row.prefill_gflops
        for row in rows
        if (row.device, row.what, row.verdict) == ("cpu", PLAIN, "ok")
    }
    narrow, single = rates.get("bfloat16"), rates.get("float32")
    if narrow is None or single is None:
        return notes
    ratio = narrow / single
    notes.append(f"bf16 linear: {ratio:.2g}x float32's rate")
    if native.available and ratio < 1:
        notes.append(
            "remark: by its flags the processor computes bf16, and float32 is faster: try "
            "--dtype float32"
        )
    elif not native.available and ratio > _CLEARLY:
        notes.append(
            "remark: by its flags the processor has no bf16 arithmetic, and bf16 is faster: try "
            "--dtype bfloat16"
        )
    elif not native.available and ratio < 1 and facts.auto_dtype == "bfloat16":
        notes.append("remark: --dtype float32 is faster here for bf16 checkpoints")
    return notes
