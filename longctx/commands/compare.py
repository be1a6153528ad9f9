"""`longctx compare FILE.yaml`: several models in one command, one report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from longctx.commands.command import command
from longctx.options import shared
from longctx.options.declare import Argument


@dataclass(frozen=True)
class CompareOptions:
    file: Annotated[Path, Argument("What to compare: output, defaults, runs.", metavar="FILE.yaml")]
    dry_run: shared.DryRun = False


@command
def compare(options: CompareOptions) -> int:
    """Run every model of a file under its methods; one report and one table over all of them."""
    from longctx.runs import compare, compare_file

    return compare.compare(compare_file.read(options.file), dry_run=options.dry_run)
