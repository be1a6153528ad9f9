"""Styles of the needle: presets, and the user's own from YAML.

    introduction: A code word is hidden in this text.
    statements: ["The code word of {key} is {value}."]     one is drawn for each sample
    question: What is the code word of {key}?
    answer_prefix: The code word of {key} is               optional
    value: number | uuid | word                            default: number
    keys: [Lisbon, Oslo]                                   default: names like azure-lantern
    expected: [fixed, strings]                             instead of a drawn {value}

A style is part of the recipe as a whole: prompts can be rebuilt without the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from longctx.errors import UserError
from longctx.eval.needle.needle import LANGUAGE
from longctx.eval.tasks.base import Options
from longctx.eval.tasks.languages import LANGUAGES
from longctx.eval.tasks.style import TaskStyle
from longctx.eval.texts.text import settle

VALUES = ("number", "uuid", "word")
DEFAULT = "random-number"


STYLES = {
    "magic-number": TaskStyle(
        introduction="A special magic number is hidden within the following text. Make sure to "
        "memorize it. I will quiz you about the number afterwards.",
        statements=("One of the special magic numbers for {key} is: {value}.",),
        question="What is the special magic number for {key} mentioned in the provided text?",
        answer_prefix="The special magic number for {key} mentioned in the provided text is",
    ),
    "passkey": TaskStyle(
        introduction="There is an important info hidden inside a lot of irrelevant text. Find it "
        "and memorize it. I will quiz you about the important information there.",
        statements=("The pass key is {value}. Remember it. {value} is the pass key.",),
        question="What is the pass key?",
        answer_prefix="The pass key is",
    ),
    "sf-sandwich": TaskStyle(
        introduction="Read the following text. A question about it follows.",
        statements=(
            "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
            "sunny day.",
        ),
        question="What is the best thing to do in San Francisco? Answer from the text alone.",
        answer_prefix="The best thing to do in San Francisco is",
        expected=("sandwich", "Dolores Park", "sunny day"),
    ),
}
NAMES = (DEFAULT, *STYLES)


def style_of(options: Options, language: str) -> TaskStyle | None:
    """The style that a recipe's options name; None for the default one in English."""
    given = options.get("needle")
    if isinstance(given, Mapping):
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in given.items()
        }
        return TaskStyle(**values)
    if given is not None:
        return STYLES[given]
    return None if language == LANGUAGE else LANGUAGES[language]


def read_style(text: str, language: str) -> str | dict[str, Any] | None:
    """`--needle`: a preset's name or a YAML file, as an option of the recipe.

    Raises:
        UserError: an unknown name, a file that cannot be read, or what is wrong in it.
    """
    if text == DEFAULT:
        return None
    if text in STYLES:
        if language != LANGUAGE:
            raise UserError(
                f"--needle {text}: is in English only: leave --language out, or give a YAML file"
            )
        return text
    if not text.endswith((".yaml", ".yml")):
        raise UserError(f"--needle {text}: not known: use {', '.join(NAMES)} or a .yaml file")
    style = asdict(_parse(Path(text)))
    return {name: list(v) if isinstance(v, tuple) else v for name, v in style.items()}


def _parse(file: Path) -> TaskStyle:
    where = f"--needle {file}"
    try:
        content = yaml.safe_load(settle(file.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}): check it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping with introduction, statements and question")
    known = [field.name.replace("value_kind", "value") for field in fields(TaskStyle)]
    for name in content:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
            raise UserError(f"{where}: {name}: not known: {hint}")
    for name in ("introduction", "statements", "question"):
        if name not in content:
            raise UserError(f"{where}: {name}: is missing: give it")
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name in ("statements", "keys", "expected"):
            if not isinstance(value, list) or not value or not all(map(_is_text, value)):
                raise UserError(f"{where}: {name}: must be a list of texts (quote numbers)")
            values[name] = tuple(value)
        elif not isinstance(value, str):
            raise UserError(f"{where}: {name}: must be a text, got {value!r}")
        else:
            values["value_kind" if name == "value" else name] = value
    style = TaskStyle(**values)
    if style.value_kind not in VALUES:
        raise UserError(f"{where}: value: {style.value_kind!r}: use {', '.join(VALUES)}")
    for statement in style.statements:
        if not style.expected and "{value}" not in statement:
            raise UserError(f"{where}: statements: {statement!r} has no {{value}}: add it")
        missing = [word for word in style.expected if word not in statement]
        if missing:
            raise UserError(f"{where}: expected: {missing[0]!r} is not in {statement!r}: add it")
    told = (style.introduction + style.question + style.answer_prefix).casefold()
    for answer in ("{value}", *style.expected):
        if answer.casefold() in told:
            raise UserError(f"{where}: {answer} gives the answer away: use it in statements alone")
    return style


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
