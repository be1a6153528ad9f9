"""The prompt of one record again: found, rebuilt and checked against its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longctx.errors import UserError
from longctx.eval.runfolder import reconstruct as prompts
from longctx.models.source import load_tokenizer, locate, tokenizer_sha256
from longctx.tiny import EMBEDDED


def reconstruct(
    folder: Path, row: int, model: str | None, haystack: str | None, encoding: str | None = None
) -> dict[str, Any]:
    """Recipe, token ids and text of a line of results.jsonl; `checked` where it holds a hash.

    Args:
        model, haystack: where tokenizer and text are now; None: where the run had them.
        encoding: of the text; None: what the run found.
    """
    found = prompts.read_row(folder, row)
    text = prompts.find_haystack(found, haystack, encoding)
    source = locate(model or _tokenizer_of(found.run), weights=False)
    tokenizer = load_tokenizer(source)
    prompt = prompts.rebuild(found, text, tokenizer, tokenizer_sha256(tokenizer))
    return {
        "row": row,
        "key": found.record["key"],
        "prompt_sha256": prompt.sha256,
        "checked": found.record.get("prompt_sha256") is not None,
        "recipe": found.recipe.to_dict(),
        "ids": prompt.ids,
        "text": tokenizer.decode(prompt.ids, clean_up_tokenization_spaces=False),
    }


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
