"""How a picture is to look: what a person may choose, with its defaults. Checks, draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

from longctx.errors import UserError
from longctx.plots.palette import PALETTES, Palette, palette

# Which cells carry their count as figures.
ANNOTATE = ("imperfect", "all", "none")


@dataclass(frozen=True)
class Look:
    palette: str = "default"
    annotate: str = "imperfect"
    title: str | None = None  # in place of the headline

    def __post_init__(self) -> None:
        one_of("--palette", self.palette, PALETTES)
        one_of("--annotate", self.annotate, ANNOTATE)

    @property
    def colours(self) -> Palette:
        return palette(self.palette)

    def shows_count(self, total: float, n: int) -> bool:
        return self.annotate == "all" or (self.annotate == "imperfect" and total < n)


def one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{flag} {value}: not known: use {', '.join(known[:-1])} or {known[-1]}")
