"""The needle map as a picture: heatmap.png and heatmap.svg of a run folder.

One panel per method on one fixed scale, so that panels and runs compare at a glance:

         trained length
    1     ▔▔ ▔▔ | ▁▁ ▁▁       strip: the score of each length, with its interval
    0           |
    0 %  [ ][ ] | [ ][x]      columns: lengths as equal cells
         [ ][ ] |- -[3/5]     rows: depths, the start of the document on top
    100 %[ ][ ] | [ ][.]      dashed: one trained window before the question
         └────┘               bracket: the effective length; dot: a wide interval

Where perplexity was measured for the same model, a strip of it lies under each panel (one scale
for all). Under it each method's difference to the first one (plots.difference). Several runs lie
below each other. Reads records and draws; computes no score. Equal folders give equal bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.patches import Rectangle

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.summary import Results, Tally, heading, load
from longctx.plots import difference, legend, lower_strip, overlays, words
from longctx.plots.layout import NARROWEST, Layout, layout_for
from longctx.plots.look import Look
from longctx.plots.lower_strip import Scale, Strips
from longctx.plots.palette import INK, MUTED, NOT_RUN, PALETTES, Palette

DPI = 200
_TITLE = 0.62  # inches for a title over several runs


def draw(folder: Path, look: Look | None = None) -> list[Path]:
    """Write heatmap.png and heatmap.svg into the run folder; returns their paths."""
    figure = figure_of([load(folder)], look or Look())
    files = [folder / "heatmap.png", folder / "heatmap.svg"]
    for file in files:
        save(figure, file)
    return files


def save(figure: Figure, file: Path) -> None:
    """PNG or SVG by the name's end. No date and no version: equal records give equal bytes."""
    with words.styled([]):
        if file.suffix == ".svg":
            figure.savefig(file, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(file, dpi=DPI, metadata={"Software": None})


def shown_texts(runs: Sequence[Results], look: Look) -> list[str]:
    """What comes from outside and stands in the picture: names in any language."""
    names = [text for run in runs for text in (headline(run), run.run["haystack"]["id"])]
    return [*names, look.title or ""]


def figure_of(
    runs: Sequence[Results], look: Look, perplexity: Sequence[Strips] | None = None
) -> Figure:
    """Args:
    perplexity: of each run's model; empty where it was not measured.
    """
    strips = perplexity or [{} for _ in runs]
    scale = lower_strip.scale_of(strips)
    with words.styled(shown_texts(runs, look)):
        both = list(zip(runs, strips, strict=True))
        layouts = [_layout_of(results, own, NARROWEST) for results, own in both]
        width = max(layout.width for layout in layouts)
        layouts = [_layout_of(results, own, width) for results, own in both]
        heights = [layout.height for layout in layouts]
        titled = len(runs) > 1 and look.title is not None
        whole = sum(heights) + (_TITLE if titled else 0)
        figure = Figure(figsize=(width, whole), facecolor="white")
        FigureCanvasAgg(figure)
        if len(runs) == 1:
            _draw_run(figure, layouts[0], runs[0], strips[0], scale, look, look.title)
            return figure
        ratios = [_TITLE, *heights] if titled else heights
        parts = figure.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios, hspace=0)
        if titled:
            title = words.fitted(look.title or "", width - 1.4, 17, bold=True)
            parts[0, 0].text(
                layouts[0].left / width, 0.3, title, fontsize=17, fontweight="bold", color=INK.hex
            )
        for part, layout, (results, own) in zip(parts[titled:, 0], layouts, both, strict=True):
            _draw_run(part, layout, results, own, scale, look, None)
        return figure


def _layout_of(results: Results, strips: Strips, least_width: float) -> Layout:
    brackets = any(results.effective(method).enough_samples for method in results.methods)
    differences = difference.differences(results)
    layout = layout_for(
        len(results.methods),
        len(results.lengths),
        len(results.depths),
        brackets=brackets,
        differences=bool(differences),
        perplexity=bool(strips),
        least_width=least_width,
    )
    entries = legend.entries(results, brackets=brackets, differences=differences)
    return replace(layout, legend_rows=-(-len(entries) // _legend_columns(layout, entries)))


def _legend_columns(layout: Layout, entries: Sequence[Any]) -> int:
    return legend.columns_for(entries, layout.width - layout.left - 0.1)


def _draw_run(
    figure: Figure | SubFigure,
    layout: Layout,
    results: Results,
    strips: Strips,
    scale: Scale | None,
    look: Look,
    title: str | None,
) -> None:
    found = difference.differences(results)
    for index, method in enumerate(results.methods):
        axes = figure.add_axes(layout.panel(index))
        _draw_panel(axes, layout, results, method, look, first=index % layout.columns == 0)
        overlays.draw_effective(
            axes,
            results.lengths,
            results.effective(method),
            height=layout.panel_height,
            cell_width=layout.cell_width,
        )
    for index, method in enumerate(results.methods):
        axes = figure.add_axes(layout.strip_of(index))
        first = index % layout.columns == 0
        overlays.draw_strip(axes, results, method, first=first, threshold=layout.brackets)
    if strips and scale is not None:
        for index, method in enumerate(results.methods):
            lower_strip.draw(
                figure.add_axes(layout.lower_strip_of(index)),
                results.lengths,
                strips.get(method, {}),
                scale,
                first=index % layout.columns == 0,
                cell_width=layout.cell_width,
                trained=results.trained_length,
            )
    if found:
        _draw_differences(figure, layout, results, found)
    _draw_colour_bar(figure, layout, look.colours)
    _draw_words(figure, layout, results, title or headline(results))
    entries = legend.entries(results, brackets=layout.brackets, differences=found)
    corner = (layout.left / layout.width, 0.1 / layout.height)
    legend.draw(figure, entries, corner, _legend_columns(layout, entries))


def _draw_panel(
    axes: Axes, layout: Layout, results: Results, method: str, look: Look, *, first: bool
) -> None:
    lengths, depths = results.lengths, results.depths
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    for x, length in enumerate(lengths):
        for y, depth in enumerate(depths):
            _draw_cell(axes, layout, (x, y), results.tally(method, length, depth), look)
    top = -0.5 - layout.above / layout.cell_height
    overlays.draw_trained(axes, lengths, depths, results.trained_length, top=top)

    shown = range(0, len(lengths), _label_every(layout, lengths))
    axes.set_xticks(shown, [show_length(lengths[index]) for index in shown])
    axes.set_yticks(range(len(depths)), [show_depth(depth) for depth in depths] if first else [])
    axes.tick_params(length=0, labelcolor=INK.hex, labelsize=10, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if first and depths != [None]:
        axes.set_ylabel("needle depth", color=MUTED.hex, labelpad=6)
    room = layout.panel_width + 0.4 * layout.gap_x
    scheme = words.fitted(_scheme_words(results.run["schemes"][method]), room, 8.5)
    name = words.fitted(method, room, 12.5, bold=True)
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    points = 72 * layout.above
    axes.annotate(
        name, (0, 1), (0, points + 34), fontsize=12.5, fontweight="bold", color=INK.hex, **above
    )
    axes.annotate(scheme, (0, 1), (0, points + 21), fontsize=8.5, color=MUTED.hex, **above)


def _draw_cell(
    axes: Axes, layout: Layout, place: tuple[int, int], tally: Tally, look: Look
) -> None:
    x, y = place
    others = tally.others()
    colour = NOT_RUN if tally.score is None else look.colours.colour(tally.score)
    ink = MUTED if tally.score is None else colour.ink
    hatched = bool(others.get("error") or others.get("truncated_output"))
    corner = (x - 0.5, y - 0.5)
    fill = "white" if hatched and not tally.n else colour.hex
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=fill, linewidth=0))
    if hatched:
        axes.add_patch(
            Rectangle(corner, 1, 1, facecolor="none", edgecolor=ink.hex, hatch="////", linewidth=0)
        )
    axes.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor="white", linewidth=1.6))
    low, high = tally.interval
    if tally.n and high - low > legend.WIDE:
        right, up = (0.09 / size for size in (layout.cell_width, layout.cell_height))
        dot: dict[str, Any] = {"markersize": 2.6, "markeredgewidth": 0, "alpha": 0.6, "zorder": 4}
        axes.plot(x + 0.5 - right, y - 0.5 + up, marker="o", color=ink.hex, **dot)
    if others.get("overflow"):
        size = min(9, 45 * layout.cell_height, 45 * layout.cell_width)
        axes.plot(x, y, marker="x", markersize=size, markeredgewidth=1.8, color=ink.hex)
        return
    count = f"{tally.total:g}/{tally.n}"
    size = overlays.text_size(count, layout.cell_width)
    if tally.n and size and look.shows_count(tally.total, tally.n):
        text = axes.text(x, y, count, ha="center", va="center", zorder=5)
        text.set(fontsize=size, color=ink.hex)
        # Hatching and the frontier pass behind the figures, not through them.
        text.set_bbox({"boxstyle": "square,pad=0.12", "facecolor": colour.hex, "linewidth": 0})


def _label_every(layout: Layout, lengths: Sequence[int]) -> int:
    """One length label of so many, so that neighbours stay apart."""
    widest = max(words.width_of(show_length(length), 10) for length in lengths)
    return max(1, -(-int(100 * (widest + 0.08)) // int(100 * layout.cell_width)))


def _draw_differences(
    figure: FigureBase,
    layout: Layout,
    results: Results,
    found: Sequence[difference.Difference],
) -> None:
    base = results.methods[0]
    every = _label_every(layout, results.lengths)
    for index, one in enumerate(found, start=1):
        box = layout.difference(index)
        axes = figure.add_axes(box)
        difference.draw(
            axes,
            results.lengths,
            results.depths,
            one,
            first=index == 1 or index % layout.columns == 0,
            every=every,
            text_size=overlays.text_size("−00", layout.cell_width),
        )
        y = box.y + box.height + (layout.star_row + 0.08) / layout.height
        name = words.fitted(f"{one.method} − {base}", layout.panel_width, 10.5, bold=True)
        figure.text(box.x, y, name, fontsize=10.5, fontweight="bold", color=INK.hex)
    x, y = layout.difference_words()
    style: dict[str, Any] = {"va": "top", "linespacing": 1.3}
    name = words.fitted(f"to {base}", layout.panel_width, 10.5, bold=True)
    heading = f"Difference {name}" if layout.columns == 1 else f"Difference\n{name}"
    figure.text(x, y, heading, fontsize=10.5, fontweight="bold", color=INK.hex, **style)
    told = ["same prompts,", "found more (+)", "or fewer (−)"]
    told_text = " ".join(told) if layout.columns == 1 else "\n".join(told)
    y -= (0.25 if layout.columns == 1 else 0.47) / layout.height
    figure.text(x, y, told_text, fontsize=9, color=MUTED.hex, **style)
    difference.draw_bar(figure, layout.bar(layout.difference(1)))


def _draw_colour_bar(figure: FigureBase, layout: Layout, colours: Palette) -> None:
    axes = figure.add_axes(layout.bar(layout.panel(0)))
    stops = [tuple(part / 255 for part in stop) for stop in colours.stops]
    cmap = LinearSegmentedColormap.from_list(colours.name, stops)
    mappable = mpl.cm.ScalarMappable(Normalize(0, 1), cmap)
    bar = figure.colorbar(mappable, cax=axes, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.set_yticklabels(["0", "0.5", "1"])
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=INK.hex)
    bar.ax.set_title("score", fontsize=9, color=MUTED.hex, loc="left", pad=7)


def headline(results: Results) -> str:
    return f"{heading(results)}: {Path(results.run['model']['name']).name}"


def subtitle(results: Results) -> str:
    run = results.run
    text, seed = str(run["haystack"]["id"]), f"seed {run['settings']['seed']}"
    # Generated prose has the seed in its name.
    if not text.endswith(seed):
        text = f"{text}, {seed}"
    repeats = run["grid"]["repeats"]
    samples = "one sample a cell" if repeats == 1 else f"{repeats} samples a cell"
    if results.stopping:
        samples = f"up to {samples}"
    return f"{text}, {samples}"


def _draw_words(figure: FigureBase, layout: Layout, results: Results, title: str) -> None:
    room = layout.width - layout.left - 0.2

    def place(inches: float, text: str, **style: Any) -> None:
        x, y = layout.left / layout.width, 1 - inches / layout.height
        figure.text(x, y, text, ha="left", va="center", **style)

    shown = words.fitted(title, room, 15, bold=True)
    place(0.34, shown, fontsize=15, fontweight="bold", color=INK.hex)
    across = " · across: prompt length in tokens"
    text = words.fitted(f"text: {subtitle(results)}", room - words.width_of(across, 9.5), 9.5)
    place(0.64, text + across, fontsize=9.5, color=MUTED.hex)


# Arms whose positions are not ours to describe.
_OTHERS = {"unverified": "an endpoint: its positions are not shown", "sim": "a simulated model"}


def _scheme_words(scheme: dict[str, Any]) -> str:
    if scheme.get("method") in _OTHERS:
        return _OTHERS[scheme["method"]]
    parts = []
    if scheme.get("chunk_size"):
        parts.append(f"chunk {scheme['chunk_size']}, local {scheme['local_size']}")
    if scheme.get("factor"):
        parts.append(f"factor {scheme['factor']:g}")
    return ", ".join(parts) or "the model as trained"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m longctx.plots.heatmap FOLDER [--palette classic]`: draw a folder again."""
    import argparse

    from longctx.errors import UserError

    parser = argparse.ArgumentParser(prog="python -m longctx.plots.heatmap", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--palette", choices=PALETTES, default=Look.palette)
    options = parser.parse_args(arguments)
    try:
        for file in draw(options.folder, Look(options.palette)):
            print(file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
