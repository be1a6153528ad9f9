"""What a needle sweep is told: every setting with its default, once. The command line reads this.

Also the small languages of its arguments: lengths (`2K,12K`), depths (`10,50,90`, or a count).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from longctx.chat.encoder import TemplateStyle
from longctx.errors import UserError
from longctx.eval.needle.needle import DEFAULT_ANSWER_PREFIX, LANGUAGE, TASK
from longctx.eval.scoring import SCORERS, Scorer

# A text is a window of the haystack with its needle: one for every cell, or one for all depths of
# a repeat, which then share its prefill.
Texts = Literal["own", "shared"]

# What a second look adds to a length that is close.
MORE_REPEATS = 3

_UNITS = {"": 1, "K": 1024, "M": 1024**2}
_LONGEST = 1 << 30
# As many depths as people ask for by a bare number; 25 or 50 are places in percent.
_MOST_BARE, _MOST_DEPTHS = 21, 1001


@dataclass(frozen=True)
class NeedleConfig:
    """A sweep of one task. Lengths in tokens, depths in percent (0 is the start).

    The only depth is None where a task spreads its evidence over the text. `spread`: a repeat is
    one sample, at one of the depths in turn, in place of one at each. `first_repeats`: of every
    cell, where only close lengths are asked all `repeats`; None: no second look.
    """

    lengths: tuple[int, ...] = (2048, 4096, 8192)
    depths: tuple[float | None, ...] = tuple(10.0 * step for step in range(11))
    repeats: int = 2
    first_repeats: int | None = None
    texts: Texts = "own"
    spread: bool = False
    seed: int = 0
    template: TemplateStyle = "chat"
    system: str | None = None
    answer_prefix: str = DEFAULT_ANSWER_PREFIX
    answer_tokens: int = 32
    exact: bool = False
    allow_repeat: bool = False
    limit: int | None = None
    adaptive: bool = False
    budget_minutes: float | None = None
    task: str = TASK
    language: str = LANGUAGE
    options: Mapping[str, Any] = field(default_factory=dict)
    scorer: Scorer = "whole"

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"--repeats {self.repeats}: must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: must be at least 1, or left out")
        if self.budget_minutes is not None and not 0 < self.budget_minutes < math.inf:
            raise UserError(
                f"--budget-minutes {self.budget_minutes:g}: must be above 0, or left out"
            )
        if self.adaptive and self.limit is not None:
            raise UserError(
                f"--limit {self.limit}: --adaptive ends by its own rule: use --budget-minutes"
            )
        if self.adaptive and self.spread:
            raise UserError(
                f"--samples {self.repeats}: --adaptive decides how many there are: use --repeats"
            )
        if self.template not in ("chat", "none"):
            raise UserError(f"--template {self.template}: use chat or none")
        check_scorer(self.scorer)


def depths_of(
    depths: Sequence[float | None], repeat: int, *, spread: bool
) -> Sequence[float | None]:
    """Where the samples of a repeat stand."""
    return (depths[repeat % len(depths)],) if spread else depths


def check_scorer(scorer: str) -> Scorer:
    """
    Raises:
        UserError: there is none of this name.
    """
    for known in SCORERS:
        if scorer == known:
            return known
    raise UserError(f"--scorer {scorer}: use {' or '.join(SCORERS)}")


def parse_lengths(text: str, flag: str = "--lengths") -> tuple[int, ...]:
    """`2K,12K,1M` or plain numbers; K = 1024. Ascending, without doubles."""
    lengths = set()
    for part in _parts(text, flag):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KM]?)", part.upper())
        value = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0 < value <= _LONGEST or value != int(value):
            raise UserError(f"{flag} {part}: not a length: write tokens, as 2048, 2K or 1M")
        lengths.add(int(value))
    return tuple(sorted(lengths))


def parse_depths(text: str, flag: str = "--depths") -> tuple[float, ...]:
    """`0,25,50` or `50%` are depths; `5` and `n=41` are counts of evenly spaced ones.

    A bare number that is more likely a depth is neither.
    """
    if match := re.fullmatch(r"\s*(n=)?(\d+)\s*", text):
        count = float(match[2])
        if not match[1] and _MOST_BARE < count <= 100:
            shown = f"{count:g}"
            raise UserError(
                f"{flag} {shown}: one depth, or {shown} of them? Write {shown}% for the depth, "
                f"n={shown} for that many evenly spaced"
            )
        if not 1 <= count <= _MOST_DEPTHS:
            raise UserError(
                f"{flag} {text}: one number is a count from 1 to {_MOST_DEPTHS} (else: 50%)"
            )
        if count == 1:
            return (50.0,)
        return tuple(round(100 * index / (count - 1), 3) for index in range(int(count)))
    depths = set()
    for part in _parts(text, flag):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", part)
        if not match or float(match[1]) > 100:
            raise UserError(f"{flag} {part}: not a depth: write percent from 0 to 100")
        depths.add(float(match[1]))
    return tuple(sorted(depths))


def parse_methods(text: str) -> tuple[str, ...]:
    """Comma-separated methods in the order given; which ones exist is not known here."""
    return tuple(dict.fromkeys(_parts(text, "--methods")))


def _parts(text: str, flag: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError(f"{flag} {text!r}: empty: give at least one, separated by commas")
    return parts
