"""Colours of scores, the same in charts and in the terminal. Pure functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PALETTES = ("default", "classic")


class RGB(NamedTuple):
    red: int
    green: int
    blue: int

    @property
    def hex(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"

    @property
    def luminance(self) -> float:
        """Relative luminance, 0-1 (WCAG 2)."""
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in (value / 255 for value in self)
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    @property
    def ink(self) -> RGB:
        """Near-black or white, whichever contrasts more with this colour."""
        return RGB(16, 20, 28) if self.luminance > 0.194 else WHITE


WHITE = RGB(255, 255, 255)
NOT_RUN = RGB(222, 224, 228)
INK = RGB(34, 38, 46)
MUTED = RGB(104, 110, 122)
BAND = RGB(168, 180, 202)


@dataclass(frozen=True)
class Palette:
    """Colours at evenly spaced scores from 0 to 1, mixed linearly between."""

    name: str
    stops: tuple[RGB, ...]

    def colour(self, score: float) -> RGB:
        position = min(max(score, 0.0), 1.0) * (len(self.stops) - 1)
        index = min(int(position), len(self.stops) - 2)
        share = position - index
        low, high = self.stops[index], self.stops[index + 1]
        mixed = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
        return RGB(*mixed)


# Dark plum over rust to pale green: luminance rises all the way, so that the order survives every
# kind of colour blindness and a black-and-white print.
_DEFAULT = Palette(
    "default",
    (
        RGB(74, 20, 68),
        RGB(138, 40, 70),
        RGB(200, 84, 52),
        RGB(231, 150, 60),
        RGB(233, 205, 110),
        RGB(190, 232, 196),
    ),
)
# The colours of the needle charts that people know; not safe for the colour-blind.
_CLASSIC = Palette("classic", (RGB(240, 73, 110), RGB(235, 184, 57), RGB(12, 215, 159)))

# Differences from -1 to 1: rust to blue through near-white. The ends stay apart for every kind of
# colour blindness, and both darken away from zero.
_DIFFERENCES = Palette(
    "differences",
    (
        RGB(140, 58, 8),
        RGB(216, 126, 48),
        RGB(250, 205, 150),
        RGB(247, 247, 245),
        RGB(168, 205, 232),
        RGB(64, 138, 196),
        RGB(16, 66, 130),
    ),
)

_BY_NAME = {palette.name: palette for palette in (_DEFAULT, _CLASSIC)}


def palette(name: str = "default") -> Palette:
    if name not in _BY_NAME:
        raise ValueError(f"palette={name!r} is unknown: choose one of {', '.join(PALETTES)}")
    return _BY_NAME[name]


def difference_colour(difference: float) -> RGB:
    """Of a score minus another, from -1 (worse) to 1 (better)."""
    return _DIFFERENCES.colour((difference + 1) / 2)


def difference_stops() -> tuple[RGB, ...]:
    return _DIFFERENCES.stops
