"""All that a GPU can tell, in minutes: correctness first, then speed beside what the card allows.

    python benchmarks/gpu.py --minutes 5                    # or: make gpu-check
    python benchmarks/gpu.py --sections attention,model     # again, into the same folder
    python benchmarks/gpu.py --dry                          # every section on a CPU, tiny

Runs from an uninstalled clone, without network, and brings no weights: random ones of exact shapes
are made on the device; the embedded model says what is right. results.json and results.md are
written after every figure, so a stop at any time leaves what was done. Sections go in order of
worth, each in a process of its own with a share of the time that is left. What fails is recorded
and the next item goes on; what hangs, or kills the process or the device, is passed over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from gpu_kit import hidden
from gpu_kit.results import Results, Row, Section

ROOT = Path(__file__).resolve().parent.parent

# In order of worth, with shares of the time. A name is a module of gpu_kit.
SECTIONS = {
    "correct": 20,
    "embedded": 14,
    "attention": 20,
    "model": 28,
    "layers": 14,
    "flash4": 4,
}
_EARLIER = 0.85  # of its limit a section begins no more items; at the limit it is stopped
_LINES = 12
_PROCESSES = 6  # of one section, where items end them
_DEVICE_LOST = 3  # as gpu_kit.kit says it, which needs torch


def main() -> int:
    options = parse()
    if options.child:
        return child(options)
    # A stop from outside takes the section's process along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results(options.output)
    if results.about.get("dry") != options.dry:  # figures of another kind
        results.about, results.sections = {"dry": options.dry}, {}
    began = time.monotonic()
    for at, name in enumerate(options.sections):
        left = 60 * options.minutes - (time.monotonic() - began)
        shares = [SECTIONS[each] for each in options.sections[at:]]
        limit = left * shares[0] / sum(shares)
        if limit < 1:
            results.sections[name] = Section("left out", error="no time was left")
            results.write()
            continue
        print(f"{name}: {limit:.0f} s at most", flush=True)
        results.sections[name] = Section(limit_s=limit)
        results.write()
        supervise(options, name, limit)
        results = Results(options.output)
        section = results.sections[name]
        print(f"{name}: {section.status}, {section.seconds:.0f} s", flush=True)
    finish(results, options)
    return 0 if all(results.sections[name].status == "ok" for name in options.sections) else 1


def supervise(options: argparse.Namespace, name: str, limit: float) -> None:
    """One section in a process of its own, which is gone at the limit.

    Where the process dies over an item, another one goes on behind that item.
    """
    began = time.monotonic()
    for _ in range(_PROCESSES):
        left = limit - (time.monotonic() - began)
        code = run_process(command(options, name, left * _EARLIER), left)
        results = Results(options.output)
        section = results.sections[name]
        section.seconds = time.monotonic() - began
        if code is None:
            section.status = "stopped"
            section.error += f"stopped at its limit of {limit:.0f} s, in: {section.current}"
        elif section.status == "running":
            if section.current:
                note = f"the process ended with {code}"
                section.rows.append(Row(section.current, state="failed", note=note))
                section.done.append(section.current)
                section.current = ""
                results.write()
                continue
            if code == _DEVICE_LOST:
                results.write()
                continue
            section.status = "failed"
            section.error += f"the process ended with {code}"
        break
    else:
        section.status = "failed"
        section.error += f"{_PROCESSES} processes ended early"
    results.write()


def command(options: argparse.Namespace, name: str, seconds: float) -> list[str]:
    words = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    words += ["--output", str(options.output), "--seconds", f"{seconds:.1f}"]
    return [*words, *(["--dry"] if options.dry else [])]


def run_process(words: list[str], limit: float) -> int | None:
    """Its exit code; None where it had to be ended."""
    process = subprocess.Popen(
        words,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        start_new_session=True,
    )
    try:
        return process.wait(max(limit, 0.1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def child(options: argparse.Namespace) -> int:
    """One section, in this process."""
    name = options.child
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]  # an uninstalled clone
    results = Results(options.output)
    section = results.sections[name]
    if options.dry:
        hidden.hide()
    try:
        from gpu_kit import sizes
        from gpu_kit.kit import Kit

        kit = Kit(results, name, sizes.DRY if options.dry else sizes.REAL, options.seconds)
        import_module(f"gpu_kit.{name}").run(kit)
        if options.dry and (found := hidden.loaded()):
            raise RuntimeError(f"imported although it may be missing: {', '.join(found)}")
        section.settle()
    except BaseException:
        section.status = "failed"
        section.error += "\n".join(traceback.format_exc().strip().splitlines()[-_LINES:])
        results.write()
        raise
    results.write()
    return 0


def finish(results: Results, options: argparse.Namespace) -> None:
    print(results.table())
    if shutil.which("git") is not None:
        done = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True)
        if not done.returncode:
            print(f"to bring along: {len(done.stdout) / 2**20:.1f} MiB (git archive HEAD)")
    page = results.folder / "results.md"
    print(f"to paste into docs/results.md, under a heading with date and command: {page}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of all sections together")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="in this order")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="a folder")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny, few packages")
    parser.add_argument("--child", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.sections = options.sections.split(",")
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}: sections are {', '.join(SECTIONS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
