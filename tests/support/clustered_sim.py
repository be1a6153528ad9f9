"""Runs of models whose answers to one text are right or wrong together, without prompts.

What `sim:clustered=P,RHO` answers, drawn as numbers: each text has a share of right answers from a
Beta distribution of mean P, such that two answers to one text correlate by RHO. The figures come
from the rules that runs are judged by. `before` are the rules and the design up to November 2026:
all depths of a repeat about one text, and samples taken for independent ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longctx.eval.needle.close import is_close
from longctx.eval.needle.config import MORE_REPEATS
from longctx.eval.needle.effective import effective_length
from longctx.eval.needle.inference import FIXED, THRESHOLD, Looks, Scores, pooled_interval
from longctx.eval.needle.paired import LIMIT, Pair, compare
from longctx.eval.stats import Interval, holm, mcnemar_exact, wilson

CORRELATIONS = (0.0, 0.1, 0.3, 0.6)
DEPTHS, LENGTHS = 11, 6
Answers = npt.NDArray[np.float64]  # repeats, depths


@dataclass(frozen=True)
class Design:
    """How a length is asked: `repeats`, at most those where the run ends by what it has found.

    `first` repeats, where the rest is asked if a length is close.
    """

    words: str
    shared: bool
    repeats: int
    adaptive: bool = False
    depths: int = DEPTHS
    first: int | None = None

    @property
    def looks(self) -> Looks:
        if self.first is not None:
            more = self.repeats - self.first
            return Looks(first=self.first * self.depths, more=more * self.depths)
        return Looks(self.repeats) if self.adaptive else FIXED

    def groups(self, answers: Answers) -> Scores:
        """By text."""
        rows = answers if self.shared else answers.reshape(-1, 1)
        return [list(map(float, row)) for row in rows]


BEFORE = Design("before: 2 shared texts", shared=True, repeats=2)
FIRST = Design("--no-second-look: 22 texts", shared=False, repeats=2)
DEFAULT = Design(
    "default: 22 texts, 55 where close", shared=False, repeats=2 + MORE_REPEATS, first=2
)
STANDARD = Design("--repeats 5: 55 texts", shared=False, repeats=5)
ADAPTIVE = Design("--adaptive: 11 to 110 texts", shared=False, repeats=10, adaptive=True)
SHARED = Design("--shared-texts, 2 texts", shared=True, repeats=2)
MANY_SHARED = Design("--shared-texts --repeats 15", shared=True, repeats=15)
ADAPTIVE_SHARED = Design(
    "--shared-texts --adaptive --repeats 20", shared=True, repeats=20, adaptive=True
)
DESIGNS = (FIRST, DEFAULT, STANDARD, ADAPTIVE, SHARED, MANY_SHARED, ADAPTIVE_SHARED)


def draw(rng: np.random.Generator, design: Design, p: float, rho: float) -> Answers:
    """The answers of a length, all repeats that may be asked."""
    shape = (design.repeats, 1 if design.shared else design.depths)
    if rho == 0 or p in (0.0, 1.0):
        share = np.full(shape, p)
    else:
        weight = (1 - rho) / rho
        share = rng.beta(p * weight, (1 - p) * weight, shape)
    return (rng.random((design.repeats, design.depths)) < share).astype(float)


def asked(design: Design, answers: Answers) -> Answers:
    """What of it a run of one arm asks: all, or repeats until the stopping rule is satisfied."""
    if design.first is not None:
        return answers if close(design, answers) else answers[: design.first]
    if not design.adaptive:
        return answers
    for repeats in range(1, design.repeats):
        found = answers[:repeats]
        low, high = pooled_interval(design.groups(found), design.looks)
        depths = found.mean(axis=0)
        if not low < THRESHOLD <= high and not ((depths > 0) & (depths < 1)).any():
            return found
    return answers


def close(design: Design, answers: Answers) -> bool:
    return is_close(design.groups(answers[: design.first]), design.looks.more)


def asked_together(design: Design, arms: list[Answers]) -> list[Answers]:
    """Of one length: what is close for one arm is looked at again for all."""
    if design.first is None:
        return [asked(design, answers) for answers in arms]
    again = any(close(design, answers) for answers in arms)
    return [answers if again else answers[: design.first] for answers in arms]


def length_of(design: Design, p: float, rho: float, rng: np.random.Generator) -> Answers:
    return asked(design, draw(rng, design, p, rho))


def interval(design: Design, answers: Answers) -> Interval:
    return pooled_interval(design.groups(answers), design.looks)


def passes(design: Design, answers: Answers) -> bool:
    return effective_length({1: design.groups(answers)}, design.looks).length is not None


def starred(design: Design, first: list[Answers], second: list[Answers]) -> bool:
    """Whether any star stands in the difference map of two arms: answers of every length."""
    pairs = []
    for length, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        for repeat, depth in itertools.product(
            range(min(len(one), len(other))), range(design.depths)
        ):
            text = repeat if design.shared else repeat * design.depths + depth
            scores = float(one[repeat, depth]), float(other[repeat, depth])
            pairs.append(Pair(length, float(depth), repeat, text, *scores))
    compared = compare(pairs, design.looks)
    overall = compared.overall is not None and compared.overall.holds
    return overall or any(one.holds for one in compared.lengths.values())


def interval_before(answers: Answers) -> Interval:
    """Wilson's, or the bootstrap's over the two texts where that is wider: it draws both of one
    text in a quarter of its samples each, so that its bounds are the two means."""
    total, n = float(answers.sum()), answers.size
    found = wilson(total, n)
    if total in (0, n):
        return found
    texts = answers.mean(axis=1)
    return Interval(min(found.low, float(texts.min())), max(found.high, float(texts.max())))


def starred_before(first: list[Answers], second: list[Answers]) -> bool:
    found = [
        mcnemar_exact(int((one > other).sum()), int((other > one).sum()))
        for one, other in zip(first, second, strict=True)
    ]
    return min(holm(found)) < LIMIT


@dataclass(frozen=True)
class Rules:
    """A design with what judges it."""

    design: Design
    interval: Callable[[Answers], Interval]
    passes: Callable[[Answers], bool]
    starred: Callable[[list[Answers], list[Answers]], bool]


def rules_of(design: Design) -> Rules:
    if design == BEFORE:
        return Rules(
            design,
            interval_before,
            lambda answers: interval_before(answers).low >= THRESHOLD,
            starred_before,
        )
    return Rules(
        design,
        lambda answers: interval(design, answers),
        lambda answers: passes(design, answers),
        lambda first, second: starred(design, first, second),
    )


def coverage(rules: Rules, p: float, rho: float, runs: int, seed: int = 0) -> float:
    """The share of runs whose interval of a length holds the true score."""
    rng = np.random.default_rng(seed)
    found = (rules.interval(length_of(rules.design, p, rho, rng)) for _ in range(runs))
    return sum(low <= p <= high for low, high in found) / runs


def passing(rules: Rules, p: float, rho: float, runs: int, seed: int = 0) -> float:
    """The share of runs in which a length passes, so that there is an effective length."""
    rng = np.random.default_rng(seed)
    return sum(rules.passes(length_of(rules.design, p, rho, rng)) for _ in range(runs)) / runs


def starring(
    rules: Rules,
    first: float,
    second: float,
    rho: float,
    runs: int,
    seed: int = 0,
    lengths: int = LENGTHS,
) -> float:
    """The share of difference maps with a star, of two arms whose texts differ independently."""
    rng = np.random.default_rng(seed)

    def arms() -> tuple[list[Answers], list[Answers]]:
        found = [
            asked_together(rules.design, [draw(rng, rules.design, p, rho) for p in (first, second)])
            for _ in range(lengths)
        ]
        return [one for one, _ in found], [other for _, other in found]

    return sum(rules.starred(*arms()) for _ in range(runs)) / runs
