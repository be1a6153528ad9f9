"""`longctx rescore`: judge stored answers again, offline, and make summary and pictures anew."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from longctx.commands.command import command
from longctx.options import shared
from longctx.options.declare import Argument, Option
from longctx.options.needle import NeedleOptions


@dataclass(frozen=True)
class RescoreOptions:
    folder: Annotated[Path, Argument("Run folder of `longctx needle`.")]
    scorer: Annotated[
        str | None,
        Option("whole or ruler: whose verdict is the score from now on. Default: the run's."),
    ] = None
    palette: shared.Palette = NeedleOptions.palette
    dry_run: Annotated[bool, Option("Say what would change; write nothing.")] = False
    json: shared.Json = False


@command
def rescore(options: RescoreOptions) -> None:
    """Judge the stored answers of a needle run again; changed verdicts are appended."""
    from longctx.runs.rescore import rescore as judge_again

    told, pictures = judge_again(
        options.folder, options.palette, options.scorer, write=not options.dry_run
    )
    names = "nothing was written"
    if pictures:
        names = f"wrote {options.folder}/ with summary.md and {', '.join(pictures)}"
    print(f"{told}; {names}", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        known = {"output": str(options.folder), "dry_run": options.dry_run}
        print(json.dumps({**known, **told.to_dict()}))
