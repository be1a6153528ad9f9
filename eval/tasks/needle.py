"""The default task: one needle, one question, in a choice of styles and languages.

random-number   the task that `longctx needle` has always asked; its prompts never change
magic-number    RULER's wording alone, without paraphrases
passkey         a key in a text of noise (arXiv 2305.16300), here in any haystack
sf-sandwich     the sandwich in Dolores Park of the first needle tests; known to many models
FILE.yaml       the user's own (styles.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from longctx.errors import UserError
from longctx.eval.needle import needle
from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Sample, Statement
from longctx.eval.tasks.base import About, Options, depth_of, fresh
from longctx.eval.tasks.languages import LANGUAGES
from longctx.eval.tasks.style import TaskStyle
from longctx.eval.tasks.styles import style_of
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec


@dataclass(frozen=True)
class NeedleTask:
    @property
    def about(self) -> About:
        return About(
            needle.TASK,
            "one 7-digit number hidden at a depth of a long text, asked for by name "
            "(RULER's wording)",
            32,
            languages=(needle.LANGUAGE, *LANGUAGES),
            options=(("needle", None),),
        )

    def wording(self, language: str, options: Options) -> str:
        style = style_of(options, language)
        return needle.WORDING if style is None else style.wording()

    def answer_prefix(self, language: str, options: Options) -> str:
        style = style_of(options, language)
        return needle.DEFAULT_ANSWER_PREFIX if style is None else style.answer_prefix

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        style = style_of(recipe.options, recipe.language)
        if style is not None:
            return _styled(style, recipe, haystack)
        made = needle.make_needle(
            haystack,
            seed=recipe.seed,
            length=recipe.length,
            repeat=recipe.repeat,
            answer_prefix=recipe.answer_prefix,
        )
        return Sample(
            introduction=made.introduction,
            question=made.question,
            answer_prefix=made.answer_prefix,
            expected=made.expected,
            statements=(Statement(made.statement, depth_of(recipe), asked=True),),
            secrets=made.expected,
        )


def _styled(style: TaskStyle, recipe: PromptSpec, haystack: Haystack) -> Sample:
    rng = seeded("needle", style.wording(), recipe.seed, recipe.length, recipe.repeat)
    taken: set[str] = set()
    # Names may stand in a book; the value may not.
    key = fresh(lambda: style.key(rng), haystack, taken, strict=False)
    value = fresh(lambda: style.value(rng), haystack, taken, strict=not style.expected)
    statement = rng.choice(style.statements)
    expected = style.expected or (value,)
    if style.expected and _holds(haystack.text, style.expected):
        raise UserError(
            f"--haystack {haystack.id}: {', '.join(style.expected)} stand in it already, and "
            "finding them would tell nothing: use another text, or other words in --needle"
        )

    def filled(text: str) -> str:
        return text.replace("{key}", key).replace("{value}", value)

    return Sample(
        introduction=filled(style.introduction),
        question=filled(style.question),
        answer_prefix=recipe.answer_prefix.replace("{key}", key),
        expected=expected,
        statements=(Statement(filled(statement), depth_of(recipe), asked=True),),
        secrets=() if style.expected else (value,),
    )


@lru_cache(maxsize=4)  # every cell of a sweep asks the same
def _holds(text: str, words: tuple[str, ...]) -> bool:
    folded = text.casefold()
    return all(word.casefold() in folded for word in words)
