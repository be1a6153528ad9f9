"""The strip of perplexity under a map, in data units: one scale for all maps of a picture or page.

    perplexity  2.30  2.23  2.30  3.19     figures; narrow columns: some of them
                ----------------__-/       points on a logarithmic scale, from 0 to 1

Pure functions of figures that somebody else computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from longctx.eval.format import show_length
from longctx.eval.perplexity.files import show_perplexity

CAP = 30.0  # of the scale, in multiples of the best arm's worst figure: a broken arm leaves it
NOT_MEASURED = "not measured"

Strips = Mapping[str, Mapping[int, float]]  # perplexity by method and length


class Scale(NamedTuple):
    """The lowest and highest perplexity that a strip has room for."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at the bottom, 1 on top; what leaves the scale stays at its border."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(max(share, 0.0), 1.0)


class StripPoint(NamedTuple):
    column: int
    share: float  # of the strip's height
    text: str
    told: str


def scale_of(strips: Sequence[Strips]) -> Scale | None:
    """None where nothing was measured."""
    rows = [list(row.values()) for run in strips for row in run.values() if row]
    if not rows:
        return None
    low, worst = min(map(min, rows)), [max(row) for row in rows]
    return Scale(low, max(min(max(worst), CAP * min(worst)), low * 1.05))


def points_of(
    lengths: Sequence[int], found: Mapping[int, float], scale: Scale
) -> tuple[StripPoint, ...]:
    """Of the lengths that were measured; none where this method was not."""
    points = []
    for column, length in enumerate(lengths):
        if length in found:
            text = show_perplexity(found[length])
            told = f"{show_length(length)}: perplexity {text}"
            points.append(StripPoint(column, scale.share(found[length]), text, told))
    return tuple(points)


def labelled(known: Sequence[int], every: int) -> list[int]:
    """Those of the columns that show their figure: the last one, and each `every`-th before it."""
    return [x for x in known if (known[-1] - x) % every == 0]
