"""RULER's variable tracking: four hops of assignment in noise, and an example before it.

    VAR ABCDE = 12345
    VAR FGHIJ = VAR ABCDE ...      which variables hold 12345? all five

The links stand in their order at seeded places, so the map has one row.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Filled, Sample, Statement, lines
from longctx.eval.tasks.base import About, Options, elsewhere, fresh, number
from longctx.eval.tasks.niah import NOISE
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

HOPS = 4
_INTRODUCTION = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text."
)
_QUESTION = "Question: Find all variables that are assigned the value {key} in the text above."
_PREFIX = (
    "Answer: According to the chain(s) of variable assignment in the text above, {count} "
    "variables are assigned the value {key}, they are:"
)
_EXAMPLE = "{introduction}\n\n{text}\n{question} {prefix} {answer}\n\n"
# RULER's example fills 500 tokens whatever the length. Below 4K it would be most of the prompt.
_EXAMPLE_LINES, _SHORT = 12, 4096


@dataclass(frozen=True)
class VariableTracking:
    @property
    def about(self) -> About:
        return About("vt", "RULER: all five variables of a chain of assignments, in noise", 30,
                     has_depth=False)  # fmt: skip

    def wording(self, language: str, options: Options) -> str:
        parts = (_INTRODUCTION, _QUESTION, _PREFIX, _EXAMPLE, NOISE, str(_EXAMPLE_LINES))
        return "\n".join(("vt", *parts))

    def answer_prefix(self, language: str, options: Options) -> str:
        return _PREFIX.replace("{count}", str(HOPS + 1))

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        rng = seeded("vt", recipe.seed, recipe.length, recipe.repeat)
        taken: set[str] = set()
        shown = 0 if recipe.length < _SHORT else _EXAMPLE_LINES
        example = self._example(rng, haystack, taken, shown)
        value, variables, chain = _chain(rng, haystack, taken, letters=5)
        placed = tuple(
            Statement(link, depth)
            for link, depth in zip(chain, elsewhere(rng, len(chain)), strict=True)
        )

        def fill(units: int, evidence: bool) -> Filled:
            return lines([NOISE] * units, placed, evidence=evidence)

        return Sample(
            introduction=example + _INTRODUCTION,
            question=_QUESTION.format(key=value),
            answer_prefix=recipe.answer_prefix.replace("{key}", value),
            expected=tuple(variables),
            secrets=tuple(variables),
            after="\n",
            fill=fill,
        )

    def _example(self, rng: random.Random, haystack: Haystack, taken: set[str], noise: int) -> str:
        value, variables, chain = _chain(rng, haystack, taken, letters=3)
        placed = [
            Statement(link, depth)
            for link, depth in zip(chain, elsewhere(rng, len(chain)), strict=True)
        ]
        return _EXAMPLE.format(
            introduction=_INTRODUCTION,
            text=lines([NOISE] * noise, placed, evidence=True).text,
            question=_QUESTION.format(key=value),
            prefix=_PREFIX.format(count=HOPS + 1, key=value),
            answer=" ".join(variables),
        )


def _chain(
    rng: random.Random, haystack: Haystack, taken: set[str], *, letters: int
) -> tuple[str, list[str], list[str]]:
    def name() -> str:
        return "".join(rng.choice(string.ascii_uppercase) for _ in range(letters))

    variables = [fresh(name, haystack, taken, strict=False) for _ in range(HOPS + 1)]
    value = fresh(lambda: number(rng, 5), haystack, taken)
    links = [f"VAR {variables[0]} = {value}"]
    for before, after in pairwise(variables):
        links.append(f"VAR {after} = VAR {before}")
    return value, variables, links
