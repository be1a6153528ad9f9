"""RULER's eight retrieval tasks (arXiv 2404.06654), with its counts, wordings and answer budget.

    niah_single_1     noise                one key      a number
    niah_single_2/3   text                 one key      a number / a uuid
    niah_multikey_1   text                 four keys, one is asked
    niah_multikey_2/3 a wall of needles    one of them is asked: words and numbers / uuids
    niah_multivalue   text                 four values of one key
    niah_multiquery   text                 four keys, all are asked

Where one needle is asked it lies at the cell's depth and the others at seeded places. Where four
are, all lie at seeded places and the map has one row.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Fill, Filled, Sample, Statement, lines
from longctx.eval.tasks.base import (
    About,
    Options,
    depth_of,
    elsewhere,
    fresh,
    list_of,
    number,
    uuid4,
)
from longctx.eval.tasks.vocabulary import ADJECTIVES, NOUNS
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
ANSWER_TOKENS = 128
_NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
_INTRODUCTIONS = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.",
    "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind}s afterwards.",
)
_QUESTIONS = (
    "What is the special magic {kind} for {key} mentioned in the provided text?",
    "What are all the special magic {kind}s for {key} mentioned in the provided text?",
)
_PREFIXES = (
    "The special magic {kind} for {key} mentioned in the provided text is",
    "The special magic {kind}s for {key} mentioned in the provided text are",
)


@dataclass(frozen=True)
class Niah:
    """One of the eight. `keys`, `values` of each and `queries` are RULER's num_needle_k, _v, _q."""

    name: str
    summary: str
    haystack: Literal["noise", "text", "needles"]
    kind: Literal["number", "uuid"] = "number"
    key_kind: Literal["word", "uuid"] = "word"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def about(self) -> About:
        return About(self.name, self.summary, ANSWER_TOKENS, has_depth=not self._many)

    @property
    def _many(self) -> bool:
        return self.queries * self.values > 1

    def wording(self, language: str, options: Options) -> str:
        parts = (_INTRODUCTIONS, _QUESTIONS, _PREFIXES, ADJECTIVES, NOUNS)
        return "\n".join((self.name, NOISE, _NEEDLE, *(word for part in parts for word in part)))

    def answer_prefix(self, language: str, options: Options) -> str:
        return _PREFIXES[self._many].replace("{kind}", self.kind)

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        rng = seeded(self.name, recipe.seed, recipe.length, recipe.repeat)
        taken: set[str] = set()
        needles = []
        for _ in range(self.keys):
            key = fresh(lambda: self._key(rng), haystack, taken, strict=False)
            values = [fresh(lambda: self._value(rng), haystack, taken) for _ in range(self.values)]
            needles.append((key, values))
        asked = rng.sample(needles, self.queries)
        statements = self._statements(recipe, rng, needles, asked)
        query = list_of([key for key, _ in asked])
        expected = tuple(value for _, values in asked for value in values)
        fill = None if self.haystack == "text" else self._fill(recipe, haystack, statements, taken)
        many = self._many
        return Sample(
            introduction=_INTRODUCTIONS[many].format(kind=self.kind),
            question=_QUESTIONS[many].format(kind=self.kind, key=query),
            answer_prefix=recipe.answer_prefix.replace("{key}", query),
            expected=expected,
            statements=statements if fill is None else (),
            secrets=expected,
            before="\n",
            after="\n",
            fill=fill,
        )

    def _statements(
        self,
        recipe: PromptSpec,
        rng: random.Random,
        needles: list[tuple[str, list[str]]],
        asked: list[tuple[str, list[str]]],
    ) -> tuple[Statement, ...]:
        all_of = [(key, value) for key, values in needles for value in values]
        rng.shuffle(all_of)
        wanted = {key for key, _ in asked}
        if self._many:
            depths = elsewhere(rng, len(all_of))
        else:
            places = iter(elsewhere(rng, len(all_of) - 1, recipe.depth))
            depth = depth_of(recipe)
            depths = [depth if key in wanted else next(places) for key, _ in all_of]
        return tuple(
            Statement(
                _NEEDLE.format(kind=self.kind, key=key, value=value),
                place,
                evidence=key in wanted,
                asked=key in wanted and not self._many,
            )
            for (key, value), place in zip(all_of, depths, strict=True)
        )

    def _fill(
        self,
        recipe: PromptSpec,
        haystack: Haystack,
        statements: tuple[Statement, ...],
        taken: set[str],
    ) -> Fill:
        rng = seeded(self.name, "lines", recipe.seed, recipe.length, recipe.repeat)
        made: list[str] = []

        def unit() -> str:
            if self.haystack == "noise":
                return NOISE
            key = fresh(lambda: self._key(rng), haystack, taken, strict=False)
            value = fresh(lambda: self._value(rng), haystack, taken)
            return _NEEDLE.format(kind=self.kind, key=key, value=value)

        def fill(units: int, evidence: bool) -> Filled:
            while len(made) < units:
                made.append(unit())
            return lines(made[:units], statements, evidence=evidence)

        return fill

    def _key(self, rng: random.Random) -> str:
        if self.key_kind == "uuid":
            return uuid4(rng)
        return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"

    def _value(self, rng: random.Random) -> str:
        return uuid4(rng) if self.kind == "uuid" else number(rng)


TASKS = (
    Niah("niah_single_1", "RULER: one number in repeated noise sentences", "noise"),
    Niah("niah_single_2", "RULER: one number in prose", "text"),
    Niah("niah_single_3", "RULER: one uuid in prose", "text", "uuid"),
    Niah("niah_multikey_1", "RULER: one number among four with other names, in prose", "text",
         keys=4),
    Niah("niah_multikey_2", "RULER: one number in a wall of numbers with other names", "needles"),
    Niah("niah_multikey_3", "RULER: one uuid in a wall of uuids, named by uuids", "needles", "uuid",
         "uuid"),
    Niah("niah_multivalue", "RULER: all four numbers of one name, in prose", "text", values=4),
    Niah("niah_multiquery", "RULER: the numbers of four names at once, in prose", "text", keys=4,
         queries=4),
)  # fmt: skip
