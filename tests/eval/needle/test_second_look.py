"""Which cells a run with a second look asks next, from the records that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longctx.eval.needle.grid import Cell
from longctx.eval.needle.runner import Sweep
from longctx.eval.needle.second_look import again_words, close_lengths, first_cells, next_round
from longctx.options.needle import NeedleOptions
from longctx.runs.needle_prepare import prepare
from longctx.runs.settle import settle_needle

METHODS, LENGTHS = ("none", "dca"), (256, 512)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    output: Path = tmp_path_factory.mktemp("runs") / "none"
    said = NeedleOptions(methods=METHODS, lengths=LENGTHS, output=output, dry_run=True)
    return prepare(settle_needle(said)).sweep


def records(
    sweep: Sweep, cells: list[Cell], missed: tuple[tuple[str, int, float], ...] = ()
) -> dict[str, Any]:
    """All right but the first repeats of `missed` (method, length, depth)."""
    found = {}
    for cell in cells:
        wrong = cell.repeat == 0 and (cell.method, cell.length, cell.depth) in missed
        found[sweep.key(cell)] = {
            "status": "miss" if wrong else "ok",
            "score": float(not wrong),
            "length": cell.length,
            "repeat": cell.repeat,
            "recipe": {"repeat": sweep.recipe(cell).repeat},
        }
    return found


def test_first_everything_twice(sweep: Sweep) -> None:
    first = first_cells(sweep)
    assert len(first) == 2 * 2 * 22 and len(sweep.all_cells()) == 2 * 2 * 55
    assert next_round(sweep, {}) == first
    half = records(sweep, first[:50], (("none", 256, 0.0),))
    assert next_round(sweep, half) == first[50:]


def test_then_all_methods_at_a_length_where_one_is_close(sweep: Sweep) -> None:
    first = first_cells(sweep)
    assert next_round(sweep, records(sweep, first)) == []
    found = records(sweep, first, (("dca", 512, 0.0), ("dca", 512, 50.0)))
    again = next_round(sweep, found)
    places = {(cell.method, cell.repeat) for cell in again}
    assert places == {(method, repeat) for method in METHODS for repeat in (2, 3, 4)}
    assert len(again) == 66 and {cell.length for cell in again} == {512}
    assert again_words(again) == "close at 512: looked at again"
    # Three misses of 22 are not close.
    three = tuple(("dca", 512, depth) for depth in (0.0, 50.0, 100.0))
    assert next_round(sweep, records(sweep, first, three)) == []


def test_a_second_look_that_has_begun_is_finished_whatever_it_finds(sweep: Sweep) -> None:
    first = first_cells(sweep)
    found = records(sweep, first, (("none", 256, 0.0),))
    again = next_round(sweep, found)
    found |= records(sweep, again[:10])
    assert next_round(sweep, found) == again[10:]
    # Judged again meanwhile, so that it would no longer be close: its samples stay whole.
    found |= records(sweep, first) | records(sweep, again[:10])
    assert close_lengths(sweep, found) == [256]
    assert next_round(sweep, found) == again[10:]
    # And it is the last one.
    found |= records(sweep, again)
    assert next_round(sweep, found) == []


def test_a_length_with_errors_waits_for_the_next_session(sweep: Sweep) -> None:
    first = first_cells(sweep)
    found = records(sweep, first, (("none", 256, 0.0), ("none", 512, 0.0)))
    broken = next(cell for cell in first if (cell.method, cell.length) == ("dca", 512))
    found[sweep.key(broken)] |= {"status": "error", "score": None}
    assert next_round(sweep, found) == [broken]
    tried = {sweep.key(cell) for cell in first}
    assert {cell.length for cell in next_round(sweep, found, tried)} == {256}
