"""Where a command goes among this project's modules: `python tests/support/walk.py needle`.

A *stay* is an entry into another of our modules. Entered again from the same stay, it is the same
stay, with one more call: what a reader of the code opens once. A *climb* is a stay in a module that
is on the way there already: a call back. *Rooms* are the modules that are entered at all; with
`--packages` a room is a package, whose modules belong together. Frames of third parties are passed
through, imports are left out, and what the cells' loop does (all below `Sweep.run`) counts apart.
Other threads are not followed.

Knows the project by its files alone, so that it can be run on another commit: give PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import longctx

PACKAGE = Path(longctx.__file__).resolve().parent
LOOP = "Sweep.run"


@dataclass(eq=False)
class Stay:
    module: str
    parent: Stay | None = None
    calls: int = 0
    inner: dict[str, Stay] = field(default_factory=dict)

    def enter(self, module: str) -> Stay:
        found = self.inner.setdefault(module, Stay(module, self))
        found.calls += 1
        return found

    @property
    def way(self) -> Iterator[Stay]:
        """The stays that lead here, the nearest first."""
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    @property
    def climbs(self) -> bool:
        return any(above.module == self.module for above in self.way)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Stay]]:
        """All stays that begin here, in order of their first calls."""
        for stay in self.inner.values():
            yield depth, stay
            yield from stay.walk(depth + 1)


class Figures(NamedTuple):
    stays: int
    rooms: int
    climbs: int
    calls: int  # entries, each counted

    @classmethod
    def of(cls, start: Stay) -> Figures:
        stays = [stay for _, stay in start.walk()]
        rooms = {stay.module for stay in stays}
        climbs = sum(stay.climbs for stay in stays)
        return cls(len(stays), len(rooms), climbs, sum(stay.calls for stay in stays))

    def __str__(self) -> str:
        return (
            f"{self.stays} stays in {self.rooms} rooms, {self.climbs} climbs, "
            f"{self.calls} calls from one to another"
        )


class Tracer:
    """What sys.setprofile tells, as stays."""

    def __init__(self, *, packages: bool = False) -> None:
        self._packages = packages
        self.start, self.loop = Stay(""), Stay("")
        self._modules: dict[str, str | None] = {}
        # Our frames that run, and where each is; None where a module is being imported.
        self._stack: list[tuple[FrameType, Stay | None]] = []

    def trace(self, run: Callable[[], object]) -> None:
        sys.setprofile(self._event)
        try:
            run()
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or (module := self._module(frame.f_code)) is None:
            return
        stack = self._stack
        if event == "call":
            stack.append((frame, self._next(frame.f_code, module)))
            return
        # A generator that is closed or thrown into may return without a call.
        for depth in range(len(stack) - 1, -1, -1):
            if stack[depth][0] is frame:
                del stack[depth:]
                return

    def _next(self, code: CodeType, module: str) -> Stay | None:
        here = self._stack[-1][1] if self._stack else self.start
        if here is None or code.co_name == "<module>":
            return None
        stay = here if here.module == module else here.enter(module)
        if code.co_qualname == LOOP:
            self.loop.module, self.loop.parent = module, stay
            return self.loop
        return stay

    def _module(self, code: CodeType) -> str | None:
        file = code.co_filename
        if file not in self._modules:
            module = module_of(file)
            if module is not None and self._packages and not file.endswith("__init__.py"):
                module = module.rpartition(".")[0]
            self._modules[file] = module
        return self._modules[file]


def module_of(file: str) -> str | None:
    """Ours that lies in a file: longctx/attention may be a link to ../attention, or absent."""
    path = Path(file).resolve()
    if file.startswith("<") or not path.is_relative_to(PACKAGE.parent):
        return None
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    if parts[0] in ("attention", "eval", "plots"):
        parts = ("longctx", *parts)
    return ".".join(p for p in parts if p != "__init__") if parts[0] == "longctx" else None


def trace_needle(folder: Path, *, packages: bool = False) -> Tracer:
    """Two cells on the embedded model, as from the command line."""
    from longctx import cli

    grid = ("--methods", "dca", "--lengths", "256", "--depths", "0,100", "--repeats", "1")
    arguments, sys.argv = sys.argv, ["longctx", "needle", *grid, "--output", str(folder)]
    tracer = Tracer(packages=packages)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            tracer.trace(cli.main)
    except SystemExit as done:
        if done.code:
            raise
    finally:
        sys.argv = arguments
    return tracer


def main() -> None:
    if sys.argv[1:] not in (["needle"], ["needle", "--packages"]):
        sys.exit("usage: python tests/support/walk.py needle [--packages]")
    with tempfile.TemporaryDirectory() as folder:
        tracer = trace_needle(Path(folder) / "run", packages="--packages" in sys.argv)
    for depth, stay in tracer.start.walk():
        back = "  (climb)" if stay.climbs else ""
        print(f"{'  ' * depth}{stay.module} x{stay.calls}{back}")
    print(f"in the cells' loop: {Figures.of(tracer.loop)}")
    print(f"outside it: {Figures.of(tracer.start)}")


if __name__ == "__main__":
    main()
