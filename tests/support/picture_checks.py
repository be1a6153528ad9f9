"""What must hold for every picture, whatever it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from longctx.plots import heatmap


def texts_of(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]  # type: ignore[attr-defined]


def check(figure: Figure, file: Path) -> None:
    """All text inside the picture, no text on another, and a white border."""
    heatmap.save(figure, file)
    pixels = imread(file)[..., :3]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 1).all()
    figure.canvas.draw()
    whole = figure.bbox
    boxes = []
    for text in texts_of(figure):
        box = text.get_window_extent()
        assert box.x0 >= whole.x0 and box.x1 <= whole.x1, text.get_text()
        assert box.y0 >= whole.y0 and box.y1 <= whole.y1, text.get_text()
        boxes.append((text.get_text(), box.shrunk(0.98, 0.7)))
    for index, (name, box) in enumerate(boxes):
        for other_name, other in boxes[index + 1 :]:
            assert not box.overlaps(other), f"{name!r} lies on {other_name!r}"
