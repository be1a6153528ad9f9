"""`longctx rescore`: judge stored answers again, offline, and make summary and pictures anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longctx.commands import options
from longctx.commands.needle import PALETTE, Palette


def rescore(
    folder: Annotated[Path, typer.Argument(help="Run folder of `longctx needle`.")],
    palette: Palette = PALETTE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change; write nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Judge the stored answers of a needle run again; changed verdicts are appended."""
    import json as json_module
    import sys

    from longctx.commands import report
    from longctx.eval.needle import summary
    from longctx.eval.runfolder.folder import RunFolder
    from longctx.eval.runfolder.rescore import rescore as judge_again
    from longctx.plots import heatmap
    from longctx.plots.style import Style

    style = Style(palette)
    summary.load(folder)  # before the lock makes a folder of a misspelt name
    with RunFolder(folder) as run_folder:
        told = judge_again(run_folder, write=not dry_run)
        if not dry_run:
            summary.write(folder)
    names = "nothing was written"
    if not dry_run:
        page = report.make(report.ReportOptions((folder,), style=style))
        pictures = ", ".join(file.name for file in (*heatmap.draw(folder, style), page))
        names = f"wrote {folder}/ with summary.md and {pictures}"
    print(f"{told}; {names}", file=sys.stderr if json else sys.stdout)
    if json:
        print(json_module.dumps({"output": str(folder), "dry_run": dry_run, **told.to_dict()}))
