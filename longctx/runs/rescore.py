"""A finished needle run judged again: verdicts, then summary and pictures anew."""

from __future__ import annotations

from pathlib import Path

from longctx.eval.needle import summary
from longctx.eval.needle.config import check_scorer
from longctx.eval.runfolder.folder import RunFolder
from longctx.eval.runfolder.rescore import Verdicts
from longctx.eval.runfolder.rescore import rescore as judge_again
from longctx.plots.style import Style
from longctx.runs.needle import draw


def rescore(
    folder: Path, palette: str, scorer: str | None, *, write: bool
) -> tuple[Verdicts, list[str]]:
    """What has changed, and the names of the pictures that were made anew."""
    Style(palette)  # checks
    wanted = None if scorer is None else check_scorer(scorer)
    summary.load(folder)  # before the lock makes a folder of a misspelt name
    with RunFolder(folder) as run_folder:
        told = judge_again(run_folder, wanted, write=write)
        if write:
            results, _ = summary.write_files(folder)
    if not write:
        return told, []
    return told, [file.name for file in draw(results, folder, palette)]
