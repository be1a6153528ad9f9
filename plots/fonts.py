"""Text in pictures: its font, its width, and what happens to text that does not fit or has no font.

    longer than its place      shortened in the middle: models/a-very…-instruct
    no glyph in DejaVu Sans    the first installed font of _FALLBACKS, for CJK above all
    no glyph in any of them    ▯ in its place; `undrawable` tells which, for commands to say

DejaVu Sans ships with matplotlib, so that other letters are the same on every machine. Nothing here
is read as mathematics: a name may hold dollar signs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

BASE = "DejaVu Sans"
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)
_MISSING = "▯"
REMEDY = "install a font such as Noto Sans CJK, or look at the HTML report"


@contextmanager
def styled(texts: Iterable[str]) -> Iterator[None]:
    """matplotlib's settings for a picture that shows these texts, while it is made or saved."""
    settings: Any = {
        "font.family": list(families("".join(texts))),
        "font.size": 10,
        "text.parse_math": False,
        "hatch.linewidth": 0.9,
        "svg.hashsalt": "longctx",  # ids in the file would be random otherwise
        "svg.fonttype": "path",
    }
    # Fonts for CJK often come in one weight, and every bold name would be a line on stderr.
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with mpl.rc_context(settings):
            yield
    finally:
        log.setLevel(level)


def families(text: str) -> tuple[str, ...]:
    """The base font alone unless a letter needs another: pictures stay equal across machines."""
    other = fallback()
    needed = other is not None and any(ord(letter) not in _letters(BASE) for letter in text)
    return (BASE, other) if needed and other is not None else (BASE,)


@lru_cache
def fallback() -> str | None:
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((name for name in _FALLBACKS if name in installed), None)


def undrawable(text: str) -> str:
    """The letters of `text` that no font here has, each once."""
    other = fallback()
    known = _letters(BASE) | (_letters(other) if other is not None else frozenset())
    return "".join(dict.fromkeys(letter for letter in _plain(text) if ord(letter) not in known))


def drawable(text: str) -> str:
    missing = undrawable(text)
    return "".join(_MISSING if letter in missing else letter for letter in _plain(text))


def fitted(text: str, inches: float, size: float, *, bold: bool = False) -> str:
    """`text` as it can be drawn in so much room: whole, or its two ends around an ellipsis."""
    shown = drawable(text)
    if width_of(shown, size, bold=bold) <= inches:
        return shown
    low, high = 0, len(shown) - 1
    while low < high:
        middle = (low + high + 1) // 2
        fits = width_of(_shortened(shown, middle), size, bold=bold) <= inches
        low, high = (middle, high) if fits else (low, middle - 1)
    return _shortened(shown, low)


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Inches."""
    weight = "bold" if bold else "normal"
    font = FontProperties(family=list(families(text)), size=size, weight=weight)
    # Stubs know no way to the renderer's measure but through the canvas.
    width, _, _ = _canvas().get_renderer().get_text_width_height_descent(text, font, False)
    return float(width) / 200


@lru_cache
def _canvas() -> FigureCanvasAgg:
    return FigureCanvasAgg(Figure(dpi=200))


def _shortened(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (keep - head) :].lstrip()}"


def _plain(text: str) -> str:
    """On one line, without what is no letter: a name may hold line breaks and control codes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@lru_cache
def _letters(family: str) -> frozenset[int]:
    path = font_manager.findfont(FontProperties(family=family))
    return frozenset(font_manager.get_font(path).get_charmap())
