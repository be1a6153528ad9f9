"""Run folders side by side, as a page, a picture or numbers: from options to a file.

Imports nothing heavy: `longctx --help` reads this file. Reads run folders alone, never a model.
"""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from longctx.errors import StoppedError, UserError, disk_full
from longctx.options.declare import Argument, Option
from longctx.plots.palette import PALETTES
from longctx.plots.style import ANNOTATE, Style, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from longctx.report.collect import Report

FORMATS = ("html", "png", "svg", "csv", "md", "tex")
TABLES = ("cells", "tasks")
_TABLE_FORMATS = ("csv", "md", "tex")
PICTURES = ("map", "effective", "perplexity")
_PICTURE_FORMATS = ("png", "svg")


@dataclass(frozen=True)
class ReportOptions:
    """What was said. None stands where a rule decides."""

    folders: Annotated[
        tuple[Path, ...],
        Argument("Run folders: methods and models to compare.", metavar="DIR"),
    ]
    output: Annotated[
        Path | None,
        Option("Where to write. Default: report.<format> in the folder, or here for several."),
    ] = None
    format: Annotated[
        str | None,
        Option(f"{', '.join(FORMATS)}. Default: as the output's name ends, else {FORMATS[0]}."),
    ] = None
    table: Annotated[
        str | None,
        Option(
            "What csv holds: cells, or tasks side by side with RULER's mean, as md and tex do. "
            f"Default: {TABLES[0]}."
        ),
    ] = None
    picture: Annotated[
        str, Option("What png and svg show: map, effective (lengths as bars), perplexity.")
    ] = "map"
    palette: Annotated[str, Option(f"Colours of the maps: {' or '.join(PALETTES)}.")] = (
        Style.palette
    )
    annotate: Annotated[str, Option(f"Cells that show their count: {', '.join(ANNOTATE)}.")] = (
        Style.annotate
    )
    kind: Annotated[
        str,
        Option(
            "Of the map in png and svg: full, plain (cells and one colour scale alone, for papers "
            "and slides), or qwen2 (as figure 1 of the Qwen2 report).",
            name="style",
        ),
    ] = Style.kind
    title: Annotated[str | None, Option("The headline. Default: the models' names.")] = Style.title
    date: Annotated[
        str | None, Option("The date on the page. Default: SOURCE_DATE_EPOCH's, else today.")
    ] = None

    def __post_init__(self) -> None:
        one_of("--picture", self.picture, PICTURES)
        if self.table is not None:
            one_of("--table", self.table, TABLES)
        if self.format is not None:
            one_of("--format", self.format, FORMATS)
        Style(self.palette, self.annotate, self.title, self.kind)  # checks

    @property
    def style(self) -> Style:
        return Style(self.palette, self.annotate, self.title, self.kind)


def make(options: ReportOptions, found: Report | None = None) -> Path:
    """Write the report; returns its path.

    Args:
        found: what the folders hold, where it was read already.
    """
    form = _format(options)
    if options.picture != ReportOptions.picture and form not in _PICTURE_FORMATS:
        raise UserError(
            f"--picture {options.picture}: {form} has no picture to choose: "
            f"use --format {' or '.join(_PICTURE_FORMATS)}"
        )
    if options.style.plain and (form not in _PICTURE_FORMATS or options.picture != "map"):
        raise UserError(
            f"--style {options.kind}: a style of the map as a picture: "
            f"use --format {' or '.join(_PICTURE_FORMATS)} and --picture map"
        )
    if options.table is not None and form not in _TABLE_FORMATS:
        raise UserError(
            f"--table {options.table}: {form} has no table to choose: "
            f"use --format {', '.join(_TABLE_FORMATS)}"
        )
    if options.table == "cells" and form != "csv":
        raise UserError(f"--table cells: {form} holds tasks: use --format csv, or leave it out")
    output = options.output or _default_output(options.folders, form)
    date = _date(options.date, os.environ)
    if found is None:
        from longctx.report.collect import collect

        found = collect(options.folders)
    if form in _PICTURE_FORMATS:
        _write_picture(options, found, output)
    else:
        from longctx.eval.runfolder.records import write_atomically

        if form in _TABLE_FORMATS:
            text = _table(options, found, form)
        else:
            from longctx.report.page import render

            text = render(found, options.style, date=date, command=_command(options))
        try:
            write_atomically(output, text)
        except OSError as error:
            raise _unwritable(output, error) from None
    return output


def _table(options: ReportOptions, found: Report, form: str) -> str:
    if form == "csv" and options.table != "tasks":
        from longctx.report.table import as_csv

        return as_csv(found)
    from longctx.eval.needle import ruler_views

    if not found.tasks:
        raise UserError(
            f"--format {form}: the folders hold no task of RULER's, and not several of a model: "
            "name runs of tasks, or use --format csv --table cells"
        )
    makers = {"csv": ruler_views.as_csv, "md": ruler_views.as_markdown, "tex": ruler_views.as_latex}
    return makers[form](found.tasks)


def _write_picture(options: ReportOptions, found: Report, output: Path) -> None:
    from longctx.plots import fonts, heatmap

    if options.picture == "perplexity":
        figure = _curve(options, found)
        texts = [run.model for run in found.perplexity]
    else:
        figure, texts = _maps(options, found)
    missing = fonts.undrawable("".join(texts))
    if missing:
        print(f"no font for {missing[:20]}: shown as ▯; {fonts.REMEDY}", file=sys.stderr)
    try:
        heatmap.save(figure, output)
    except OSError as error:
        raise _unwritable(output, error) from None


def _maps(options: ReportOptions, found: Report) -> tuple[Figure, list[str]]:
    from longctx.plots import bars, heatmap

    if not found.runs:
        raise UserError(
            f"--picture {options.picture}: no needle run is named: name one, or use "
            "--picture perplexity"
        )
    runs = [run.results for run in found.runs]
    texts = heatmap.shown_texts(runs, options.style)
    if options.picture == "effective":
        if found.perplexity:
            raise UserError("--picture effective: it shows no perplexity: name needle runs alone")
        return bars.figure_of(runs, options.style), texts
    if found.perplexity and not any(found.strips):
        print(
            "no perplexity is shown: it was measured for another model, dtype, scheme or lengths",
            file=sys.stderr,
        )
    return heatmap.figure_of(runs, options.style, found.strips), texts


def _curve(options: ReportOptions, found: Report) -> Figure:
    from longctx.plots import perplexity

    if len(found.perplexity) != 1:
        raise UserError(
            f"--picture perplexity: {len(found.perplexity)} perplexity runs are named: name one"
        )
    return perplexity.figure_of(found.perplexity[0].results)


def _unwritable(output: Path, error: OSError) -> UserError:
    if disk_full(error):
        return StoppedError(
            f"{output}: the disk is full ({error.strerror}): free some space, and the same command "
            "goes on from here"
        )
    return UserError(f"--output {output}: cannot be written ({error.strerror}): name another file")


def _format(options: ReportOptions) -> str:
    ending = options.output.suffix.removeprefix(".") if options.output else ""
    if options.format is not None:
        if ending in FORMATS and ending != options.format:
            raise UserError(
                f"--format {options.format}: --output {options.output} ends in .{ending}: "
                "change one of them"
            )
        return options.format
    if ending and ending not in FORMATS:
        raise UserError(
            f"--output {options.output}: .{ending} is no format: use {', '.join(FORMATS)}, "
            "or say --format"
        )
    return ending or FORMATS[0]


def _default_output(folders: Sequence[Path], form: str) -> Path:
    return (folders[0] if len(folders) == 1 else Path()) / f"report.{form}"


def _date(wanted: str | None, environment: Mapping[str, str]) -> str:
    if wanted is not None:
        try:
            return datetime.date.fromisoformat(wanted).isoformat()
        except ValueError:
            raise UserError(f"--date {wanted}: not a date: write 2026-11-25") from None
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"SOURCE_DATE_EPOCH={epoch}: not a number of seconds: correct or unset it"
        ) from None


def _command(options: ReportOptions) -> str:
    words = ["longctx", "report", *map(str, options.folders)]
    for name in ("output", "table", "date", "palette", "annotate", "title"):
        value = getattr(options, name)
        if value != getattr(ReportOptions, name):
            words += [f"--{name}", str(value)]
    return shlex.join(words)
