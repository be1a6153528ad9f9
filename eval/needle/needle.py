"""The needle task: what is hidden, asked and expected, as a pure function of seeds.

Wordings follow RULER's "magic number" (arXiv 2404.06654), so that scores compare. Knows no
tokenizer and no haystack beyond "does this word occur in it".
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from longctx.eval.texts.haystack import Haystack

TASK = "needle"
LANGUAGE = "en"
VALUE_DIGITS = 7

_INTRODUCTION = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards."
)
_QUESTION = "What is the special magic number for {key} mentioned in the provided text?"
DEFAULT_ANSWER_PREFIX = "The special magic number for {key} mentioned in the provided text is"

# Paraphrases: a score that hangs on one wording is luck.
_STATEMENTS = (
    "One of the special magic numbers for {key} is: {value}.",
    "The special magic number for {key} is: {value}.",
    "Remember that the special magic number for {key} is {value}.",
    "By the way, the special magic number for {key} is {value}.",
)

WORDINGS = len(_STATEMENTS)

# Part of every recipe: new words are new prompts.
WORDING = "\n".join((_INTRODUCTION, _QUESTION, *_STATEMENTS))
WORDING_SHA256 = hashlib.sha256(WORDING.encode()).hexdigest()

# fmt: off
_ADJECTIVES = (
    "amber", "brisk", "copper", "dappled", "eager", "frosty", "gilded", "hollow", "ivory",
    "jagged", "keen", "lunar", "mellow", "nimble", "opaque", "patient", "quiet", "rustic",
    "silver", "tidal", "umber", "velvet", "woven", "zesty",
)
_NOUNS = (
    "anchor", "beacon", "compass", "drawbridge", "engine", "falcon", "glacier", "harbour",
    "island", "juniper", "kettle", "lantern", "meadow", "needlework", "orchard", "pelican",
    "quarry", "raccoon", "sundial", "thistle", "umbrella", "viaduct", "windmill", "yarrow",
)
# fmt: on


@dataclass(frozen=True)
class Needle:
    """One fact and its question. `wording` is the index of the paraphrase, kept in the recipe."""

    key: str
    value: str
    wording: int

    introduction: str
    statement: str
    question: str
    answer_prefix: str

    @property
    def expected(self) -> tuple[str, ...]:
        return (self.value,)


def seeded(*parts: object) -> random.Random:
    """A generator that depends on the parts only, on every platform and Python."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def make_needle(
    haystack: Haystack, *, seed: int, length: int, repeat: int, answer_prefix: str
) -> Needle:
    """The needle of a text, whose number `repeat` is: cells that share the text share it."""
    rng = seeded(TASK, seed, length, repeat)
    while True:
        key = f"{rng.choice(_ADJECTIVES)}-{rng.choice(_NOUNS)}"
        value = str(rng.randrange(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS))
        wording = rng.randrange(len(_STATEMENTS))
        if key not in haystack.text and value not in haystack.text:
            break
    return needle_of(key, value, wording, answer_prefix)


def needle_of(
    key: str, value: str, wording: int, answer_prefix: str = DEFAULT_ANSWER_PREFIX
) -> Needle:
    """A chosen fact in one of the wordings, 0 ... WORDINGS - 1."""
    return Needle(
        key=key,
        value=value,
        wording=wording,
        introduction=_INTRODUCTION,
        statement=_STATEMENTS[wording].format(key=key, value=value),
        question=_QUESTION.format(key=key),
        answer_prefix=answer_prefix.replace("{key}", key),
    )
