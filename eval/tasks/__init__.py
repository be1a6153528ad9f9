"""The tasks that exist, by name, and what the user's arguments mean to each of them.

Every task turns a recipe into a sample (base.Task); `longctx.eval.prompt` fits it to its length.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from typing import Any

from longctx.errors import UserError
from longctx.eval.needle.needle import LANGUAGE
from longctx.eval.tasks import niah, qa
from longctx.eval.tasks.base import Options, Task
from longctx.eval.tasks.counting import CommonWords, FrequentWords
from longctx.eval.tasks.harder import Distractors, OrderedRecall, UuidChain
from longctx.eval.tasks.latent import Latent
from longctx.eval.tasks.needle import NeedleTask
from longctx.eval.tasks.tracing import VariableTracking

RULER: tuple[Task, ...] = (
    *niah.TASKS,
    VariableTracking(),
    CommonWords(),
    FrequentWords(),
    *qa.TASKS,
)
TASKS: Mapping[str, Task] = {
    task.about.name: task
    for task in (
        NeedleTask(),
        *RULER,
        Distractors(),
        Latent(),
        UuidChain(),
        OrderedRecall(),
    )
}
LANGUAGES = TASKS["needle"].about.languages
# Where a needle may stand in text that is not English, and the spaces around it (text.py). Another
# rule is another number, so that no run goes on with prompts that differ from those it has.
_PLACES = 2


def get(name: str) -> Task:
    """Raises UserError where there is none, with the nearest name."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(TASKS)}"
        raise UserError(f"--tasks {name}: not known: {hint}")
    return TASKS[name]


def wording_sha256(name: str, language: str, options: Options) -> str:
    wording = get(name).wording(language, options)
    if language != LANGUAGE:
        wording += f"\nplaces {_PLACES}"
    return hashlib.sha256(wording.encode()).hexdigest()


def options_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the task has, its defaults where none is given.

    None is left out: recipes from before there were options stay what they were.
    """
    known = {key: given.get(key, default) for key, default in get(name).about.options}
    return {key: value for key, value in known.items() if value is not None}


def check_language(name: str, language: str) -> None:
    languages = get(name).about.languages
    if language not in languages:
        raise UserError(
            f"--language {language}: {name} is in {', '.join(languages)}: use one of them, or "
            "another task"
        )


def parse_tasks(text: str) -> tuple[str, ...]:
    """Comma-separated names in the order given.

    Raises:
        UserError: none, or an unknown one.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UserError("--tasks: empty: give at least one, separated by commas")
    for name in names:
        get(name)
    return names
