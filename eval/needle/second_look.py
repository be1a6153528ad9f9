"""Close calls are looked at again, once: the stopping rule of the default design.

    every cell twice                 22 samples a length and method, all right ones pass
    a method misses one or two       three repeats more at that length, of all methods, so that
                                     pairs stay pairs: 55 samples, of which 53 pass

A length that is looked at again has an interval of 97.5 %, and each p is doubled: both looks share
the 5 % (inference.py, paired.py). Whoever names a number of repeats gets that and no second look.
Pure functions of records: the same answers give the same cells, after a kill too.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from longctx.eval.format import show_length
from longctx.eval.needle.close import close_misses, is_close
from longctx.eval.needle.grid import Cell
from longctx.eval.needle.inference import THRESHOLD
from longctx.eval.needle.runner import Sweep
from longctx.eval.runfolder.records import Record, looked_again, scored, text_of
from longctx.eval.runfolder.run_schema import Stopping


def second_look_rule(first: int, most: int, depths: int, budget_minutes: float | None) -> Stopping:
    """What run.json keeps.

    Args:
        first: repeats of every cell.
        most: repeats where a length is close.
    """
    budget = "" if budget_minutes is None else f", or the end after {budget_minutes:g} minutes"
    low, high = close_misses(first * depths, (most - first) * depths)
    return {
        "rule": f"second look: every cell {first} times; then, once, {most - first} repeats more "
        f"of all methods at each length at which one misses {low} or {high} of {first * depths}"
        f"{budget}. Both looks share the 5 %: a length looked at again has an interval of 97.5 %, "
        "and each p is doubled.",
        "threshold": THRESHOLD,
        "most_repeats": most,
        "budget_minutes": budget_minutes,
        "first_repeats": first,
    }


def next_round(
    sweep: Sweep, records: Mapping[str, Record], tried: Container[str] = ()
) -> list[Cell]:
    """The cells to ask now: what the first look lacks, then what the second one does.

    Args:
        tried: keys that this session has asked: what failed is left to the next session.
    """
    first = sweep.config.first_repeats or sweep.config.repeats
    wanted = [
        cell
        for cell in sweep.all_cells()
        if _unanswered(records.get(key := sweep.key(cell))) and key not in tried
    ]
    begun = [cell for cell in wanted if cell.repeat < first]
    if begun:
        return begun
    again = set(close_lengths(sweep, records))
    return [cell for cell in wanted if cell.length in again]


def first_cells(sweep: Sweep) -> list[Cell]:
    """Those that are asked in any case."""
    first = sweep.config.first_repeats or sweep.config.repeats
    return [cell for cell in sweep.all_cells() if cell.repeat < first]


def close_lengths(sweep: Sweep, records: Mapping[str, Record]) -> list[int]:
    """The lengths that are looked at again; those whose second look has begun among them.

    A length with unanswered cells of the first look waits for them.
    """
    first = sweep.config.first_repeats or sweep.config.repeats
    more = (sweep.config.repeats - first) * len(sweep.config.depths)
    begun = looked_again(records.values(), first)
    cells: dict[int, dict[str, list[Cell]]] = {}
    for cell in first_cells(sweep):
        cells.setdefault(cell.length, {}).setdefault(cell.method, []).append(cell)
    found = []
    for length, by_method in cells.items():
        answers = [
            [records.get(sweep.key(cell)) for cell in column] for column in by_method.values()
        ]
        if length not in begun and any(_unanswered(one) for column in answers for one in column):
            continue
        if length in begun or any(is_close(_scores(column), more) for column in answers):
            found.append(length)
    return found


def again_words(cells: Iterable[Cell]) -> str:
    """What a run says before its second look."""
    lengths = ", ".join(map(show_length, sorted({cell.length for cell in cells})))
    return f"close at {lengths}: looked at again"


def _scores(column: Iterable[Record | None]) -> list[list[float]]:
    """One list of scores per text."""
    texts: dict[int, list[float]] = {}
    for record in column:
        if record is not None and (score := scored(record)) is not None:
            texts.setdefault(text_of(record), []).append(score)
    return list(texts.values())


def _unanswered(record: Record | None) -> bool:
    return record is None or record["status"] == "error"
