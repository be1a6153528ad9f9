"""The effective length of a method: up to where it can be relied on, and how sure that is.

    tested length     256    512    1K     2K     4K
    lower bound      0.851  0.851  0.851  0.42   0.851
                      pass   pass   pass  FAIL            -> effective 1K, breaks between 1K and 2K

A longer length that passes does not mend a shorter one that fails. Pure functions of scores; knows
neither records nor depths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longctx.eval.format import show_length
from longctx.eval.needle.inference import (
    FIXED,
    TEXTS_NEEDED,
    THRESHOLD,
    Looks,
    Scores,
    count,
    pooled_interval,
    samples_needed,
    shared,
    texts_of,
)

RULE = f"pooled lower bound >= {THRESHOLD}"
MEANING = f"Effective length: up to it, every length's 95 % lower bound is at least {THRESHOLD}."
OTHER_RULES = (
    "RULER's rule: every length's mean is at least 0.856; NoLiMa's: at least 0.85 of the shortest "
    "length's. Both look at means alone, however few the samples."
)
RULER_AT_LEAST = 0.856  # arXiv 2404.06654: what Llama-2-7B scores at its 4K
NOLIMA_SHARE = 0.85  # arXiv 2502.05167: of the own score where the text is short
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Effective:
    """`length` is None below the shortest length, and where samples are lacking.

    Where depths share texts, texts are what may be lacking: `texts` of them there are.
    """

    length: int | None
    at_least: bool  # no tested length failed
    enough_samples: bool
    samples: int  # scored ones at the length that ends it, else the fewest at any
    needed: int  # samples, or texts where they are shared
    texts: int | None  # at the length that ends it, else the fewest at any; None: each its own
    last_pass: int | None
    first_fail: int | None
    ruler: int | None
    nolima: int | None
    max_tested: int | None

    def to_dict(self) -> dict[str, Any]:
        return {"rule": RULE, **asdict(self)}


def effective_length(scores: Mapping[int, Scores], looks: Looks = FIXED) -> Effective:
    """Walks up from the shortest length and stops at the first that does not pass.

    Args:
        scores: of each length, one sequence per text.
        looks: of a run that ends by what it has found.
    """
    last_pass: int | None = None
    problem: int | None = None
    for length in sorted(scores):
        groups = scores[length]
        if not _enough(groups, looks) or pooled_interval(groups, looks).low < THRESHOLD:
            problem = length
            break
        last_pass = length
    ends = scores if problem is None else {problem: scores[problem]}
    clustered = any(map(shared, ends.values()))
    # Fewer are enough to fail for certain: what is under the threshold with its upper bound.
    failed = problem is not None and pooled_interval(scores[problem], looks).high < THRESHOLD
    enough = failed or (all(_enough(one, looks) for one in ends.values()) and len(scores) > 0)
    return Effective(
        length=last_pass if enough else None,
        at_least=problem is None and enough,
        enough_samples=enough,
        samples=min(map(count, ends.values()), default=0),
        needed=TEXTS_NEEDED if clustered else samples_needed(looks),
        texts=min(map(texts_of, ends.values()), default=0) if clustered else None,
        last_pass=last_pass,
        first_fail=problem if enough else None,
        ruler=_up_to(scores, lambda mean, _: mean >= RULER_AT_LEAST - _ROUNDING),
        nolima=_up_to(scores, lambda mean, base: 0 < base * NOLIMA_SHARE <= mean + _ROUNDING),
        max_tested=max(scores, default=None),
    )


def _enough(groups: Scores, looks: Looks) -> bool:
    if shared(groups):
        return texts_of(groups) >= TEXTS_NEEDED
    return count(groups) >= samples_needed(looks)


def show_effective(effective: Effective) -> str:
    """`4K`, `>= 8K (max tested)`, `below 256` or `not enough samples (10 of 22)`."""
    if not effective.enough_samples:
        if effective.texts is not None:
            return f"not enough texts ({effective.texts} of {effective.needed})"
        return f"not enough samples ({effective.samples} of {effective.needed})"
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
    n = count(groups)
    return sum(sum(group) for group in groups) / n if n else None
