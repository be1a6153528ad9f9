"""The protocol of a task, and choices that several tasks draw alike. Knows no task."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from longctx.errors import UserError
from longctx.eval.sample import Sample
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

Options = Mapping[str, Any]
# RULER draws places among these percents (arXiv 2404.06654): 40 of them, the ends included.
RULER_DEPTHS = tuple(round(100 * step / 39) for step in range(40))
_TRIES = 1000


@dataclass(frozen=True)
class About:
    """What is known of a task before any prompt is built."""

    name: str
    summary: str
    answer_tokens: int
    # False where the evidence is spread over the text: its map has one row, "all".
    has_depth: bool = True
    languages: tuple[str, ...] = ("en",)
    # Settings that change its prompts, with their defaults.
    options: tuple[tuple[str, Any], ...] = ()
    # Whether its haystack is the user's file of questions.
    questions: bool = False


class Task(Protocol):
    @property
    def about(self) -> About: ...

    def wording(self, language: str, options: Options) -> str:
        """All fixed words of its prompts: their hash is part of every recipe."""
        ...

    def answer_prefix(self, language: str, options: Options) -> str:
        """The prefix where the user gives none; `{key}` is filled in by `sample`."""
        ...

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        """A pure function of recipe and haystack.

        Raises:
            UserError: the recipe cannot be met, for example too short a length.
        """
        ...


def digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def depth_of(recipe: PromptSpec) -> float:
    """The depth of a task that has one."""
    if recipe.depth is None:
        raise AssertionError(f"{recipe.task} needs a depth")
    return recipe.depth


def number(rng: random.Random, digits: int = 7) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def uuid4(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def fresh(draw: Any, haystack: Haystack, taken: set[str], *, strict: bool = True) -> str:
    """What `draw()` gives, not drawn before and not in the text; keeps it in `taken`.

    Without `strict` a text that holds all of them is no error.
    """
    for attempt in range(_TRIES):
        found = str(draw())
        in_text = found in haystack.text and (strict or attempt < _TRIES // 2)
        if found not in taken and not in_text:
            taken.add(found)
            return found
    raise UserError(
        f"--haystack {haystack.id}: it holds every value that the task could hide: use another text"
    )


def elsewhere(rng: random.Random, count: int, asked: float | None = None) -> list[float]:
    """So many of RULER's places, ascending, none of them twice while they last."""
    found: list[float] = []
    free = [depth for depth in RULER_DEPTHS if depth != asked]
    while len(found) < count:
        found += rng.sample(free, min(count - len(found), len(free)))
    return sorted(found)


def list_of(words: Sequence[str]) -> str:
    """`a`, or `a, and b`, or `a, b, and c`: RULER's way."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + ", and " + words[-1]
