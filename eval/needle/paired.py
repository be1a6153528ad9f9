"""Two arms on identical prompts: the difference per cell and per length, and whether it holds.

    both right | first only | second only | none      pairs of one length
                 ╰── McNemar, exact, Holm over lengths ──╯   -> p
    second - first, whole documents drawn                     -> difference, its 95 % interval

A pair is one place of the grid at which both arms were scored on the same prompt; what has no
partner is left out, never guessed. Knows records, not where they come from: the arms may be two
methods of a run or two models, as long as their prompts are equal.

McNemar takes pairs for independent ones. Depths of one repeat share a text, so that a p near the
limit is worth less than it says: the interval, which draws whole texts, stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from longctx.eval.runfolder.records import Record, scored
from longctx.eval.stats import Interval, cluster_bootstrap, holm, mcnemar_exact

LIMIT = 0.05
MEANING = (
    f"A star marks a length at which the arms differ: McNemar's exact test on identical prompts, "
    f"p < {LIMIT:g} after Holm's correction over lengths."
)


@dataclass(frozen=True)
class Pair:
    """Scores of both arms at one place."""

    length: int
    depth: float | None
    repeat: int
    first: float
    second: float

    @property
    def difference(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class PairedComparison:
    """One length: `p` is corrected over the lengths that were compared.

    `interval` rests on `texts`, drawn whole: of one text it is a point and says nothing, of a few
    it says little.
    """

    pairs: int
    texts: int
    first_only: int
    second_only: int
    difference: float
    interval: Interval
    p: float

    @property
    def holds(self) -> bool:
        return self.p < LIMIT


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
            pairs.append(Pair(*place, first_score, second_score))
    return sorted(pairs, key=lambda pair: (pair.length, pair.depth or 0.0, pair.repeat))


def compare(pairs: Sequence[Pair]) -> Mapping[int, PairedComparison]:
    """Per length that has pairs, in ascending order."""
    by_length: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_length.setdefault(pair.length, []).append(pair)
    # Wrong is what is not wholly right: a partial answer does not count as found.
    only = {
        length: (
            sum(pair.first == 1 > pair.second for pair in group),
            sum(pair.second == 1 > pair.first for pair in group),
        )
        for length, group in by_length.items()
    }
    corrected = holm([mcnemar_exact(*counts) for counts in only.values()])
    return {
        length: PairedComparison(
            pairs=len(group),
            texts=len(_by_document(group)),
            first_only=only[length][0],
            second_only=only[length][1],
            difference=sum(pair.difference for pair in group) / len(group),
            interval=cluster_bootstrap(_by_document(group)),
            p=p,
        )
        for (length, group), p in zip(by_length.items(), corrected, strict=True)
    }


def net_by_cell(pairs: Sequence[Pair]) -> dict[tuple[int, float | None], tuple[float, int]]:
    """Per length and depth: how many prompts more the second arm found, and of how many."""
    cells: dict[tuple[int, float | None], tuple[float, int]] = {}
    for pair in pairs:
        net, count = cells.get((pair.length, pair.depth), (0.0, 0))
        cells[pair.length, pair.depth] = (net + pair.difference, count + 1)
    return cells


def _place(record: Record) -> tuple[int, float | None, int]:
    return record["length"], record["depth"], record["repeat"]


def _by_document(pairs: Sequence[Pair]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for pair in pairs:
        groups.setdefault(pair.repeat, []).append(pair.difference)
    return list(groups.values())
