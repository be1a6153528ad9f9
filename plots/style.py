"""What a person may choose of a picture, with the defaults. Checks, draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

from longctx.errors import UserError
from longctx.plots.palette import PALETTES, Palette, palette

# Which cells carry their count as figures.
ANNOTATE = ("imperfect", "all", "none")
# `plain` is for papers and slides: cells, lengths, depths and one colour scale alone. `qwen2` is
# that in the manner of the Qwen2 report's figure 1: red to green, both axes named, the document's
# top and bottom marked.
KINDS = ("full", "plain", "qwen2")


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
            raise UserError(f"--annotate all: --style {self.kind} shows no counts: leave one out")

    @property
    def plain(self) -> bool:
        return self.kind != "full"

    @property
    def qwen2(self) -> bool:
        return self.kind == "qwen2"

    @property
    def colours(self) -> Palette:
        usual = self.palette == PALETTES[0]
        return palette("classic" if self.qwen2 and usual else self.palette)

    def shows_count(self, total: float, n: int) -> bool:
        if self.plain:
            return False
        return self.annotate == "all" or (self.annotate == "imperfect" and total < n)


def one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{flag} {value}: not known: use {', '.join(known[:-1])} or {known[-1]}")
