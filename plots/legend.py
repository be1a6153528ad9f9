"""The explanations of a map, as signs and words: only of what the map at hand shows."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from longctx.eval.format import show_length
from longctx.eval.needle.inference import THRESHOLD
from longctx.eval.needle.paired import LIMIT
from longctx.eval.needle.results import NeedleResults
from longctx.plots import frontier
from longctx.plots.difference import DifferenceMap


class Sign(StrEnum):
    NOT_RUN = "not run"
    HATCH = "hatch"
    CROSS = "cross"
    FRONTIER = "frontier"
    INTERVAL = "interval"
    EFFECTIVE = "effective"
    STAR = "star"


class LegendEntry(NamedTuple):
    sign: Sign
    words: str


def entries_of(
    results: NeedleResults, *, brackets: bool, differences: Sequence[DifferenceMap]
) -> tuple[LegendEntry, ...]:
    """States that occur first, then lines and bands."""
    states = [record["status"] for record in results.records]
    failed, cut = states.count("error"), states.count("truncated_output")
    overflows = states.count("overflow")
    found = []
    if any(results.tally(method).states.get("not_run") for method in results.methods):
        found.append(LegendEntry(Sign.NOT_RUN, "not run"))
    hatched = [f"error ({failed}, not scored)"] if failed else []
    hatched += [f"answer cut off ({cut}, scored by what it has)"] if cut else []
    if hatched:
        found.append(LegendEntry(Sign.HATCH, " or ".join(hatched)))
    if overflows:
        found.append(LegendEntry(Sign.CROSS, f"longer than the target takes ({overflows})"))
    trained = results.trained_length
    if (
        trained is not None
        and frontier.on_the_map(results.lengths, trained)
        and frontier.steps(results.lengths, results.depths, trained)
    ):
        words = f"needle {show_length(trained)} tokens before the question"
        found.append(LegendEntry(Sign.FRONTIER, words))
    found.append(LegendEntry(Sign.INTERVAL, "95 % interval of the score"))
    if brackets:
        found.append(LegendEntry(Sign.EFFECTIVE, f"effective: intervals lie above {THRESHOLD}"))
    if any(difference.holds for difference in differences):
        words = f"differs there, by the name over all lengths: paired test, p < {LIMIT:g}"
        found.append(LegendEntry(Sign.STAR, words))
    lacking = [one.compared for one in differences if one.lengths and not one.compared.by_length]
    if lacking:
        words = f"no stars: lengths need {lacking[0].texts_needed} texts each"
        found.append(LegendEntry(Sign.STAR, words))
    return tuple(found)
