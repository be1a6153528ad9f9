"""RULER's two tasks of counting: common words (cwe) and frequent coded words (fwe).

    cwe  a numbered list; ten words stand in it 30 times, all others 3 times (6 and 1 below 4K)
    fwe  coded words by Zipf's law with exponent 2.0; the first rank is "...", ranks 2-4 are asked

The whole text is the evidence, so the map has one row, and a closed-book prompt has no text.
"""

from __future__ import annotations

import math
import random
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longctx.errors import UserError
from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Filled, Sample
from longctx.eval.tasks.base import About, Options
from longctx.eval.tasks.vocabulary import ADJECTIVES, NOUNS
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

COMMON = 10
_SHORT = 4096  # below it RULER repeats words less often
_WORDS = sorted({*ADJECTIVES, *NOUNS})
_MOST_PAIRS = len(ADJECTIVES) * len(NOUNS)
_CWE_INTRODUCTION = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often."
)
_CWE_QUESTION = "Question: What are the 10 most common words in the above list?"
_CWE_PREFIX = "Answer: The top 10 words that appear most often in the list are:"

ALPHA = 2.0
CODED_LETTERS = 6
_ZETA = math.pi**2 / 6  # zeta(2.0)
_FWE_INTRODUCTION = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words."
)
_FWE_QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three "
    "most frequently appeared words in the above coded text?"
)
_FWE_PREFIX = (
    "Answer: According to the coded text above, the three most frequently appeared words are:"
)


@dataclass(frozen=True)
class Repeats:
    common: int
    others: int


def repeats_of(length: int) -> Repeats:
    return Repeats(6, 1) if length < _SHORT else Repeats(30, 3)


@dataclass(frozen=True)
class CommonWords:
    @property
    def about(self) -> About:
        return About("cwe", "RULER: the ten words that stand most often in a list", 120,
                     has_depth=False)  # fmt: skip

    def wording(self, language: str, options: Options) -> str:
        return "\n".join(("cwe", _CWE_INTRODUCTION, _CWE_QUESTION, _CWE_PREFIX, *_WORDS))

    def answer_prefix(self, language: str, options: Options) -> str:
        return _CWE_PREFIX

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        rng = seeded("cwe", recipe.seed, recipe.length, recipe.repeat)
        short = recipe.length < _SHORT
        words, shown = (20, Repeats(3, 1)) if short else (40, Repeats(10, 3))
        taught = rng.sample(_WORDS, words)
        example = _list_of(taught, shown, rng)
        answer = " ".join(f"{n}. {word}" for n, word in enumerate(taught[:COMMON], start=1))
        introduction = (
            f"{_CWE_INTRODUCTION}\n{example}\n{_CWE_QUESTION} {_CWE_PREFIX} {answer}\n"
            f"{_CWE_INTRODUCTION}"
        )
        single = [word for word in _WORDS if word not in taught]
        rng.shuffle(single)
        common, repeats = single[:COMMON], repeats_of(recipe.length)
        shuffle = rng.getrandbits(64)
        others = single[COMMON:]

        def fill(units: int, evidence: bool) -> Filled:
            if not evidence:
                return Filled("", [])
            if units > len(others):  # rarely more than once: doubled each time
                others[len(single) - COMMON :] = _pairs(
                    shuffle, max(units, min(2 * units, _MOST_PAIRS))
                )
            return Filled(
                _list_of([*common, *others[:units]], repeats, seeded("cwe", shuffle, units)), []
            )

        return Sample(
            introduction=introduction,
            question=_CWE_QUESTION,
            answer_prefix=recipe.answer_prefix,
            expected=tuple(common),
            before="\n",
            after="\n",
            fill=fill,
        )


def _list_of(words: list[str], repeats: Repeats, rng: random.Random) -> str:
    found = words[:COMMON] * repeats.common + words[COMMON:] * repeats.others
    rng.shuffle(found)
    return " ".join(f"{n}. {word}" for n, word in enumerate(found, start=1))


def _pairs(seed: int, count: int) -> list[str]:
    """Where single words run out: words like `azure-lantern`, all different."""
    if count <= 0:
        return []
    if count > _MOST_PAIRS:
        raise UserError(
            f"--lengths: cwe has words for {_MOST_PAIRS:,} entries and needs {count:,}: "
            "give a shorter one"
        )
    chosen = seeded("cwe pairs", seed).sample(range(_MOST_PAIRS), _MOST_PAIRS)[:count]
    return [f"{ADJECTIVES[n // len(NOUNS)]}-{NOUNS[n % len(NOUNS)]}" for n in chosen]


@dataclass(frozen=True)
class FrequentWords:
    @property
    def about(self) -> About:
        return About("fwe", "RULER: the three most frequent words of a coded text", 50,
                     has_depth=False)  # fmt: skip

    def wording(self, language: str, options: Options) -> str:
        return "\n".join(("fwe", _FWE_INTRODUCTION, _FWE_QUESTION, _FWE_PREFIX))

    def answer_prefix(self, language: str, options: Options) -> str:
        return _FWE_PREFIX

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        rng = seeded("fwe", recipe.seed, recipe.length, recipe.repeat)
        size = max((recipe.length - recipe.answer_tokens) // 50, 5)
        coded: dict[str, None] = {}
        while len(coded) < size:
            coded["".join(rng.choices(string.ascii_lowercase, k=CODED_LETTERS))] = None
        vocabulary = ["...", *list(coded)[1:]]
        shuffle = rng.getrandbits(64)

        def fill(units: int, evidence: bool) -> Filled:
            if not evidence:
                return Filled("", [])
            counts = zipf_counts(units, size)
            words = [w for w, n in zip(vocabulary, counts, strict=True) for _ in range(n)]
            seeded("fwe", shuffle, units).shuffle(words)
            return Filled(" ".join(words), [])

        return Sample(
            introduction=_FWE_INTRODUCTION,
            question=_FWE_QUESTION,
            answer_prefix=recipe.answer_prefix,
            expected=tuple(vocabulary[1:4]),
            before=" ",
            after="\n",
            fill=fill,
            fewest=_CLEAR,
        )


def zipf_counts(words: int, vocabulary: int) -> list[int]:
    """How often each rank stands in a text of so many words: n r^-alpha / zeta(alpha), cut."""
    return [int(words * rank**-ALPHA / _ZETA) for rank in range(1, vocabulary + 1)]


# The fewest words at which rank 4, the last one asked, is more frequent than rank 5 for good.
_CLEAR = 80
