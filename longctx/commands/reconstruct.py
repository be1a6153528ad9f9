"""`longctx reconstruct`: the prompt of one record again, as text or as token ids."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from longctx.commands.command import command
from longctx.options import shared
from longctx.options.declare import Argument, Option


@dataclass(frozen=True)
class ReconstructOptions:
    folder: Annotated[Path, Argument("Run folder of `longctx needle`.")]
    row: Annotated[int, Option("Line of results.jsonl; the first is 1.")]
    ids: Annotated[bool, Option("Token ids instead of text.")] = False
    model: Annotated[
        str | None, Option("Where the tokenizer is. Default: where the run had it.")
    ] = None
    haystack: Annotated[str | None, Option("Where the text is now. Default: where it was.")] = None
    encoding: shared.Encoding = None
    json: shared.Json = False


@command
def reconstruct(options: ReconstructOptions) -> None:
    """Print the prompt of a record, rebuilt from its recipe and checked against its hash."""
    from longctx.runs import reconstruct as prompts

    told = prompts.reconstruct(
        options.folder, options.row, options.model, options.haystack, options.encoding
    )
    if not told["checked"]:
        print("the record holds no hash of its prompt: not checked", file=sys.stderr)
    if options.json:
        print(json.dumps(told, ensure_ascii=False))
    elif options.ids:
        print(*told["ids"])
    else:
        # As bytes: no line end is added or translated, and no terminal encoding can fail.
        sys.stdout.buffer.write(str(told["text"]).encode())
        sys.stdout.flush()
