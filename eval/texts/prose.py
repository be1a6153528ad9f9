"""Prose without end: the haystack for whoever brings none. Seeded, and nobody's property.

Sentences come from patterns over word lists, in scenes: a paragraph keeps its people, a few places,
things and topics, so that neighbouring sentences belong together and distant ones differ. No
sentence stands twice in a text. There are no digits, so a number hidden in it cannot be mistaken;
with `numbers` every few sentences hold one, so that a reader has to know which number is meant.

Version 1 is frozen, so that models trained on it and results compare; a test holds its hash.
Languages may be added, their text is apart. Knows nothing of tokens.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from longctx.errors import UserError
from longctx.eval.texts import prose_de, prose_en, prose_es, prose_fr, prose_ja, prose_zh
from longctx.eval.texts.haystack import Haystack

# Part of the haystack's identity: other words are another text.
VERSION = 1
_SMALLEST = 1 << 20
# Prose has fewer than this many characters to a token under every vocabulary of today; spare text
# lets repeats start at different places.
_CHARACTERS_PER_TOKEN = 9
_NUMBER_EVERY = 6  # sentences, on average
_NAME = re.compile(
    r"generated prose (?P<version>\d+) \((?P<language>\w+)(?P<numbers>, numbers)?\), "
    r"seed (?P<seed>-?\d+)"
)
_SLOT = re.compile(r"\{([A-Za-z]+)(2?)\}")


@dataclass(frozen=True)
class _Language:
    data: ModuleType
    joiner: str  # between the sentences of a paragraph


_LANGUAGES = {
    "en": _Language(prose_en, " "),
    "zh": _Language(prose_zh, ""),
    "es": _Language(prose_es, " "),
    "fr": _Language(prose_fr, " "),
    "de": _Language(prose_de, " "),
    "ja": _Language(prose_ja, ""),
}
LANGUAGES = tuple(_LANGUAGES)


@functools.lru_cache(maxsize=4)  # several tasks in one command search in the same text
def haystack(
    longest: int, seed: int = 0, language: str = "en", *, numbers: bool = False
) -> Haystack:
    """Text enough for prompts of `longest` tokens, the same for all lengths up to a size class."""
    size = _SMALLEST
    while size < longest * _CHARACTERS_PER_TOKEN:
        size *= 2
    parts: list[str] = []
    length = 0
    for paragraph in paragraphs(seed, language, numbers=numbers):
        parts.append(paragraph)
        length += len(paragraph) + 2
        if length >= size:
            break
    return Haystack.from_text("\n\n".join(parts), name_of(seed, language, numbers=numbers))


def name_of(seed: int, language: str = "en", *, numbers: bool = False) -> str:
    kind = f"generated prose {VERSION} ({language}{', numbers' if numbers else ''})"
    return f"{kind}, seed {seed}"


def rebuild(name: str, longest: int) -> Haystack | None:
    """The haystack that `name_of` names; None where it names none of this version's."""
    match = _NAME.fullmatch(name)
    if not match or int(match["version"]) != VERSION or match["language"] not in LANGUAGES:
        return None
    numbers = match["numbers"] is not None
    return haystack(longest, int(match["seed"]), match["language"], numbers=numbers)


def paragraphs(seed: int, language: str = "en", *, numbers: bool = False) -> Iterator[str]:
    """Scenes, for ever. The same arguments give the same text, on every platform.

    Raises:
        UserError: a language that is not there.
    """
    if language not in _LANGUAGES:
        *others, last = LANGUAGES
        raise UserError(f"language {language}: not known: use {', '.join(others)} or {last}")
    chosen = _LANGUAGES[language]
    draw = _Draw(f"longctx prose {VERSION} {language} {numbers} {seed}")
    seen: set[str] = set()
    while True:
        scene = _Scene(draw, chosen.data)
        sentences = []
        for pattern in draw.some(chosen.data.PATTERNS, 4 + draw.below(6)):
            if numbers and draw.below(_NUMBER_EVERY) == 0:
                sentences.append(scene.sentence(draw.one(chosen.data.NUMBER_PATTERNS)))
            sentences.append(scene.sentence(pattern))
        fresh = [sentence for sentence in sentences if sentence not in seen]
        seen.update(fresh)
        if fresh:
            yield chosen.joiner.join(fresh)


class _Draw:
    """Choices made from `random()` alone: the one method whose sequence Python promises to keep."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def one(self, words: Sequence[str]) -> str:
        return words[self.below(len(words))]

    def some(self, words: Sequence[str], count: int) -> list[str]:
        """Different ones, in any order."""
        chosen: dict[str, None] = {}
        while len(chosen) < min(count, len(words)):
            chosen[self.one(words)] = None
        return list(chosen)

    def number(self) -> str:
        """Two to seven digits, no leading zero."""
        digits = 2 + self.below(6)
        return str(10 ** (digits - 1) + self.below(9 * 10 ** (digits - 1)))


@dataclass
class _Scene:
    """What the sentences of one paragraph share."""

    draw: _Draw
    data: ModuleType
    people: list[str] = field(init=False)
    trades: list[str] = field(init=False)
    words: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.people = self.draw.some(self.data.NAMES, 3)
        self.trades = self.draw.some(self.data.TRADES, 3)
        self.words = {name: self.draw.some(words, 5) for name, words in self.data.WORDS.items()}

    def sentence(self, pattern: str) -> str:
        drawn: dict[str, list[str]] = {}

        def fill(match: re.Match[str]) -> str:
            slot, second = match[1].lower(), 1 if match[2] else 0
            if slot in ("a", "b", "c"):
                word = self.people["abc".index(slot)]
            elif slot in ("ta", "tb", "tc"):
                word = self.trades["abc".index(slot[1])]
            elif slot == "n":
                word = self.draw.number()
            else:
                if slot not in drawn:
                    drawn[slot] = self.draw.some(self.words[slot], 2)
                word = drawn[slot][second]
            return word[0].upper() + word[1:] if match[1][0].isupper() else word

        return _SLOT.sub(fill, pattern)
