"""A prompt again, byte for byte, from the recipe that its record holds.

    record    the recipe: lengths, seeds, and the hashes of all that it needs
    run.json  where the haystack came from, and the template
    checked   haystack, tokenizer, template and wording against the recipe, the prompt against
              the record: what has changed is an error that names it

Knows no model; somebody else finds the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval.needle.needle import TASK
from longctx.eval.prompt import Prompt, PromptBuilder
from longctx.eval.runfolder import folder, records
from longctx.eval.runfolder.records import Record
from longctx.eval.spec import PromptSpec
from longctx.eval.tasks import wording_sha256
from longctx.eval.texts import haystack as haystacks
from longctx.eval.texts import prose
from longctx.eval.texts.files import Reading
from longctx.eval.texts.haystack import Haystack


class ResultLine(NamedTuple):
    run: dict[str, Any]
    record: Record
    recipe: PromptSpec


def read_row(path: Path, number: int) -> ResultLine:
    """Line `number` of results.jsonl, the first being 1, with its run."""
    run = folder.read_run(path)
    if run is None:
        raise UserError(f"{path}: no {folder.RUN} in it: name the folder of a run")
    if run["task"] != TASK:
        raise UserError(f"{path}: it holds a {run['task']} run: name the folder of a needle run")
    found = records.read(path / folder.RESULTS)
    if not 1 <= number <= len(found):
        raise UserError(
            f"--row {number}: {path / folder.RESULTS} has rows 1 to {len(found)}: name one of them"
        )
    record = found[number - 1]
    stored: Any = record.get("recipe")
    names = {field.name for field in fields(PromptSpec)}
    if not isinstance(stored, Mapping) or {*stored, "options", "boundary"} != names:
        raise UserError(
            f"--row {number}: its record holds no recipe that this version reads: use the version "
            f"that wrote it ({run['sessions'][-1].get('versions', {}).get('longctx', 'unknown')})"
        )
    return ResultLine(run, record, PromptSpec(**stored))


def find_haystack(row: ResultLine, pattern: str | None, encoding: str | None = None) -> Haystack:
    """The text of the run: from `pattern`, or from where run.json says that it was."""
    about, wanted = row.run["haystack"], row.recipe.haystack_sha256
    if pattern is not None:
        found = haystacks.load(pattern, Reading(encoding=encoding))
    elif about["files"]:
        files = [Path(name) for name in about["files"]]
        reading = Reading("haystack", encoding, strict=True)
        known = {} if encoding else about.get("encodings", {})
        found = haystacks.of_files(files, about["id"], f"haystack {about['id']}", reading, known)
    else:
        rebuilt = prose.rebuild(about["id"], max(row.run["grid"]["lengths"]))
        if rebuilt is None:
            raise UserError(
                f"haystack {about['id']}: run.json names no file and this version does not "
                "generate it: pass --haystack"
            )
        found = rebuilt
    if found.sha256 != wanted:
        _changed(f"haystack {found.id}", wanted, found.sha256, "restore it, or pass --haystack")
    return found


def rebuild(row: ResultLine, haystack: Haystack, tokenizer: Any, tokenizer_sha256: str) -> Prompt:
    """The prompt, checked against every hash there is."""
    recipe, settings = row.recipe, row.run["settings"]
    checks = [("tokenizer", recipe.tokenizer_sha256, tokenizer_sha256, "pass the --model of then")]
    wording = wording_sha256(recipe.task, recipe.language, recipe.options)
    checks += [("wording of the task", recipe.wording_sha256, wording, "use that version")]
    for name, then, now, remedy in checks:
        if then != now:
            _changed(name, then, now, remedy)
    chat = ChatEncoder(tokenizer, settings["template"])
    if (now := chat.sha256(recipe.system)) != recipe.template_sha256:
        _changed("chat template", recipe.template_sha256, now, "pass the --model of then")
    prompt = PromptBuilder(haystack, chat, allow_repeat=recipe.allow_repeat).build(recipe)
    stored: Any = row.record.get("prompt_sha256")
    if stored is not None and stored != prompt.sha256:
        _changed("prompt", stored, prompt.sha256, "use the version that wrote it")
    return prompt


def _changed(what: str, then: str, now: str, remedy: str) -> None:
    raise UserError(
        f"{what}: has changed since the run (sha256 {then[:12]} then, {now[:12]} now): {remedy}"
    )
