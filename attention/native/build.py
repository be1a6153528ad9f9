"""Compiles a C file into a shared library. setup.py loads this file alone: standard library only.

A machine without a compiler gets no library, one line that says so, and torch's kernels.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HEADERS = Path(__file__).parent  # that C files include, wherever they lie
SOURCE = HEADERS / "decode.c"
LIBRARY = "decode.lib"  # with .so at its end it would be a module to Python
LEAVE_OUT = "LONGCTX_NO_NATIVE"
COMPILERS = ("cc", "gcc", "clang")
# No flags of this machine's processor: what is better than the common ground is chosen at run time.
# Products and sums are contracted; nothing else about floating point is loosened.
FLAGS = (
    *("-O3", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=fast", "-fno-math-errno"),
)


def library_of(source: Path) -> Path:
    """What lies beside a C file once it is compiled."""
    return source.with_suffix(Path(LIBRARY).suffix)


def source_hash(source: Path = SOURCE) -> str:
    """What a library says that it was made of: its file, and every header of this folder."""
    made_of = (source, *sorted(HEADERS.glob("*.h")))
    return hashlib.sha256(b"".join(each.read_bytes() for each in made_of)).hexdigest()[:16]


def compile_into(folder: Path, source: Path = SOURCE, more: Sequence[str] = ()) -> str | None:
    """Put the library of a C file into a folder; one that lies there already goes.

    The compiler is $CC where that is set, else the first of cc, gcc and clang on the PATH.

    Args:
        more: what this file asks the compiler for beside FLAGS.

    Returns:
        Why there is no library, as a clause; None where there is one.
    """
    target = folder / library_of(source).name
    target.unlink(missing_ok=True)
    if os.environ.get(LEAVE_OUT, "0") not in ("", "0"):
        return f"{LEAVE_OUT} is set"
    if sys.platform == "win32":
        return "not tried on Windows"
    asked = os.environ.get("CC")
    names = [asked] if asked else COMPILERS
    found = [words for name in names if shutil.which((words := shlex.split(name))[0])]
    if not found:
        return f"no C compiler was found ({f'CC={asked}' if asked else ', '.join(COMPILERS)})"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        define = f'-DSOURCE="{source_hash(source)}"'
        # Its own folder: a file that levels.h is to include lies there.
        folders = (f"-I{each}" for each in (source.parent, HEADERS))
        command = [*found[0], *FLAGS, define, *folders, "-o", str(made), str(source), *more]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            return f"{found[0][0]} does not run ({error})"
        if done.returncode or not made.exists():
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no output"]
            return f"{' '.join(found[0])} failed ({lines[0].strip()})"
        made.replace(target)
    return None
