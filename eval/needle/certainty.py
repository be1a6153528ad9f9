"""How certain the figures of a run are, in words for readers who know no statistics.

Every number in them is computed from the samples that there are. Knows no records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from longctx.eval.needle.close import close_misses, pass_chance
from longctx.eval.needle.config import Texts
from longctx.eval.needle.inference import (
    TEXTS_NEEDED,
    THRESHOLD,
    Looks,
    Scores,
    count,
    pooled_interval,
    samples_needed,
    texts_of,
)

# How a run came by its texts, in headings.
TEXTS: dict[Texts, str] = {"own": "a text for every cell", "shared": "depths share a text"}
_WEAK, _STRONG = 0.8, 0.98
_REPEATS_TOLD = 5  # with eleven depths, 55 samples: 0.98 gets through in 98 %


def interval_words(texts: Texts, looks: Looks) -> str:
    """What stands beside a score."""
    if texts == "own" and looks.first is not None:
        return (
            "Found / asked, with the 95 % interval: Wilson's, and of 97.5 % where a close length "
            "was looked at again."
        )
    kinds = {
        ("own", True): "Wilson's",
        ("own", False): "one that holds whenever the run ended",
        ("shared", True): "cluster-robust, as depths share texts",
        ("shared", False): "cluster-robust, as depths share texts, and widened for every look",
    }
    return f"Found / asked, with the 95 % interval: {kinds[texts, looks.fixed]}."


def sentences(texts: Texts, looks: Looks, samples: Sequence[Scores]) -> list[str]:
    """One paragraph, sentence by sentence.

    Args:
        samples: of every length of every method, one sequence of scores per text.
    """
    known = [one for one in samples if count(one)]
    if not known:
        return ["Nothing was scored, so nothing is certain."]
    least = min(known, key=count)
    asked, counted = count(least), texts_of(least)
    return [
        _resting(texts, asked, max(map(count, known)), counted),
        "It is an estimate: other texts would have given a slightly different one. The 95 % "
        "interval beside it tells by how much: of twenty such intervals about nineteen hold the "
        "score that endlessly many texts would give.",
        _width(texts, looks, least, asked, counted),
        _passing(texts, looks, asked, counted),
        "A star marks a difference that two equal methods would show by luck in at most one of "
        "twenty maps; where there is none, they may still differ.",
        "All of this speaks of this text and this task, not of other ones.",
    ]


def _resting(texts: Texts, asked: int, most: int, counted: int) -> str:
    answers = "one answer" if most == 1 else f"{asked} answers"
    if most > asked:
        answers = f"{asked} to {most} answers"
    if texts == "own" or counted == asked:
        each = "" if most == 1 else ", each to a text of its own"
        return f"The score of a length rests on {answers}{each}."
    about = "one text" if counted == 1 else f"{counted} texts"
    return (
        f"The score of a length rests on {answers} to {about}; answers to one text are "
        "often right or wrong together, so it is the texts that count, not the answers."
    )


def _width(texts: Texts, looks: Looks, least: Scores, asked: int, counted: int) -> str:
    """How far apart scores of the length with the fewest samples may be and still be equal."""
    if texts == "own" or counted == asked:
        interval = pooled_interval([[1.0]] * (asked - asked // 2) + [[0.0]] * (asked // 2), looks)
    else:
        interval = pooled_interval(least, looks)
    half = 50 * (interval.high - interval.low)
    rest = "so few" if half > 15 else "so many"
    return (
        f"With {rest} it reaches up to {half:.0f} points to each side, and two scores that are "
        f"nearer than {min(100, math.sqrt(2) * half):.0f} points may well be the same in truth."
    )


def _passing(texts: Texts, looks: Looks, asked: int, counted: int) -> str:
    rule = f"An effective length is claimed only where the lower end is at least {THRESHOLD}"
    if texts == "shared" and counted < asked:
        few = f", and never from fewer than {TEXTS_NEEDED} texts"
        return f"{rule}{few if counted < TEXTS_NEEDED else ''}."
    if looks.any_time:
        return f"{rule}; the run asked on where that was open, and its intervals allow for it."
    if asked < samples_needed():
        return f"{rule}, which fewer than {samples_needed()} answers cannot reach."
    first = asked if looks.first is None else looks.first
    weak, strong = (pass_chance(truth, looks, first) for truth in (_WEAK, _STRONG))
    told = (
        f"{rule}: a model that in truth finds {100 * _WEAK:.0f} % gets there in {_share(weak)} of "
        f"runs, one that finds {100 * _STRONG:.0f} % in {_share(strong)}."
    )
    if looks.first is not None:
        low, high = close_misses(looks.first, looks.more)
        told += (
            f" A length at which a method misses {low} or {high} of {looks.first} is looked at "
            "again, once, and its interval is wider for it."
        )
    elif strong < 0.8:
        told += (
            " A length that was just missed may want more samples: "
            f"--repeats {_REPEATS_TOLD}, or --adaptive."
        )
    return told


def _share(chance: float) -> str:
    return f"{100 * chance:.0f} %" if chance >= 0.01 else "less than 1 %"
