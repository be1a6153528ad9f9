"""What every section works with: the device, its ceilings, a clock, and rows that are kept at once.

A section is a list of items. One that fails becomes a row with its error and the next goes on; one
that no longer fits the section's time becomes a row that says so. One that hangs, or leaves the
device unusable, ends the process: another goes on behind it.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from gpu_checks import Check

from gpu_kit.results import Results, Row, Section
from gpu_kit.sizes import Sizes

DEVICE_LOST = 3  # exit code
_TRACEBACK_LINES = 6
_LEAST_LIMIT_S = 20.0
_L2_BYTES = 128 << 20  # more than a card's cache: inputs are rotated through as much


class Ceilings(NamedTuple):
    """What this card does at best: multiply and add, and read and write."""

    tflops: float
    gb_s: float

    def ms_of_flops(self, flops: float) -> float:
        return flops / self.tflops / 1e9

    def ms_of_bytes(self, count: float) -> float:
        return count / self.gb_s / 1e6


class Kit:
    """
    Args:
        seconds: of the section, from now on.
    """

    def __init__(self, results: Results, name: str, sizes: Sizes, seconds: float) -> None:
        self.results, self.sizes = results, sizes
        self.section: Section = results.sections[name]
        self.dry = sizes.dry
        self.cuda = torch.cuda.is_available() and not sizes.dry
        if not self.cuda and not sizes.dry:
            raise RuntimeError("torch finds no CUDA device: --dry runs every section on a CPU")
        self.device = torch.device("cuda" if self.cuda else "cpu")
        # The CPU's kernel is exact in float32, so that a dry run can be held to the oracle.
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self._end = time.monotonic() + seconds

    # -- rows -------------------------------------------------------------------------------------

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()

    def row(self, *args: Any, **kwargs: Any) -> None:
        row = Row(*args, **kwargs)
        self.section.rows.append(row)
        print(f"  {row}", flush=True)
        self.results.write()

    def checks(self, checks: Sequence[Check]) -> None:
        for check in checks:
            state = "ok" if check.ok else "wrong"
            self.row(check.name, float(check.error), "", float(check.allowed), state)

    def attempt_checks(
        self, what: str, task: Callable[[], Sequence[Check]], need_s: float = 0.0
    ) -> None:
        """What `task` finds, row by row."""
        self.attempt(what, lambda: self.checks(task()), need_s)

    def attempt(
        self, what: str, function: Callable[[], Any], need_s: float = 0.0, *, anew: bool = False
    ) -> Any:
        """What `function` returns; None, and a row with the reason, where it cannot.

        Args:
            need_s: seconds it takes on a GPU. With less left it is left out; with several times as
                much spent it hangs, and ends this process.
            anew: others need what it returns, so that every process of the section does it.
        """
        if what in self.section.done:
            return None
        if self.left_s < (0 if self.dry else need_s):
            self.row(what, state="skipped", note=f"{self.left_s:.0f} s are left of {need_s:.0f}")
            return None
        self.section.current = what
        self.results.write()
        began = time.monotonic()
        faulthandler.dump_traceback_later(max(_LEAST_LIMIT_S, 2.5 * need_s), exit=True)
        try:
            return function()
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()[-_TRACEBACK_LINES:]
            self.section.error += f"{what}:\n" + "\n".join(lines) + "\n\n"
            self.row(what, state="failed", note=f"{type(error).__name__}: {str(error)[:200]}")
            if "CUDA error" in str(error):  # all that follows in this process would fail with it
                self.section.done.append(what)
                self.section.current = ""
                self.results.write()
                os._exit(DEVICE_LOST)
            return None
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.section.current = ""
            if not anew:
                self.section.done.append(what)
            self.free()
            print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)

    def free(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    # -- time -------------------------------------------------------------------------------------

    def medians_ms(
        self, arms: Mapping[str, Sequence[Callable[[], Any]]], budget_s: float
    ) -> dict[str, float]:
        """Median milliseconds of a call of each arm, arms in turn, each over its sets of inputs.

        By CUDA events where there are any: what the host takes to launch is part of it where the
        device waits for it.
        """
        self.synchronise()
        first = {name: [self._once_ms(call) for call in calls][-1] for name, calls in arms.items()}
        if sum(first.values()) > 2e3 * budget_s:
            return first  # of a call of seconds, warming up is no part
        times: dict[str, list[float]] = {name: [] for name in arms}
        least, most = (2, 3) if self.dry else (3, 100)
        began, turn = time.monotonic(), 0
        while turn < least or (turn < most and time.monotonic() - began < budget_s):
            for name, calls in arms.items():
                times[name].append(self._once_ms(calls[turn % len(calls)]))
            turn += 1
        return {name: statistics.median(found) for name, found in times.items()}

    def _once_ms(self, call: Callable[[], Any]) -> float:
        if not self.cuda:
            began = time.perf_counter()
            call()
            return (time.perf_counter() - began) * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def sets(self, nbytes: int) -> int:
        """How many sets of inputs of so many bytes leave none of them in the cache."""
        return 1 if self.dry else max(1, min(8, -(-_L2_BYTES // max(nbytes, 1))))

    # -- ceilings ---------------------------------------------------------------------------------

    def ceilings(self) -> Ceilings:
        """As an earlier section found them, or measured now."""
        kept = self.results.about.get("ceilings")
        if kept is None:
            kept = self.results.about["ceilings"] = self._measure()._asdict()
            self.results.write()
            self.free()
        return Ceilings(**kept)

    def _measure(self) -> Ceilings:
        side, size = self.sizes.matmul, self.sizes.copy_bytes
        dtype = torch.bfloat16
        a, b = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        matmul = self.medians_ms({"matmul": [lambda: a @ b]}, 1.5)["matmul"]
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        copy = self.medians_ms({"copy": [lambda: target.copy_(source)]}, 1.0)["copy"]
        return Ceilings(round(2 * side**3 / matmul / 1e9, 4), round(2 * size / copy / 1e6, 2))
