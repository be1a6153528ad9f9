"""Two arms on identical prompts: the difference per cell and per length, and whether it holds.

    both right | first only | second only | none      pairs of one length
    second - first                                     -> difference, its 95 % interval

    every pair has a text of its own    McNemar, exact, for each length and for all together, Holm
    pairs share texts                   signs of whole texts, Holm over lengths; where a length has
                                        too few texts to hold after it, one test of all lengths
    close lengths were asked again      each p twice as large: the two looks share the 5 %
    a run ended by what it had found    the same, made to hold at every look

A pair is one place of the grid at which both arms were scored on the same prompt; what has no
partner is left out, never guessed. Knows records, not where they come from: the arms may be two
methods of a run or two models, as long as their prompts are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from longctx.eval.clustered import ALPHA, difference_interval, sign_flip, texts_for
from longctx.eval.needle.inference import FIXED, Looks
from longctx.eval.runfolder.records import Record, scored, text_of
from longctx.eval.sequential import anytime_mcnemar
from longctx.eval.stats import Interval, holm, mcnemar_exact

LIMIT = ALPHA
MEANING = (
    f"A star marks a length at which the arms differ on identical prompts, p < {LIMIT:g} after "
    "Holm's correction."
)


@dataclass(frozen=True)
class Pair:
    """Scores of both arms at one place; `text` is the number of its text at that length."""

    length: int
    depth: float | None
    repeat: int
    text: int
    first: float
    second: float

    @property
    def difference(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class PairedComparison:
    """One length, or all of them: `p` is corrected for the number of tests, None without a test.

    `interval` rests on `texts`: of few it is wide.
    """

    pairs: int
    texts: int
    first_only: int
    second_only: int
    difference: float
    interval: Interval
    p: float | None

    @property
    def holds(self) -> bool:
        return self.p is not None and self.p < LIMIT


@dataclass(frozen=True)
class Comparison:
    """Two arms by length, in ascending order, and over all lengths where that was tested.

    Attributes:
        shared: whether pairs share texts.
        looks: of a run that ended by what it had found.
        texts_needed: of a length, for single lengths to be tested; 0 where pairs share none.
    """

    lengths: Mapping[int, PairedComparison] = field(default_factory=dict)
    overall: PairedComparison | None = None
    shared: bool = False
    looks: Looks = FIXED
    texts_needed: int = 0

    @property
    def by_length(self) -> bool:
        """Whether single lengths were tested."""
        return any(one.p is not None for one in self.lengths.values())

    @property
    def meaning(self) -> str:
        """What was tested, in a sentence or two."""
        shares = self.looks.shares
        looks = f", dealt out to {shares} looks" if self.shared and shares > 1 else ""
        if self.shared and self.by_length:
            return (
                f"Tested: signs of whole texts turned, for each length, Holm over lengths{looks}: "
                "depths share texts."
            )
        if self.shared:
            fewest = min((one.texts for one in self.lengths.values()), default=0)
            return (
                f"Tested: all lengths together, signs of whole texts turned{looks}: depths share "
                f"texts, and {fewest} a length are too few to tell which lengths differ. "
                f"{self.texts_needed} would do (--repeats {self.texts_needed}), or a text of its "
                "own for every cell (without --shared-texts)."
            )
        test = "McNemar's exact test"
        if self.looks.any_time:
            test = "McNemar's test, valid at every look,"
        elif self.looks.first is not None:
            test += ", each p doubled for the second look,"
        return f"Tested: {test} for each length and for all together, Holm over these."


def pairs_of(first: Iterable[Record], second: Iterable[Record]) -> list[Pair]:
    """Places at which both have a score for one and the same prompt; of records of one place the
    last counts."""
    ones = {_place(record): record for record in first}
    others = {_place(record): record for record in second}
    pairs = []
    for place in ones.keys() & others.keys():
        one, other = ones[place], others[place]
        first_score, second_score = scored(one), scored(other)
        if first_score is None or second_score is None:
            continue
        if one.get("prompt_sha256") == other.get("prompt_sha256"):
            pairs.append(Pair(*place, text_of(one), first_score, second_score))
    return sorted(pairs, key=lambda pair: (pair.length, pair.depth or 0.0, pair.repeat))


def compare(pairs: Sequence[Pair], looks: Looks = FIXED) -> Comparison:
    """
    Args:
        looks: of a run that ended by what it had found.
    """
    by_length: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_length.setdefault(pair.length, []).append(pair)
    if not by_length:
        return Comparison(looks=looks)
    groups = list(by_length.values())
    texts = [len(_by_text(group)) for group in groups]
    clustered = any(count < len(group) for count, group in zip(texts, groups, strict=True))
    needed = texts_for(len(groups), LIMIT / looks.shares) if clustered else 0
    p_lengths: list[float] | list[None]
    p_overall: float | None = None
    if not clustered:
        tested = [_mcnemar(group, looks) for group in groups]
        if len(groups) > 1:
            tested.append(_mcnemar(pairs, looks))
        corrected = holm(tested)
        p_lengths = corrected[: len(groups)]
        p_overall = corrected[-1] if len(groups) > 1 else None
    elif min(texts) >= needed:
        p_lengths = holm([_flipped(group, looks) for group in groups])
    else:
        p_lengths = [None] * len(groups)
        p_overall = _flipped(pairs, looks)
    return Comparison(
        {
            length: _compared(group, p, looks)
            for (length, group), p in zip(by_length.items(), p_lengths, strict=True)
        },
        None if p_overall is None else _compared(pairs, p_overall, looks),
        *(clustered, looks, needed),
    )


def _compared(pairs: Sequence[Pair], p: float | None, looks: Looks) -> PairedComparison:
    texts = _by_text(pairs)
    first_only, second_only = _discordant(pairs)
    return PairedComparison(
        pairs=len(pairs),
        texts=len(texts),
        first_only=first_only,
        second_only=second_only,
        difference=sum(pair.difference for pair in pairs) / len(pairs),
        interval=difference_interval(texts, LIMIT / looks.shares),
        p=p,
    )


def _discordant(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Wrong is what is not wholly right: a partial answer does not count as found."""
    return (
        sum(pair.first == 1 > pair.second for pair in pairs),
        sum(pair.second == 1 > pair.first for pair in pairs),
    )


def _mcnemar(pairs: Sequence[Pair], looks: Looks) -> float:
    if looks.any_time:
        return anytime_mcnemar(*_discordant(pairs))
    return min(1.0, looks.shares * mcnemar_exact(*_discordant(pairs)))


def _flipped(pairs: Sequence[Pair], looks: Looks) -> float:
    return min(1.0, looks.shares * sign_flip([math.fsum(text) for text in _by_text(pairs)]))


def net_by_cell(pairs: Sequence[Pair]) -> dict[tuple[int, float | None], tuple[float, int]]:
    """Per length and depth: how many prompts more the second arm found, and of how many."""
    cells: dict[tuple[int, float | None], tuple[float, int]] = {}
    for pair in pairs:
        net, count = cells.get((pair.length, pair.depth), (0.0, 0))
        cells[pair.length, pair.depth] = (net + pair.difference, count + 1)
    return cells


def _place(record: Record) -> tuple[int, float | None, int]:
    return record["length"], record["depth"], record["repeat"]


def _by_text(pairs: Sequence[Pair]) -> list[list[float]]:
    groups: dict[tuple[int, int], list[float]] = {}
    for pair in pairs:
        groups.setdefault((pair.length, pair.text), []).append(pair.difference)
    return list(groups.values())
