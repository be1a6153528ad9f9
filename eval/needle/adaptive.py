"""Where another repeat tells most: which columns to ask next, given what was answered.

A column is all depths of one length under one method. Whole columns are repeated and never single
cells: a length pools its depths, and depths that were asked more often for having failed would
pull its score down.

    every column once
    while a length's interval holds the threshold     one repeat more, all such lengths
    while a length has mixed cells                    one repeat more, all such lengths

Pure functions of records: the same answers give the same order, after a kill too.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from longctx.eval.needle.config import Texts
from longctx.eval.needle.grid import Cell
from longctx.eval.needle.inference import THRESHOLD, Looks, Scores, pooled_interval
from longctx.eval.needle.runner import Sweep
from longctx.eval.runfolder.records import Record, scored, text_of
from longctx.eval.runfolder.run_schema import Stopping

_VALID: dict[Texts, str] = {
    "own": "Intervals and tests hold at every look, whatever ended the run.",
    "shared": "The 5 % of intervals and tests are dealt out to the looks, one after each repeat.",
}


def stopping_rule(repeats: int, budget_minutes: float | None, texts: Texts = "own") -> Stopping:
    """What run.json keeps: when a run with these settings ends."""
    budget = "" if budget_minutes is None else f", or after {budget_minutes:g} minutes"
    return {
        "rule": f"adaptive: every cell once; then all depths of a length again while its pooled "
        f"95 % interval holds {THRESHOLD}, then while one of its cells is neither all found nor "
        f"all missed; at most {repeats} repeats{budget}. {_VALID[texts]}",
        "threshold": THRESHOLD,
        "most_repeats": repeats,
        "budget_minutes": budget_minutes,
    }


def undecided(scores: Scores, looks: Looks) -> bool:
    """Whether more samples of a length could tell on which side of the threshold it is."""
    low, high = pooled_interval(scores, looks)
    return low < THRESHOLD <= high


def next_round(
    sweep: Sweep, records: Mapping[str, Record], tried: Container[str] = ()
) -> list[Cell]:
    """The cells to ask now; none when the rule is satisfied.

    Args:
        tried: keys that this session has asked: what failed is left to the next session.
    """
    columns: dict[tuple[str, int], list[Cell]] = {}
    for cell in sweep.all_cells():
        columns.setdefault((cell.method, cell.length), []).append(cell)
    begun: list[Cell] = []
    doubtful: list[Cell] = []
    mixed: list[Cell] = []
    for column in columns.values():
        found = {cell: records.get(sweep.key(cell)) for cell in column}
        repeats = 1 + max((cell.repeat for cell in column if found[cell]), default=0)
        missing = [
            cell
            for cell in column
            if cell.repeat < repeats and _failed(found[cell]) and sweep.key(cell) not in tried
        ]
        begun += missing
        more = [cell for cell in column if cell.repeat == repeats]
        if missing or not more or not _scores(found, [repeats - 1]):
            continue
        if undecided(_scores(found, range(repeats)), Looks(sweep.config.repeats)):
            doubtful += more
        elif _has_mixed(found):
            mixed += more
    order = {cell: place for place, cell in enumerate(sweep.all_cells())}
    return sorted(begun or doubtful or mixed, key=order.__getitem__)


def _scores(found: Mapping[Cell, Record | None], repeats: Sequence[int]) -> list[list[float]]:
    """One list of scores per text."""
    texts: dict[int, list[float]] = {}
    for cell, record in found.items():
        if cell.repeat in repeats and record and (score := scored(record)) is not None:
            texts.setdefault(text_of(record), []).append(score)
    return list(texts.values())


def _failed(record: Record | None) -> bool:
    return record is None or record["status"] == "error"


def _has_mixed(found: Mapping[Cell, Record | None]) -> bool:
    by_depth: dict[float | None, list[float]] = {}
    for cell, record in found.items():
        if record and (score := scored(record)) is not None:
            by_depth.setdefault(cell.depth, []).append(score)
    return any(0 < sum(scores) < len(scores) for scores in by_depth.values())
