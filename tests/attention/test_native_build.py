"""The library is compiled where there is a compiler; elsewhere a clause says why there is none."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longctx.attention.native import build
from longctx.engine import drawing


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", build.LEAVE_OUT):
        monkeypatch.delenv(name, raising=False)


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_library_says_what_it_was_made_of(tmp_path: Path) -> None:
    reason = build.compile_into(tmp_path)
    if reason is not None:
        assert "no C compiler was found" in reason or "Windows" in reason
        pytest.skip(reason)
    assert [file.name for file in tmp_path.iterdir()] == [build.LIBRARY]
    source = ctypes.CDLL(str(tmp_path / build.LIBRARY)).longctx_source
    source.restype = ctypes.c_char_p
    assert source().decode() == build.source_hash()


def test_a_changed_header_makes_every_library_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(build.HEADERS, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(build, "HEADERS", tmp_path)
    before = [build.source_hash(source) for source in (build.SOURCE, drawing.SOURCE)]
    headers = sorted(tmp_path.glob("*.h"))
    assert headers
    for header in headers:
        text = header.read_bytes()
        header.write_bytes(text + b"\n")
        for source, kept in zip((build.SOURCE, drawing.SOURCE), before, strict=True):
            assert build.source_hash(source) != kept, header.name
        header.write_bytes(text)


@pytest.mark.skipif(sys.platform == "win32", reason="scripts of a shell")
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("LONGCTX_NO_NATIVE", "1", "LONGCTX_NO_NATIVE is set"),
        ("CC", "/no/such/compiler -m64", r"no C compiler was found (CC=/no/such/compiler -m64)"),
        ("PATH", "/no/such/folder", "no C compiler was found (cc, gcc, clang)"),
    ],
)
def test_without_a_compiler_nothing_is_left_and_the_reason_is_told(
    variable: str, value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / build.LIBRARY).write_text("of an earlier build")
    monkeypatch.setenv(variable, value)
    assert build.compile_into(tmp_path) == reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="scripts of a shell")
def test_a_compiler_that_fails_is_a_reason_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "echo 'decode.c:1: error: of no use' >&2; exit 1"
    compiler, into = script(tmp_path, "bad-cc", text), tmp_path / "into"
    monkeypatch.setenv("CC", str(compiler))
    assert build.compile_into(into) == f"{compiler} failed (decode.c:1: error: of no use)"
    assert list(into.iterdir()) == []


def test_the_build_needs_nothing_of_the_package() -> None:
    """setup.py runs it where neither torch nor longctx is."""
    code = f"import runpy, sys; runpy.run_path({str(build.__file__)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "longctx"} & set(done.stdout.split())
