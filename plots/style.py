"""What a person may choose of a picture, with the defaults. Checks, draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

from longctx.errors import UserError
from longctx.plots.palette import PALETTES, Palette, palette

# Which cells carry their count as figures.
ANNOTATE = ("imperfect", "all", "none")
# `plain` is for papers and slides: cells, lengths, depths and one colour scale alone.
KINDS = ("full", "plain")


@dataclass(frozen=True)
class Style:
    palette: str = "default"
    annotate: str = "imperfect"
    title: str | None = None  # in place of the headline
    kind: str = "full"

    def __post_init__(self) -> None:
        one_of("--palette", self.palette, PALETTES)
        one_of("--annotate", self.annotate, ANNOTATE)
        one_of("--style", self.kind, KINDS)
        if self.plain and self.annotate == "all":
            raise UserError("--annotate all: --style plain shows no counts: leave one of them out")

    @property
    def plain(self) -> bool:
        return self.kind == "plain"

    @property
    def colours(self) -> Palette:
        return palette(self.palette)

    def shows_count(self, total: float, n: int) -> bool:
        if self.plain:
            return False
        return self.annotate == "all" or (self.annotate == "imperfect" and total < n)


def one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{flag} {value}: not known: use {', '.join(known[:-1])} or {known[-1]}")
