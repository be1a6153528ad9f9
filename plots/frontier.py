"""Where the trained length lies on a map: a border between columns, and the frontier beyond it.

    [ ] | [x] [x]      above the dashed line a needle lies more than one trained window before the
    [ ] |- - -[x]      question: what plain RoPE can reach ends there
    [ ] | [ ]  - -     it runs along borders of cells, never through one

Pure functions of numbers, in units of cells: column 0 reaches from -0.5 to 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence


def on_the_map(lengths: Sequence[int], trained: int | None) -> bool:
    """Whether the border is near enough to the lengths shown to say something about them."""
    return trained is not None and lengths[0] // 2 <= trained < 2 * lengths[-1]


def border(lengths: Sequence[int], trained: int) -> float:
    """The column border behind the last length that lies within the trained one."""
    return sum(length <= trained for length in lengths) - 0.5


def steps(
    lengths: Sequence[int], depths: Sequence[float | None], trained: int
) -> list[tuple[float, float]]:
    """The frontier as corners of a line, left and right end of each column beyond the border.

    None where the map has no depths: its one row stands for evidence all over the text.
    """
    corners: list[tuple[float, float]] = []
    rows = [depth for depth in depths if depth is not None]
    if not rows:
        return corners
    for x, length in enumerate(lengths):
        if length > trained:
            level = sum(out_of_reach(depth, length, trained) for depth in rows) - 0.5
            corners += [(x - 0.5, level), (x + 0.5, level)]
    return corners


def out_of_reach(depth: float, length: int, trained: int) -> bool:
    """Whether a needle there lies farther from the question than the trained length."""
    return depth * length < 100 * (length - trained)
