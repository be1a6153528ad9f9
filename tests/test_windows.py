"""What Windows lacks is not needed: fcntl, resource, os.sysconf, os.pread and others are hidden.

A stand-in for a Windows machine, and less than one: paths, and files that nobody may rename while
they are open, are not in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# filelock and psutil have halves of their own for Windows, and are loaded before.
HIDE = """
import sys, os
import filelock, psutil
for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty"):
    sys.modules[name] = None
# Not what numpy and torch use where sys.platform is linux, as it stays here.
LACKING = ("sysconf", "pread", "pwrite", "fork", "sched_getaffinity", "killpg", "setsid", "statvfs")
for name in LACKING:
    if hasattr(os, name):
        delattr(os, name)
"""
IMPORT_ALL = """
import importlib, pkgutil
import longctx, longctx.attention, longctx.eval, longctx.plots

OPTIONAL = {"longctx.models.lm_eval", "longctx.__main__"}  # its own library; the command itself
names = {
    found.name
    for package in (longctx, longctx.attention, longctx.eval, longctx.plots)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if found.name.startswith("longctx.")
}
PLUGIN = {name for name in names if name.startswith("longctx.vllm.")}  # loaded by vLLM
for name in sorted(names - OPTIONAL - PLUGIN):
    importlib.import_module(name)
assert len(names) > 150, len(names)
"""
RUN = """
from longctx.cli import main
sys.argv = ["longctx", *sys.argv[1:]]
main()
"""


def python(
    code: str, *arguments: object, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding=encoding,
    )


@pytest.mark.slow
def test_every_module_is_imported() -> None:
    done = python(HIDE + IMPORT_ALL)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_needle_report_and_pictures_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    grid = ("--lengths", "512,1K", "--depths", "3", "--repeats", "1")
    # What a Windows console that is redirected takes.
    done = python(HIDE + RUN, "needle", "sim:perfect", *grid, "--output", run, encoding="cp1252")
    assert done.returncode == 0, done.stderr
    for name in ("results.jsonl", "summary.md", "heatmap.png", "report.html"):
        assert (run / name).stat().st_size > 0
    assert b"\r\n" not in (run / "results.jsonl").read_bytes()
    done = python(HIDE + RUN, "report", run, "--output", tmp_path / "page.html", encoding="cp1252")
    assert done.returncode == 0, done.stderr
    assert "page.html" in done.stdout


def test_a_pdf_is_read_without_limits_that_the_system_lacks() -> None:
    done = python(HIDE + "from longctx.eval.texts.pdf_worker import limit\nlimit(60, 1 << 30)")
    assert done.returncode == 0, done.stderr


def test_one_writer_without_fcntl(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from longctx.errors import UserError
from longctx.eval.runfolder.folder import RunFolder, hardware
assert hardware()["memory_bytes"] > 1 << 28
with RunFolder(Path(sys.argv[1])):
    try:
        with RunFolder(Path(sys.argv[1])):
            pass
    except UserError as error:
        assert f"pid {os.getpid()} on" in str(error), error
    else:
        raise AssertionError
"""
    done = python(HIDE + code, tmp_path)
    assert done.returncode == 0, done.stderr
