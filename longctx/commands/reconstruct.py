"""`longctx reconstruct`: the prompt of one record again, as text or as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from longctx.commands import options
from longctx.errors import UserError
from longctx.tiny import EMBEDDED


def reconstruct(
    folder: Annotated[Path, typer.Argument(help="Run folder of `longctx needle`.")],
    row: Annotated[int, typer.Option(help="Line of results.jsonl; the first is 1.")],
    ids: Annotated[bool, typer.Option("--ids", help="Token ids instead of text.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Where the tokenizer is. Default: where the run had it.")
    ] = None,
    haystack: Annotated[
        str | None, typer.Option(help="Where the text is now. Default: where it was.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Print the prompt of a record, rebuilt from its recipe and checked against its hash."""
    import json as json_module
    import sys

    from longctx.eval.runfolder import reconstruct as prompts
    from longctx.models.source import load_tokenizer, locate, tokenizer_sha256

    found = prompts.read_row(folder, row)
    text = prompts.find_haystack(found, haystack)
    source = locate(model or _tokenizer_of(found.run), weights=False)
    tokenizer = load_tokenizer(source)
    prompt = prompts.rebuild(found, text, tokenizer, tokenizer_sha256(tokenizer))
    checked = found.record.get("prompt_sha256") is not None
    if not checked:
        print("the record holds no hash of its prompt: not checked", file=sys.stderr)
    decoded = tokenizer.decode(prompt.ids, clean_up_tokenization_spaces=False)
    if json:
        told = {
            "row": row,
            "key": found.record["key"],
            "prompt_sha256": prompt.sha256,
            "checked": checked,
            "recipe": found.recipe.to_dict(),
            "ids": prompt.ids,
            "text": decoded,
        }
        print(json_module.dumps(told, ensure_ascii=False))
    elif ids:
        print(*prompt.ids)
    else:
        # As bytes: no line end is added or translated, and no terminal encoding can fail.
        sys.stdout.buffer.write(str(decoded).encode())
        sys.stdout.flush()


def _tokenizer_of(run: dict[str, Any]) -> str:
    """Where the run found its tokenizer: not every MODEL has one of its own."""
    name, kind = run["model"]["name"], run["model"].get("type")
    if kind == "simulated":
        return EMBEDDED
    if kind != "endpoint":
        return str(name)
    told = run["sessions"][-1].get("tokenizer")
    if told is None:
        raise UserError(
            f"--model: {name} is a server's name, and run.json does not say whose tokenizer "
            "counted: give its directory or hub id"
        )
    return str(told)
