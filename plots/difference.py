"""Each method of a run against the first, on identical prompts: figures that eval.paired computed.

Draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from longctx.eval.needle.paired import PairedComparison, compare, net_by_cell, pairs_of
from longctx.eval.needle.summary import NeedleResults

STAR = "★"
_SMALL = 0.05  # of a prompt: what is less is rounding of partial scores


@dataclass(frozen=True)
class DifferenceMap:
    """An arm minus the first one, by cell and by length."""

    method: str
    cells: dict[tuple[int, float | None], tuple[float, int]]  # net prompts, pairs
    lengths: dict[int, PairedComparison]

    @property
    def stars(self) -> list[int]:
        """Lengths at which the paired test holds."""
        return [length for length, found in self.lengths.items() if found.holds]


def differences(results: NeedleResults) -> list[DifferenceMap]:
    """Of every method to the first; empty where there is but one, or no pair."""
    first, *others = results.methods
    base = results.chosen(first)
    found = []
    for method in others:
        pairs = pairs_of(base, results.chosen(method))
        found.append(DifferenceMap(method, net_by_cell(pairs), dict(compare(pairs))))
    return found if any(difference.cells for difference in found) else []


def show_net(net: float) -> str:
    """`+2`, `−1`; nothing for no difference."""
    return f"{net:+g}".replace("-", "−") if abs(net) >= _SMALL else ""
