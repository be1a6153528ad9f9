"""What a task makes of a recipe: text to hide, a question, and what counts as its answer.

    introduction, before, [text with the statements in it | fill(n)], after, question
    [assistant header] answer prefix

Statements go into a haystack at depths; a task that is its own text (a list of words, lines of
noise) gives `fill` instead, and the prompt takes as many of its units as fit. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from longctx.eval.scoring import Match
from longctx.eval.texts.text import join


@dataclass(frozen=True)
class Statement:
    """`depth` in percent. `evidence` is needed for the answer, `asked` is what depth speaks of."""

    text: str
    depth: float
    evidence: bool = True
    asked: bool = False


class Span(NamedTuple):
    """Characters of a statement within the text."""

    start: int
    end: int
    evidence: bool
    asked: bool


class Filled(NamedTuple):
    text: str
    spans: list[Span]


# Text of so many units, with or without the evidence; more units give a longer text.
Fill = Callable[[int, bool], Filled]


@dataclass(frozen=True)
class Sample:
    """`secrets` stand in statements alone; `fewest` units are the least that make sense."""

    introduction: str
    question: str
    answer_prefix: str
    expected: tuple[str, ...]
    statements: tuple[Statement, ...] = ()
    secrets: tuple[str, ...] = ()
    match: Match = "all"
    before: str = "\n\n"
    after: str = "\n\n"
    fill: Fill | None = None
    fewest: int = 1

    def closed_book(self) -> Sample:
        """The same question without its evidence."""
        fill = self.fill
        return replace(
            self,
            statements=tuple(one for one in self.statements if not one.evidence),
            fill=None if fill is None else lambda units, _evidence: fill(units, False),
        )


def weave(text: str, placed: Sequence[tuple[int, Statement]]) -> Filled:
    """`text` with statements at ascending character positions, and where they came to stand."""
    built, at = "", 0
    spans: list[Span] = []
    for place, statement in placed:
        piece = text[at:place]
        built += join(built, piece) + piece if spans else piece
        built += join(built, statement.text)
        start = len(built)
        built += statement.text
        spans.append(Span(start, len(built), statement.evidence, statement.asked))
        at = place
    rest = text[at:]
    return Filled(built + (join(built, rest) if spans else "") + rest, spans)


def lines(units: Sequence[str], statements: Sequence[Statement], *, evidence: bool) -> Filled:
    """Units and statements as lines of their own; a depth is a share of the units."""
    chosen = sorted(
        (one for one in statements if evidence or not one.evidence), key=lambda one: one.depth
    )
    text, spans, at = [], [], 0
    size = 0
    for statement in [*chosen, None]:
        upto = len(units) if statement is None else round(statement.depth / 100 * len(units))
        for unit in units[at:upto]:
            text.append(unit)
            size += len(unit) + 1
        at = max(at, upto)
        if statement is not None:
            text.append(statement.text)
            end = size + len(statement.text)
            spans.append(Span(size, end, statement.evidence, statement.asked))
            size = end + 1
    return Filled("\n".join(text), spans)
