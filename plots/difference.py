"""Each method of a run against the first, on identical prompts: figures that eval.paired computed.

Draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from longctx.eval.format import show_length
from longctx.eval.needle.paired import (
    Comparison,
    PairedComparison,
    compare,
    net_by_cell,
    pairs_of,
)
from longctx.eval.needle.results import NeedleResults

STAR = "★"
_SMALL = 0.05  # of a prompt: what is less is rounding of partial scores


@dataclass(frozen=True)
class DifferenceMap:
    """An arm minus the first one, by cell and by length."""

    method: str
    cells: dict[tuple[int, float | None], tuple[float, int]]  # net prompts, pairs
    compared: Comparison

    @property
    def lengths(self) -> Mapping[int, PairedComparison]:
        return self.compared.lengths

    @property
    def overall(self) -> PairedComparison | None:
        """All lengths together, where that was tested."""
        return self.compared.overall

    @property
    def holds(self) -> bool:
        """Whether any test does."""
        return bool(self.stars) or (self.overall is not None and self.overall.holds)

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
        found.append(DifferenceMap(method, net_by_cell(pairs), compare(pairs, results.looks)))
    return found if any(difference.cells for difference in found) else []


def differs_words(difference: DifferenceMap) -> str:
    """`differs at 4K, 8K, and over all`."""
    at = ", ".join(show_length(length) for length in difference.stars)
    over = difference.overall is not None and difference.overall.holds
    if not difference.compared.by_length:
        if over:
            return "differs over all lengths"
        return "no difference for certain" if difference.lengths else "nothing compared"
    if not at:
        return "differs over all lengths" if over else "no length differs for certain"
    return f"differs at {at}" + (", and over all" if over else "")


def show_net(net: float) -> str:
    """`+2`, `−1`; nothing for no difference."""
    return f"{net:+g}".replace("-", "−") if abs(net) >= _SMALL else ""
