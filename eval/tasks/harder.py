"""Harder than RULER's: needles that look alike, chains of notes, and the n-th of several.

    distractors     the needle among others of the same wording with other names
    uuid_chain      a note names the next note, the last one holds a number; decoy chains beside it
    ordered_recall  several short poems on one subject: which word is the third one signed with?

All draw a depth map: depth is that of the needle, of the last note, of the poem that is asked.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from longctx.errors import UserError
from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Sample, Statement
from longctx.eval.tasks.base import (
    About,
    Options,
    depth_of,
    elsewhere,
    fresh,
    number,
    uuid4,
)
from longctx.eval.tasks.vocabulary import ADJECTIVES, NOUNS
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

DISTRACTORS, HOPS, DECOY_CHAINS = 10, 4, 3
_MOST = 10_000


def _key(rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def _count(options: Options, name: str, least: int) -> int:
    value = options[name]
    if not isinstance(value, int) or not least <= value <= _MOST:
        raise UserError(f"--{name} {value}: must be a number from {least} to {_MOST}")
    return value


@dataclass(frozen=True)
class Distractors:
    _INTRODUCTION = "Access codes of several rooms are written down in the following text."
    _STATEMENT = "The access code of the {key} room is {value}."
    _QUESTION = "According to the text, what is the access code of the {key} room?"
    _PREFIX = "The access code of the {key} room is"

    @property
    def about(self) -> About:
        return About(
            "distractors",
            f"one code among {DISTRACTORS} of other rooms in the same words (--distractors)",
            32,
            options=(("distractors", DISTRACTORS),),
        )

    def wording(self, language: str, options: Options) -> str:
        parts = (self._INTRODUCTION, self._STATEMENT, self._QUESTION, *ADJECTIVES, *NOUNS)
        return "\n".join(("distractors", *parts))

    def answer_prefix(self, language: str, options: Options) -> str:
        return self._PREFIX

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        count = _count(recipe.options, "distractors", 0)
        rng = seeded("distractors", recipe.seed, recipe.length, recipe.repeat)
        taken: set[str] = set()
        pairs = [
            (fresh(lambda: _key(rng), haystack, taken), fresh(lambda: number(rng), haystack, taken))
            for _ in range(count + 1)
        ]
        depth = depth_of(recipe)
        places = [depth, *_shuffled(elsewhere(rng, count, depth), rng)]
        statements = tuple(
            Statement(
                self._STATEMENT.format(key=key, value=value), place, evidence=n == 0, asked=n == 0
            )
            for n, ((key, value), place) in enumerate(zip(pairs, places, strict=True))
        )
        key, value = pairs[0]
        return Sample(
            introduction=self._INTRODUCTION,
            question=self._QUESTION.format(key=key),
            answer_prefix=recipe.answer_prefix.replace("{key}", key),
            expected=(value,),
            statements=statements,
            secrets=(value,),
        )


@dataclass(frozen=True)
class UuidChain:
    _INTRODUCTION = "Numbered notes are scattered over the following text. Some refer to others."
    _LINK = "Note {key} says: go on to note {value}."
    _LAST = "Note {key} says: the number is {value}."
    _QUESTION = "Start at note {key} and go on from note to note. Which number does the last say?"
    _PREFIX = "The number is"

    @property
    def about(self) -> About:
        return About(
            "uuid_chain",
            f"a number at the end of {HOPS} hops from note to note, among decoy chains (--hops)",
            32,
            options=(("hops", HOPS),),
        )

    def wording(self, language: str, options: Options) -> str:
        parts = (self._INTRODUCTION, self._LINK, self._LAST, self._QUESTION, str(DECOY_CHAINS))
        return "\n".join(("uuid_chain", *parts))

    def answer_prefix(self, language: str, options: Options) -> str:
        return self._PREFIX

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        hops = _count(recipe.options, "hops", 1)
        rng = seeded("uuid_chain", recipe.seed, recipe.length, recipe.repeat)
        taken: set[str] = set()
        depth = depth_of(recipe)
        statements: list[Statement] = []
        first = answer = ""
        for chain in range(1 + DECOY_CHAINS):
            notes = [fresh(lambda: uuid4(rng), haystack, taken) for _ in range(hops + 1)]
            value = fresh(lambda: number(rng), haystack, taken)
            real = chain == 0
            links = [
                self._LINK.format(key=key, value=follower) for key, follower in pairwise(notes)
            ]
            # Links in no order: whoever reads on from one does not meet the next by chance.
            places = _shuffled(elsewhere(rng, hops + 1, depth), rng)
            statements += [
                Statement(link, place, evidence=real)
                for link, place in zip(links, places, strict=False)
            ]
            last = self._LAST.format(key=notes[-1], value=value)
            place = depth if real else places[-1]
            statements.append(Statement(last, place, evidence=real, asked=real))
            if real:
                first, answer = notes[0], value
        return Sample(
            introduction=self._INTRODUCTION,
            question=self._QUESTION.format(key=first),
            answer_prefix=recipe.answer_prefix.replace("{key}", first),
            expected=(answer,),
            statements=tuple(statements),
            secrets=(answer,),
        )


@dataclass(frozen=True)
class OrderedRecall:
    _INTRODUCTION = "Short poems on several subjects are scattered over the following text."
    _POEM = "Here is a poem about {topic}: {line} It is signed {signature}."
    _QUESTION = "Which word is the {ordinal} poem about {topic} in the text signed with?"
    _PREFIX = "The {ordinal} poem about {key} is signed"
    _ORDINALS = ("first", "second", "third", "fourth")
    _TOPICS = ("the moon", "old bridges", "a lost glove", "wet hay", "two brothers", "the ferry")
    _LINES = (
        "who counts the hours keeps none of them.",
        "nothing was said, and everybody heard.",
        "the door was open, so the night came in.",
        "we walked the long way and were early.",
        "what the wind took, the wind brought home.",
        "it was so little, and it was enough.",
        "leave the light on, the road is blind.",
        "even the stones had a better day.",
    )
    _SAME, _OTHERS = 4, 4

    @property
    def about(self) -> About:
        return About("ordered_recall", "which word the n-th of four poems on a subject is signed "
                     "with", 32)  # fmt: skip

    def wording(self, language: str, options: Options) -> str:
        parts = (*self._ORDINALS, *self._TOPICS, *self._LINES, *ADJECTIVES, *NOUNS)
        return "\n".join(("ordered_recall", self._INTRODUCTION, self._POEM, self._QUESTION, *parts))

    def answer_prefix(self, language: str, options: Options) -> str:
        return self._PREFIX

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        rng = seeded("ordered_recall", recipe.seed, recipe.length, recipe.repeat)
        taken: set[str] = set()
        depth = depth_of(recipe)
        topic, *others = rng.sample(self._TOPICS, 3)
        asked = rng.randrange(self._SAME)
        # The others of the subject keep their order around the one asked, wherever it lies.
        places = [depth * rng.random() for _ in range(asked)]
        places += [depth + (100 - depth) * rng.random() for _ in range(self._SAME - asked - 1)]
        places.insert(asked, depth)
        topics = [(topic, place) for place in sorted(places)]
        topics += [(rng.choice(others), 100 * rng.random()) for _ in range(self._OTHERS)]
        signatures = [fresh(lambda: _key(rng), haystack, taken) for _ in topics]
        lines = [rng.choice(self._LINES) for _ in topics]
        statements = tuple(
            Statement(
                self._POEM.format(topic=about, line=line, signature=signature),
                place,
                evidence=about == topic,
                asked=n == asked,
            )
            for n, ((about, place), line, signature) in enumerate(
                zip(topics, lines, signatures, strict=True)
            )
        )
        ordinal = self._ORDINALS[asked]
        prefix = recipe.answer_prefix.replace("{ordinal}", ordinal).replace("{key}", topic)
        return Sample(
            introduction=self._INTRODUCTION,
            question=self._QUESTION.format(ordinal=ordinal, topic=topic),
            answer_prefix=prefix,
            expected=(signatures[asked],),
            statements=statements,
            secrets=(signatures[asked],),
        )


def _shuffled(values: list[float], rng: random.Random) -> list[float]:
    return rng.sample(values, len(values))
