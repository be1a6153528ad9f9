"""The effective length of a method: up to where it can be relied on, and how sure that is.

    tested length     256    512    1K     2K     4K
    lower bound      0.851  0.851  0.851  0.42   0.851
                      pass   pass   pass  FAIL            -> effective 1K, breaks between 1K and 2K

A longer length that passes does not mend a shorter one that fails. Pure functions of scores; knows
neither records nor depths.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longctx.eval.format import show_length
from longctx.eval.stats import pooled_interval, pooled_lower, wilson

THRESHOLD = 0.85
RULE = f"pooled lower bound >= {THRESHOLD}"
MEANING = f"Effective length: up to it, every length's 95 % lower bound is at least {THRESHOLD}."
OTHER_RULES = (
    "RULER's rule: every length's mean is at least 0.856; NoLiMa's: at least 0.85 of the shortest "
    "length's. Both look at means alone, however few the samples."
)
# Fewer cannot pass, even when all are right: 22.
SAMPLES_NEEDED = next(n for n in itertools.count(1) if wilson(n, n).low >= THRESHOLD)
RULER_AT_LEAST = 0.856  # arXiv 2404.06654: what Llama-2-7B scores at its 4K
NOLIMA_SHARE = 0.85  # arXiv 2502.05167: of the own score where the text is short
_ROUNDING = 1e-9

# The scores of one length, one sequence per document.
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Effective:
    """`length` is None below the shortest length, and where samples are lacking."""

    length: int | None
    at_least: bool  # no tested length failed
    enough_samples: bool
    samples: int  # scored ones at the length that ends it, else the fewest at any
    last_pass: int | None
    first_fail: int | None
    ruler: int | None
    nolima: int | None
    max_tested: int | None

    def to_dict(self) -> dict[str, Any]:
        return {"rule": RULE, **asdict(self)}


def effective_length(scores: Mapping[int, Scores]) -> Effective:
    """Walks up from the shortest length and stops at the first that does not pass."""
    counts = {length: _count(scores[length]) for length in sorted(scores)}
    last_pass: int | None = None
    problem: int | None = None
    for length, samples in counts.items():
        if samples < SAMPLES_NEEDED or pooled_lower(scores[length]) < THRESHOLD:
            problem = length
            break
        last_pass = length
    samples = min(counts.values(), default=0) if problem is None else counts[problem]
    # Fewer are enough to fail for certain: what is under the threshold with its upper bound.
    failed = problem is not None and pooled_interval(scores[problem]).high < THRESHOLD
    enough = samples >= SAMPLES_NEEDED or failed
    return Effective(
        length=last_pass if enough else None,
        at_least=problem is None and enough,
        enough_samples=enough,
        samples=samples,
        last_pass=last_pass,
        first_fail=problem if enough else None,
        ruler=_up_to(scores, lambda mean, _: mean >= RULER_AT_LEAST - _ROUNDING),
        nolima=_up_to(scores, lambda mean, base: 0 < base * NOLIMA_SHARE <= mean + _ROUNDING),
        max_tested=max(scores, default=None),
    )


def show_effective(effective: Effective) -> str:
    """`4K`, `>= 8K (max tested)`, `below 256` or `not enough samples (10 of 22)`."""
    if not effective.enough_samples:
        return f"not enough samples ({effective.samples} of {SAMPLES_NEEDED})"
    if effective.length is None:
        return f"below {show_length(effective.first_fail or 0)}"
    shown = show_length(effective.length)
    return f">= {shown} (max tested)" if effective.at_least else shown


def show_break(effective: Effective) -> str:
    """`4K-8K`: the last length that passed and the first that failed; `–` where none failed."""
    if effective.first_fail is None:
        return "–"
    last = "" if effective.last_pass is None else show_length(effective.last_pass)
    return (
        f"{last}-{show_length(effective.first_fail)}"
        if last
        else (f"before {show_length(effective.first_fail)}")
    )


def show_other(effective: Effective, length: int | None) -> str:
    """By a rule of means: `4K`, `>= 8K` where no length failed, `–` where the shortest one did."""
    if length is None:
        return "–"
    return f"{'>= ' if length == effective.max_tested else ''}{show_length(length)}"


def _up_to(scores: Mapping[int, Scores], passes: Callable[[float, float], bool]) -> int | None:
    """The last length before the first whose mean does not pass, given the shortest one's mean."""
    base: float | None = None
    last: int | None = None
    for length in sorted(scores):
        mean = _mean(scores[length])
        base = mean if base is None else base
        if mean is None or base is None or not passes(mean, base):
            break
        last = length
    return last


def _mean(groups: Scores) -> float | None:
    n = _count(groups)
    return sum(sum(group) for group in groups) / n if n else None


def _count(groups: Scores) -> int:
    return sum(len(group) for group in groups)
