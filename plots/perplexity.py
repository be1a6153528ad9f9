"""The perplexity curve as a picture: perplexity.png and perplexity.svg of a run folder.

    perplexity |        /  none          lines: one per method, in the order of the run
    (log)      |  __---/~~ yarn          bands: the 95 % interval of each length
               | ___________ dca         dashes: the trained length
               +----|--------
                512 1K 2K 4K  (log)

Reads records and draws; computes no figure. Equal folders give equal bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longctx.eval.format import show_length
from longctx.eval.perplexity.files import show_perplexity
from longctx.eval.perplexity.summary import Results, load
from longctx.plots import words
from longctx.plots.heatmap import DPI
from longctx.plots.lower_strip import CAP
from longctx.plots.overlays import DASHES
from longctx.plots.palette import INK, MUTED, NOT_RUN, RGB

# Okabe and Ito's, told apart under every kind of colour blindness; markers repeat the distinction.
COLOURS = (
    *(RGB(86, 92, 104), RGB(213, 94, 0), RGB(0, 114, 178), RGB(0, 138, 100)),
    *(RGB(204, 121, 167), RGB(150, 110, 0), RGB(86, 160, 210)),
)
_MARKERS = "osD^vPX"


def draw(folder: Path) -> list[Path]:
    """Write perplexity.png and perplexity.svg into the run folder; returns their paths."""
    figure = figure_of(load(folder))
    files = [folder / "perplexity.png", folder / "perplexity.svg"]
    with words.styled([]):
        # No date and no version in the files: the same records give the same bytes.
        figure.savefig(files[0], dpi=DPI, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def figure_of(results: Results) -> Figure:
    run = results.run
    with words.styled([run["model"]["name"], run["text"]["id"]]):
        figure = Figure(figsize=(8.2, 5.2), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.1, 0.13, 0.74, 0.66))
        drawn = [
            _draw_method(axes, results, method, index)
            for index, method in enumerate(results.methods)
        ]
        _draw_frame(axes, results, [points for points in drawn if points])
        _draw_labels(axes, results, drawn)
        name = Path(results.run["model"]["name"]).name
        figure.text(
            *(0.1, 0.945, f"Perplexity: {name}"), fontsize=15, fontweight="bold", color=INK.hex
        )
        for y, line in zip((0.895, 0.86), _words(results), strict=True):
            figure.text(0.1, y, line, fontsize=9, color=MUTED.hex, va="center")
        return figure


def _draw_method(
    axes: Axes, results: Results, method: str, index: int
) -> list[tuple[int, float, float, float]]:
    """Length, perplexity and bounds of what is known."""
    figures = [(length, results.figure(method, length)) for length in results.lengths]
    points = [(n, f.perplexity, f.low, f.high) for n, f in figures if f is not None]
    if not points:
        return []
    lengths, values, lows, highs = zip(*points, strict=True)
    colour, marker = COLOURS[index % len(COLOURS)].hex, _MARKERS[index % len(_MARKERS)]
    axes.fill_between(lengths, lows, highs, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        *(lengths, values),
        color=colour,
        marker=marker,
        markersize=5.5,
        linewidth=2,
        label=method,
        zorder=3,
    )
    bins = results.bins(method)
    if bins:
        middles = [(found.start + found.end) / 2 for found in bins]
        heights = [found.perplexity for found in bins]
        axes.plot(middles, heights, color=colour, linewidth=0.7, alpha=0.55)
    return points


def _draw_frame(axes: Axes, results: Results, drawn: Sequence[Sequence[Any]]) -> None:
    lengths, trained = results.lengths, results.trained_length
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    left, right = lengths[0], lengths[-1]
    axes.set_xlim(left / 1.15, right * 1.15 if right > left else right * 2)
    axes.set_xticks(lengths, [show_length(length) for length in lengths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    if drawn:
        worst = [max(high for *_, high in points) for points in drawn]
        low = min(low for points in drawn for *_, low, _ in points)
        axes.set_ylim(low / 1.12, min(max(worst), CAP * min(worst)) * 1.12)
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_perplexity(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if trained is not None and axes.get_xlim()[0] < trained < axes.get_xlim()[1]:
        axes.axvline(trained, color=INK.hex, linewidth=1.3, linestyle=DASHES, zorder=1)
        axes.annotate(
            f"trained {show_length(trained)}",
            (trained, 1),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=INK.hex,
        )
    axes.grid(axis="y", color=NOT_RUN.hex, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=NOT_RUN.hex, linewidth=1)
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=9.5, pad=5)
    axes.set_xlabel("length in tokens", color=MUTED.hex, labelpad=6)
    axes.set_ylabel("perplexity (less is better)", color=MUTED.hex, labelpad=6)


def _draw_labels(axes: Axes, results: Results, drawn: Sequence[Sequence[Any]]) -> None:
    """Names at the ends of their lines, moved apart where they would meet."""
    bottom, top = axes.transData.transform([(1, y) for y in axes.get_ylim()])[:, 1]
    ends = []
    for index, points in enumerate(drawn):
        if points:
            y = axes.transData.transform((points[-1][0], points[-1][1]))[1]
            ends.append((min(max(float(y), bottom), top), index, points[-1][1]))
    step, last = 13 * axes.figure.dpi / 72, -float("inf")
    for y, index, value in sorted(ends):
        last = max(y, last + step)
        share = (last - bottom) / (top - bottom)
        axes.annotate(
            f"{results.methods[index]} {show_perplexity(value)}",
            (1, share),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=COLOURS[index % len(COLOURS)].hex,
            annotation_clip=False,
        )


def _words(results: Results) -> tuple[str, str]:
    view, text = results.view, results.run["text"]
    which = {
        "prefix": "tokens 2 to L",
        "position": f"the last {view['window']} tokens before L; thin: every position",
        "window": f"every token once, in windows of L moved by {view['stride']}",
    }[view["metric"]]
    count, longest = len(results.documents), show_length(results.longest)
    return (
        f"{which} · {count} document(s) of {longest} tokens · bands: 95 % bootstrap",
        f"{text['id']} · {results.run['settings']['bos']}",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m longctx.plots.perplexity FOLDER`: draw a folder again."""
    import argparse

    from longctx.errors import UserError

    parser = argparse.ArgumentParser(prog="python -m longctx.plots.perplexity", description=__doc__)
    parser.add_argument("folder", type=Path)
    try:
        for file in draw(parser.parse_args(arguments).folder):
            print(file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
