"""One style of the needle: its words, and how its names and values are drawn."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass

from longctx.eval.tasks.base import number, uuid4
from longctx.eval.tasks.vocabulary import ADJECTIVES, NOUNS


@dataclass(frozen=True)
class TaskStyle:
    introduction: str
    statements: tuple[str, ...]
    question: str
    answer_prefix: str = ""
    value_kind: str = "number"
    keys: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()

    def wording(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    def key(self, rng: random.Random) -> str:
        return rng.choice(self.keys) if self.keys else _word(rng)

    def value(self, rng: random.Random) -> str:
        draw = {"number": number, "uuid": uuid4, "word": _word}[self.value_kind]
        return draw(rng)


def _word(rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
