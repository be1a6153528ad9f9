"""The cells of a map: what each is coloured by, says and is marked with. The same for all painters.

    score          the colour of its score; its count where the style wants it
    difference     rust is worse, blue is better; how many prompts more or fewer
    even           compared, and no difference
    empty          nothing known: not run, not compared
    blank          nothing but failures: hatched on the painter's ground

Pure functions of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.results import NeedleResults, Tally
from longctx.plots.difference import DifferenceMap, show_net
from longctx.plots.palette import MUTED, NOT_RUN, RGB, WHITE, difference_colour
from longctx.plots.style import Style

_STATES = {
    "error": "error",
    "overflow": "longer than the target takes",
    "not_run": "not run",
}


class Role(StrEnum):
    SCORE = "score"
    DIFFERENCE = "difference"
    EVEN = "even"
    EMPTY = "empty"
    BLANK = "blank"


@dataclass(frozen=True)
class MapCell:
    column: int
    row: int
    length: int
    depth: float | None
    role: Role
    colour: RGB  # on white; other grounds have their own for what is no data
    told: str  # `8K at 40%: 2 of 3 found, 1 error`
    figures: str  # `2/3 +1 error`, as a table has it
    text: str = ""
    hatched: bool = False  # an error or a cut-off answer among its samples
    crossed: bool = False  # longer than the target takes
    score: float | None = None

    @property
    def is_data(self) -> bool:
        return self.role in (Role.SCORE, Role.DIFFERENCE)

    @property
    def ink(self) -> RGB:
        return self.colour.ink if self.is_data else MUTED


def cells_of(results: NeedleResults, method: str, style: Style) -> tuple[MapCell, ...]:
    """Row by row, the start of the text first."""
    return tuple(
        _cell(column, row, length, depth, results.tally(method, length, depth), style)
        for row, depth in enumerate(results.depths)
        for column, length in enumerate(results.lengths)
    )


def _cell(
    column: int, row: int, length: int, depth: float | None, tally: Tally, style: Style
) -> MapCell:
    others, score = tally.others(), tally.score
    # A plain figure marks only what would else pass for a cell that did not run.
    marks = score is None or not style.plain
    hatched = marks and bool(others.get("error") or tally.cut_off)
    crossed = marks and bool(others.get("overflow"))
    role, colour = Role.EMPTY, NOT_RUN
    if score is not None:
        role, colour = Role.SCORE, style.colours.colour(score)
    elif hatched:
        role, colour = Role.BLANK, WHITE
    shows = score is not None and not crossed and style.shows_count(tally.total, tally.n)
    return MapCell(
        *(column, row, length, depth, role, colour),
        told=f"{show_length(length)} at {show_depth(depth)}: {tally_words(tally)}",
        figures=_figures(tally),
        text=_count(tally) if shows else "",
        hatched=hatched,
        crossed=crossed,
        score=score,
    )


def difference_cells(results: NeedleResults, difference: DifferenceMap) -> tuple[MapCell, ...]:
    found = []
    for row, depth in enumerate(results.depths):
        for column, length in enumerate(results.lengths):
            net, pairs = difference.cells.get((length, depth), (0.0, 0))
            role, colour, told = Role.EMPTY, NOT_RUN, "not compared"
            if pairs:
                text = show_net(net)
                role = Role.DIFFERENCE if text else Role.EVEN
                colour = difference_colour(net / pairs if text else 0)
                told = f"{text or 'no difference'} of {pairs}"
            place = f"{show_length(length)} at {show_depth(depth)}"
            shown = show_net(net) if pairs else ""
            told = f"{place}: {told}"
            found.append(
                MapCell(column, row, length, depth, role, colour, told, figures=shown, text=shown)
            )
    return tuple(found)


def tally_words(tally: Tally) -> str:
    """`2 of 3 found, 1 error`."""
    parts = [f"{tally.total:g} of {tally.n} found"] if tally.n else []
    parts += [f"{tally.cut_off} cut off"] if tally.cut_off else []
    parts += [f"{count} {_STATES[state]}" for state, count in _known(tally.others())]
    return ", ".join(parts)


def _figures(tally: Tally) -> str:
    """`2/3 +1 error`."""
    parts = [_count(tally)] if tally.n else []
    parts += [f"({tally.cut_off} cut off)"] if tally.cut_off else []
    parts += [f"+{count} {_STATES[state]}" for state, count in _known(tally.others())]
    return " ".join(parts).removeprefix("+")


def _count(tally: Tally) -> str:
    return f"{tally.total:g}/{tally.n}"


def _known(states: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(state, states[state]) for state in _STATES if states.get(state)]
