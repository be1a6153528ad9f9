"""What the tiny model is trained on: needle conversations in generated prose, made on the fly.

A sample is a whole templated prompt with its answer, exactly as long as asked. The variety is the
lesson: other numbers in the text and other needles beside the right one teach the model to go by
the name and not by "a number"; several questions over one text teach it to look again; repeated
passages teach copying, and scrambled text keeps it from leaning on the generator's phrases.

A step's samples are a function of (seed, step), so that a resumed run sees what an uninterrupted
one would have seen.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from longctx.eval.needle.needle import WORDINGS, Needle, needle_of
from longctx.eval.texts import prose
from longctx.tiny.tokenizer import END, START, TEXT_SEED
from longctx.tiny.words import training_key

# Loss weights: the first digit is where the model decides which number is meant.
FIRST_DIGIT, DIGIT = 15.0, 5.0
_TEXT, _CLOSING, _COPY, _NOTHING = 0.5, 1.0, 1.0, 0.0

_FIRST_ORDINARY = 3  # behind the special tokens

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


class TrainingSample(NamedTuple):
    """`ids` has one token more than the sample's length; `weights[i]` belongs to `ids[i + 1]`."""

    ids: Ids
    weights: Weights


@dataclass(frozen=True)
class Pool:
    """Tokenised prose, and the places at which a sentence may begin inside a paragraph."""

    ids: Ids
    starts: Ids

    @classmethod
    def make(cls, tokenizer: Any, seed: int, tokens: int, *, numbers: bool) -> Pool:
        ids: list[int] = []
        starts: list[int] = []
        for paragraph in prose.paragraphs(seed, numbers=numbers):
            found = tokenizer(paragraph + "\n\n", return_offsets_mapping=True)
            for index, (start, _) in enumerate(found["offset_mapping"]):
                before = paragraph[:start][-2:]
                if paragraph[start : start + 1] == " " and before[-1:] in '.?!”"':
                    starts.append(len(ids) + index)
            ids += found["input_ids"]
            if len(ids) >= tokens:
                return cls(np.array(ids), np.array(starts))
        raise AssertionError("prose has no end")


class SampleMaker:
    """Makes the samples of every step."""

    def __init__(self, tokenizer: Any, seed: int, pool_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._pools = [
            Pool.make(tokenizer, TEXT_SEED + seed, pool_tokens, numbers=numbers)
            for numbers in (False, True)
        ]
        self._user = self._ids(f"{START}user\n")
        self._assistant = self._ids(f"{END}\n{START}assistant\n")
        self._next_user = self._ids(f"{END}\n{START}user\n")
        self._break = self._ids("\n\n")
        self._digits = self._ids("0123456789").tolist()

    def batch(self, step: int, length: int, rows: int, *, easy: bool = False) -> TrainingSample:
        """`rows` samples of `length` + 1 tokens: ids (rows, length + 1), weights (rows, length).

        `easy` is the first lesson: copying, one needle, no other numbers.
        """
        made = []
        for row in range(rows):
            rng = random.Random(f"longctx tiny {self._seed} {step} {row}")
            made.append(self.sample(rng, length, easy=easy))
        return TrainingSample(np.stack([m.ids for m in made]), np.stack([m.weights for m in made]))

    def sample(self, rng: random.Random, length: int, *, easy: bool = False) -> TrainingSample:
        kind = rng.random()
        if kind < (0.3 if easy else 0.05):
            return self._random_repeated(rng, length)
        if kind < (0.4 if easy else 0.1):
            return self._repeated(rng, length)
        return self._conversation(rng, length, easy=easy)

    def _ids(self, text: str) -> Ids:
        return np.array(self._tokenizer(text)["input_ids"], dtype=np.int64)

    def _random_repeated(self, rng: random.Random, length: int) -> TrainingSample:
        """Random tokens, again and again: nothing but copying predicts the second time."""
        period = round(math.exp(rng.uniform(math.log(4), math.log(length // 2))))
        # Among few tokens the last one alone does not say where to go on.
        few = self._digits if rng.random() < 0.3 else None
        fresh = [
            rng.choice(few) if few else rng.randrange(_FIRST_ORDINARY, len(self._tokenizer))
            for _ in range(period)
        ]
        ids = np.array((fresh * (length // period + 1))[: length + 1])
        weights = np.full(length, _COPY, dtype=np.float32)
        weights[: period - 1] = _NOTHING
        return TrainingSample(ids, weights)

    def _repeated(self, rng: random.Random, length: int) -> TrainingSample:
        """A passage, some other text, and the passage again."""
        passage = self._filler(rng, rng.randint(length // 8, length // 2))[0]
        between = self._filler(rng, length + 1 - 2 * len(passage))[0]
        ids = np.concatenate((passage, between, passage))
        weights = np.full(length, _TEXT, dtype=np.float32)
        weights[-len(passage) + 1 :] = _COPY
        return TrainingSample(ids, weights)

    def _conversation(self, rng: random.Random, length: int, *, easy: bool) -> TrainingSample:
        needles = self._needles(rng, 0 if easy else length)
        asked = needles[: 1 if rng.random() < 0.6 else rng.randint(1, len(needles))]
        head = self._user
        if length >= 256 or rng.random() < 0.5:
            head = np.concatenate((head, self._ids(needles[0].introduction), self._break))
        turns = [self._turn(needle, first=needle is asked[0]) for needle in asked]
        leads = rng.random() < 0.1  # the needle opens the text
        statements = [
            self._ids(("" if leads and needle is asked[0] else " ") + needle.statement)
            for needle in needles
        ]
        # Whole turns or none: drop questions, then needles that nobody asks for, until it fits.
        while len(turns) > 1 and _size(head, *(t.ids for t in turns), *statements) > length * 0.8:
            turns.pop()
        while len(statements) > len(turns) and (
            _size(head, *(t.ids for t in turns), *statements) > length * 0.9
        ):
            statements.pop()
        room = length + 1 - _size(head, *(turn.ids for turn in turns), *statements)
        if room < 1:
            return self._repeated(rng, length)
        body, scrambled = self._body(rng, statements, room, leads=leads, easy=easy)
        ids = np.concatenate((head, body, *(turn.ids for turn in turns)))
        weights = np.full(len(ids), _NOTHING if scrambled else _TEXT, dtype=np.float32)
        at = len(head) + len(body)
        for turn in turns:
            weights[at : at + len(turn.ids)] = turn.weights
            at += len(turn.ids)
        return TrainingSample(ids, weights[1:])

    def _needles(self, rng: random.Random, length: int) -> list[Needle]:
        """The needle, and often others of the same form: other names, other numbers."""
        count = 1
        if length >= 192 and rng.random() < 0.5:
            count = rng.randint(2, 4)
        needles: list[Needle] = []
        keys: set[str] = set()
        while len(needles) < count:
            like = needles[0].key if needles and rng.random() < 0.4 else None
            key = training_key(rng, like)
            if key not in keys:
                keys.add(key)
                value = _number(rng, 7 if rng.random() < 0.7 else rng.randint(3, 8))
                needles.append(needle_of(key, value, rng.randrange(WORDINGS)))
        return needles

    def _turn(self, needle: Needle, *, first: bool) -> TrainingSample:
        question = self._ids(needle.question)
        ask = np.concatenate((self._break if first else self._next_user, question))
        said = self._ids(needle.answer_prefix)
        answer = self._ids(f" {needle.value}.{END}")
        ids = np.concatenate((ask, self._assistant, said, answer))
        weights = np.full(len(ids), _TEXT, dtype=np.float32)
        digits = len(needle.value)
        start = len(ids) - len(answer)
        weights[start:] = _CLOSING
        # The full stop too: whether the number is over is as much a matter of the text.
        weights[start + 1 : start + 2 + digits] = DIGIT
        weights[start + 1] = FIRST_DIGIT
        return TrainingSample(ids, weights)

    def _body(
        self, rng: random.Random, statements: list[Ids], room: int, *, leads: bool, easy: bool
    ) -> tuple[Ids, bool]:
        filler, starts = self._filler(rng, room, numbers=not easy and rng.random() < 0.5)
        scrambled = rng.random() < 0.1
        if scrambled:
            filler = filler[np.array(rng.sample(range(room), room))]
        ends = [room, *starts.tolist()]
        pieces = [(rng.choice(ends), ids) for ids in statements]
        if leads:
            pieces[0] = (0, statements[0])
        elif rng.random() < 0.5:
            # Sentence ends cluster; depths should not.
            aim = rng.random() * room
            pieces[0] = (min(ends, key=lambda end: abs(end - aim)), statements[0])
        parts, done = [], 0
        for place, ids in sorted(pieces, key=lambda piece: piece[0]):
            parts += [filler[done:place], ids]
            done = place
        return np.concatenate((*parts, filler[done:])), scrambled

    def _filler(self, rng: random.Random, tokens: int, *, numbers: bool = False) -> tuple[Ids, Ids]:
        """Prose from a sentence's start, and where its sentences begin."""
        pool = self._pools[numbers]
        index = rng.randrange(len(pool.starts) - tokens)
        start = int(pool.starts[index])
        inside = pool.starts[index + 1 : index + 1 + tokens] - start
        return pool.ids[start : start + tokens], inside[inside < tokens]


def _number(rng: random.Random, digits: int) -> str:
    """Uniform, or of few digits, so that they repeat: copying must look further back then."""
    choice = "0123456789"
    if rng.random() < 0.4:
        choice = "".join(rng.sample(choice, rng.randint(2, 4)))
    first = rng.choice(choice.replace("0", "") or "1")
    return first + "".join(rng.choice(choice) for _ in range(digits - 1))


def _size(*parts: Ids) -> int:
    return sum(len(part) for part in parts)
