"""Several tasks of several models side by side, and RULER's mean over them.

    arm       a method of a model, with a run of each task
    mean      over RULER's tasks alone, each counting once; "13 of 13", else it is not RULER's score
    rule      RULER's effective length (arXiv 2404.06654): the longest length up to which the mean
              by RULER's own scorer is never below 85.6 %, which is what Llama2-7B has at 4K; said
              where all thirteen were asked

Figures only; ruler_views.py shows them. Reads results, writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from longctx.eval import tasks
from longctx.eval.format import show_length
from longctx.eval.needle.effective import RULER_AT_LEAST
from longctx.eval.needle.results import NeedleResults
from longctx.eval.runfolder.summary_schema import MeanFigures, TaskFigures, TasksArm, TasksTable
from longctx.eval.scoring import SCORERS, Scorer
from longctx.eval.stats import Interval, wilson

MEANT = tuple(task.about.name for task in tasks.RULER)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TasksOfModel:
    """The runs of one model, by task."""

    model: str
    runs: Mapping[str, NeedleResults]


@dataclass(frozen=True)
class TaskScore:
    """A task at a length: `n` scored samples, their mean and its 95 % interval."""

    n: int
    score: float
    interval: Interval
    cut_off: int = 0
    missing: int = 0  # errors, overflows and what has not run


@dataclass(frozen=True)
class MeanScore:
    """The mean over `count` of RULER's thirteen tasks, whatever their numbers of samples."""

    count: int
    score: float
    interval: Interval

    @property
    def is_rulers(self) -> bool:
        return self.count == len(MEANT)

    @property
    def of(self) -> str:
        """`13 of 13`, or what the mean is not."""
        told = f"{self.count} of {len(MEANT)}"
        return told if self.is_rulers else f"{told}, not RULER's score"


@dataclass(frozen=True)
class RulerArm:
    """A method of a model over its tasks."""

    model: str
    method: str
    runs: Mapping[str, NeedleResults]

    @cached_property
    def _by_scorer(self) -> dict[Scorer, dict[str, NeedleResults]]:
        return {
            scorer: {task: results.judged_by(scorer) for task, results in self.runs.items()}
            for scorer in SCORERS
        }

    @property
    def tasks(self) -> list[str]:
        """RULER's in its order, then the others."""
        return sorted(self.runs, key=list(tasks.TASKS).index)

    @property
    def lengths(self) -> list[int]:
        return sorted({length for one in self.runs.values() for length in one.lengths})

    def score(self, task: str, length: int, scorer: Scorer | None = None) -> TaskScore | None:
        """By the run's own scorer, or another; None where nothing was scored."""
        run = self.runs.get(task)
        if scorer is not None and run is not None:
            run = self._by_scorer[scorer][task]
        if run is None or length not in run.lengths:
            return None
        tally = run.pooled(self.method, length)
        if tally.score is None:
            return None
        missing = sum(tally.others().values())
        # Samples of --samples have a text each.
        spread = run.run["grid"].get("spread", False)
        interval = wilson(tally.total, tally.n) if spread else tally.interval
        return TaskScore(tally.n, tally.score, interval, tally.cut_off, missing)

    def mean(self, length: int, scorer: Scorer | None = None) -> MeanScore | None:
        """Over those of RULER's tasks that have a score at the length; None where none has."""
        found = [self.score(task, length, scorer) for task in MEANT if task in self.runs]
        known = [one for one in found if one is not None]
        if not known:
            return None
        score = math.fsum(one.score for one in known) / len(known)
        return MeanScore(len(known), score, mean_interval(known))

    @property
    def effective(self) -> int | None:
        """By RULER's rule; None below the shortest length, and where tasks are lacking."""
        last = None
        for length in self.lengths:
            mean = self.mean(length, "ruler")
            if mean is None or not mean.is_rulers or mean.score < RULER_AT_LEAST - _ROUNDING:
                break
            last = length
        return last

    @property
    def has_all(self) -> bool:
        """Whether RULER's rule can be applied: all thirteen tasks at every length."""
        means = [self.mean(length, "ruler") for length in self.lengths]
        return all(mean is not None and mean.is_rulers for mean in means)

    def show_effective(self) -> str:
        """`8K`, `>= 8K (max tested)`, `below 4K`, or what it takes."""
        if not self.has_all:
            # MEANT holds thirteen: with fewer the mean is another one, and 85.6 means nothing.
            least = min(
                (mean.count if (mean := self.mean(length)) else 0 for length in self.lengths),
                default=0,
            )
            return f"needs {len(MEANT)} of {len(MEANT)} tasks at every length (has {least})"
        if self.effective is None:
            return f"below {show_length(self.lengths[0])}"
        shown = show_length(self.effective)
        return f">= {shown} (max tested)" if self.effective == self.lengths[-1] else shown


def mean_interval(scores: Sequence[TaskScore]) -> Interval:
    """The 95 % interval of a mean of tasks from those of the tasks, which are independent.

    Each bound lies as far from the mean as the root of the summed squares of the tasks' distances
    from theirs (Zou and Donner 2008): unlike a sum of variances it stays wide where all is right.
    """
    count = len(scores)
    mean = math.fsum(one.score for one in scores) / count
    below = math.hypot(*(one.score - one.interval.low for one in scores)) / count
    above = math.hypot(*(one.interval.high - one.score for one in scores)) / count
    return Interval(max(0.0, mean - below), min(1.0, mean + above))


def arms_of(models: Iterable[TasksOfModel]) -> list[RulerArm]:
    """A method of a model each, in their order."""
    return [
        RulerArm(model.model, method, model.runs)
        for model in models
        for method in dict.fromkeys(
            name for results in model.runs.values() for name in results.methods
        )
    ]


def lengths_of(arms: Sequence[RulerArm]) -> list[int]:
    return sorted({length for arm in arms for length in arm.lengths})


def tasks_of(arms: Sequence[RulerArm]) -> list[str]:
    known = {task for arm in arms for task in arm.tasks}
    return [task for task in tasks.TASKS if task in known]


def table(arms: Sequence[RulerArm]) -> TasksTable:
    """Of tasks.json: scores from 0 to 1, null where nothing was scored."""
    lengths = lengths_of(arms)
    return {"lengths": lengths, "arms": [_arm(arm, lengths) for arm in arms]}


def _arm(arm: RulerArm, lengths: list[int]) -> TasksArm:
    return {
        "model": arm.model,
        "method": arm.method,
        "tasks": {
            task: {str(length): _figures(arm, task, length) for length in lengths}
            for task in arm.tasks
        },
        "mean": {str(length): _mean(arm, length) for length in lengths},
        "ruler_effective_length": arm.effective,
        "ruler_effective": arm.show_effective(),
    }


def _figures(arm: RulerArm, task: str, length: int) -> TaskFigures | None:
    own, rulers = arm.score(task, length), arm.score(task, length, "ruler")
    if own is None or rulers is None:
        return None
    return {
        "n": own.n,
        "score": round(own.score, 6),
        "low": round(own.interval.low, 6),
        "high": round(own.interval.high, 6),
        "score_ruler": round(rulers.score, 6),
        "cut_off": own.cut_off,
        "missing": own.missing,
    }


def _mean(arm: RulerArm, length: int) -> MeanFigures | None:
    own, rulers = arm.mean(length), arm.mean(length, "ruler")
    if own is None or rulers is None:
        return None
    return {
        "tasks": own.count,
        "of": len(MEANT),
        "score": round(own.score, 6),
        "low": round(own.interval.low, 6),
        "high": round(own.interval.high, 6),
        "score_ruler": round(rulers.score, 6),
        "low_ruler": round(rulers.interval.low, 6),
        "high_ruler": round(rulers.interval.high, 6),
    }
