"""Where the trained length lies on a map: a border between columns, and the frontier beyond it.

One trained window before the question is depth = 1 - trained / length: what plain RoPE can reach
ends there. Pure functions of numbers, in units of cells: column 0 reaches from -0.5 to 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
            level = row_of(100 * (1 - trained / length), rows)
            corners += [(x - 0.5, level), (x + 0.5, level)]
    return corners


def row_of(depth: float, depths: Sequence[float]) -> float:
    """Where a depth lies among the rows: linear between their centres and beyond them."""
    if len(depths) == 1:
        return (depth - depths[0]) / 100
    index = int(np.clip(np.searchsorted(depths, depth) - 1, 0, len(depths) - 2))
    low, high = depths[index], depths[index + 1]
    row = index + (depth - low) / (high - low)
    return float(np.clip(row, -0.5, len(depths) - 0.5))
