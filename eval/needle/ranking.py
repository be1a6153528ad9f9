"""Arms in order: a method of a run each, the one that can be relied on furthest first.

Pure functions of results; the order is the same in tables, pages and pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from longctx.eval.needle.effective import Effective
from longctx.eval.needle.results import NeedleResults


class MethodOfRun(NamedTuple):
    """`run` is the place of its run among those compared."""

    run: int
    results: NeedleResults
    method: str

    @property
    def model(self) -> str:
        return str(self.results.run["model"]["name"]).replace("\\", "/").rstrip("/").split("/")[-1]

    @property
    def effective(self) -> Effective:
        return self.results.effective(self.method)

    def label(self, *, with_model: bool) -> str:
        return f"{self.model} · {self.method}" if with_model else self.method


def arms_of(runs: Sequence[NeedleResults]) -> list[MethodOfRun]:
    """In the order of runs and of methods in them."""
    return [
        MethodOfRun(index, results, method)
        for index, results in enumerate(runs)
        for method in results.methods
    ]


def ranked(arms: Sequence[MethodOfRun]) -> list[MethodOfRun]:
    """By effective length, then by the score over everything; without enough samples last."""

    def merit(arm: MethodOfRun) -> tuple[int, int, float]:
        effective, score = arm.effective, arm.results.tally(arm.method).score
        known = score if score is not None else -1.0
        return (int(effective.enough_samples), effective.length or 0, known)

    return sorted(arms, key=merit, reverse=True)
