"""The libraries of this room: found beside their C files and loaded once, or the reason why there
are none. Those of other rooms are opened in the same way.

Its threads are those of torch: `GOMP_parallel` of the OpenMP that torch has loaded is handed in. A
second OpenMP in the process would have threads of its own, which fight with torch's for the cores.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from longctx.attention.native.build import HEADERS, LEAVE_OUT, library_of, source_hash

SOURCES = tuple(HEADERS / name for name in ("decode.c", "prefill.c", "round.c"))
# As common.h's enum. All are read; what queries and results have is one of TYPES.
TYPES = {torch.float32: 0, torch.bfloat16: 1}
KEPT = {**TYPES, torch.int8: 2}  # rows of int8_keys.py
LEVELS = ("plain C", "AVX2", "AVX-512")
# What torch's own kernels are held to by this variable, so are these.
_HELD = {"default": 0, "avx2": 1}
_MAPS = Path("/proc/self/maps")


@dataclass(frozen=True)
class Machine:
    """How C runs here.

    Attributes:
        level: which of LEVELS this processor is given.
        parallel: address of GOMP_parallel; None: everything runs in one thread.
    """

    level: int
    parallel: int | None

    def __str__(self) -> str:
        threads = "threads of torch" if self.parallel else "one thread: torch has no GNU OpenMP"
        return f"{LEVELS[self.level]}, {threads}"


@dataclass(frozen=True)
class Library(Machine):
    """Attributes:
    decode, prefill, rounding: functions of decode.c, prefill.c and round.c.
    split: keys of a task of decode.c.
    """

    decode: ctypes.CDLL
    prefill: ctypes.CDLL
    rounding: ctypes.CDLL
    split: int


@cache
def load() -> Library | str:
    """The libraries of attention, or why there are none, as a clause."""
    found = []
    for source in SOURCES:
        functions = opened(source)
        if isinstance(functions, str):
            return functions
        found.append(functions)
    decode, prefill, rounding = found
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    decode.longctx_decode.argtypes = (
        *(pointer,) * 4,
        *(ctypes.c_float, number, pointer, number),
    )
    prefill.longctx_prefill.argtypes = (
        *(pointer,) * 6,
        *(ctypes.c_double, number, pointer, number),
    )
    rounding.longctx_round.argtypes = (pointer, pointer, *(size,) * 8, number, pointer, number)
    rounding.longctx_round.restype = None
    split = decode.longctx_split()
    return Library(level_of(decode), gomp_parallel(), decode, prefill, rounding, split)


def opened(source: Path) -> ctypes.CDLL | str:
    """The functions of a C file's library, or why there are none, as a clause."""
    path = library_of(source)
    if os.environ.get(LEAVE_OUT, "0") not in ("", "0"):
        return f"{LEAVE_OUT} is set"
    if not path.exists():
        return (
            "is not built: a C compiler was missing when longctx was installed, "
            f"or {LEAVE_OUT} was set"
        )
    try:
        functions = ctypes.CDLL(str(path))
        functions.longctx_source.restype = ctypes.c_char_p
        made_of = functions.longctx_source().decode()
    except (OSError, AttributeError) as error:
        return f"cannot be loaded ({error})"
    if made_of != source_hash(source):
        return f"was built from another {source.name} or header: install longctx again"
    return functions


def level_of(functions: ctypes.CDLL) -> int:
    """Which of LEVELS a library is to use here."""
    held = _HELD.get(os.environ.get("ATEN_CPU_CAPABILITY", ""), 2)
    return min(int(functions.longctx_level()), held)


def gomp_parallel() -> int | None:
    """Its address in the OpenMP that torch uses: the one beside it, where others are loaded."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    loaded = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "omp" in line)
    home = Path(torch.__file__).parent
    homes = (home, home.with_name("torch.libs"))
    own = [path for path in loaded if any(Path(path).is_relative_to(each) for each in homes)]
    for path in own or loaded:
        name = Path(path).name
        if not name.startswith(("libgomp", "libomp", "libiomp")):
            continue
        try:
            function = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None
