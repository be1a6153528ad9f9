"""What the records of a needle run hold: samples by place, their scores, intervals and states.

An error is no zero: only scored cells count in n. A place of the grid counts once, whatever its
keys: another version may have taken its temperature at another length, and the newest record is the
one. Knows records and run.json, not the files in which they stand.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from longctx.eval.needle.config import Texts, depths_of
from longctx.eval.needle.effective import Effective, effective_length
from longctx.eval.needle.inference import (
    FIXED,
    Looks,
    Scores,
    independent_interval,
    pooled_interval,
)
from longctx.eval.runfolder.record_schema import ControlRecord, NeedleRecord
from longctx.eval.runfolder.records import looked_again, newest, place_of, scored, text_of
from longctx.eval.runfolder.run_schema import NeedleRunJson, Stopping
from longctx.eval.runfolder.summary_schema import TallyFigures
from longctx.eval.scoring import SCORED, Scorer
from longctx.eval.stats import Interval, wilson


@dataclass(frozen=True)
class Tally:
    """What is known about some samples: `n` scored ones and their sum, and the others by state.

    `bounds` where samples are not independent; else the interval is Wilson's.
    """

    n: int
    total: float
    states: Mapping[str, int]
    bounds: Interval | None = None

    @property
    def score(self) -> float | None:
        return self.total / self.n if self.n else None

    @property
    def interval(self) -> Interval:
        return self.bounds or wilson(self.total, self.n)

    @property
    def k(self) -> int:
        return self.states.get("ok", 0)

    @property
    def cut_off(self) -> int:
        """Answers that the token budget cut off: scored by what they have."""
        return self.states.get("truncated_output", 0)

    def others(self) -> dict[str, int]:
        """States without a score."""
        return {state: count for state, count in self.states.items() if state not in SCORED}

    def to_dict(self) -> TallyFigures:
        low, high = self.interval
        known = self.n > 0
        return {
            "n": self.n,
            "k": self.k,
            "score": round(self.total / self.n, 6) if known else None,
            "low": round(low, 6) if known else None,
            "high": round(high, 6) if known else None,
            "states": dict(self.states),
        }


@dataclass(frozen=True)
class NeedleResults:
    """A run folder as read: run.json, and the newest record of every place of its grid."""

    run: NeedleRunJson
    records: Sequence[NeedleRecord]
    controls: Sequence[ControlRecord]
    superseded: int = 0
    lines: Mapping[str, int] = field(default_factory=dict)  # of results.jsonl, by key
    _effective: dict[str, Effective] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        run: NeedleRunJson,
        found: Iterable[NeedleRecord],
        controls: Iterable[ControlRecord] = (),
        lines: Mapping[str, int] | None = None,
    ) -> NeedleResults:
        """Of records in the order in which they were measured."""
        cells, beside = newest(found, place_of), newest(controls, place_of).records
        return cls(run, cells.records, beside, cells.superseded, lines or {})

    @property
    def methods(self) -> list[str]:
        return list(self.run["grid"]["methods"])

    @property
    def lengths(self) -> list[int]:
        return list(self.run["grid"]["lengths"])

    @property
    def depths(self) -> list[float | None]:
        return list(self.run["grid"]["depths"])

    @property
    def task(self) -> str:
        return str(self.run["settings"].get("task", "needle"))

    @property
    def trained_length(self) -> int | None:
        return self.run.get("trained_length")

    @property
    def stopping(self) -> Stopping | None:
        """The rule by which repeats were spent; None for a fixed grid."""
        return self.run.get("stopping")

    @property
    def looks(self) -> Looks:
        """When the run may have ended by what it had found."""
        if self.stopping is None:
            return FIXED
        first = self.stopping.get("first_repeats")
        if first is None:
            return Looks(self.stopping["most_repeats"])
        more = self.stopping["most_repeats"] - first
        return Looks(first=first * len(self.depths), more=more * len(self.depths))

    @cached_property
    def again(self) -> frozenset[int]:
        """The lengths that were looked at a second time."""
        first = None if self.stopping is None else self.stopping.get("first_repeats")
        return frozenset() if first is None else frozenset(looked_again(self.records, first))

    @property
    def texts(self) -> Texts:
        """Whether each cell has a text of its own, or the depths of a repeat share one, as in all
        folders that do not say."""
        if self.depths == [None]:
            return "own"
        return self.run["settings"].get("texts", "shared")

    @cached_property
    def _by_cell(self) -> dict[tuple[str, int, float | None], list[NeedleRecord]]:
        found: dict[tuple[str, int, float | None], list[NeedleRecord]] = {}
        for record in self.records:
            place = (record["scheme"]["method"], record["length"], record["depth"])
            found.setdefault(place, []).append(record)
        return found

    def chosen(
        self, method: str, length: int | None = None, depth: float | None = None
    ) -> list[NeedleRecord]:
        """The records of a cell, or of all cells over what is left out."""
        if length is not None and depth is not None:
            return list(self._by_cell.get((method, length, depth), ()))
        return [
            record
            for place, found in self._by_cell.items()
            for record in found
            if place[0] == method
            and (length is None or place[1] == length)
            and (depth is None or place[2] == depth)
        ]

    def tally(self, method: str, length: int | None = None, depth: float | None = None) -> Tally:
        """Pooled over what is left out; samples of the grid that have no record are `not_run`."""
        chosen = self.chosen(method, length, depth)
        states = Counter[str](record["status"] for record in chosen)
        places = itertools.product(
            self.lengths if length is None else (length,),
            self.depths if depth is None else (depth,),
        )
        missing = sum(
            max(0, self._repeats_at(*place) - len(self._by_cell.get((method, *place), ())))
            for place in places
        )
        if missing:
            states["not_run"] = missing
        scores = [score for record in chosen if (score := scored(record)) is not None]
        total, n = sum(scores), len(scores)
        again = bool(self.again) and any(record["length"] in self.again for record in chosen)
        return Tally(
            n, total, dict(states), independent_interval(total, n, self.looks, again=again)
        )

    def _repeats_at(self, length: int, depth: float | None) -> int:
        if self.stopping:  # it decides how many a cell needs; some it has in any case
            least = self.stopping.get("first_repeats", 1)
            return self.stopping["most_repeats"] if length in self.again else least
        grid = self.run["grid"]
        spread = grid.get("spread", False)
        return sum(
            depth in depths_of(grid["depths"], repeat, spread=spread)
            for repeat in range(grid["repeats"])
        )

    def judged_by(self, scorer: Scorer) -> NeedleResults:
        """The same answers, with the scores that a scorer gives them."""
        judged = [
            record
            if (scores := record["scores"]) is None
            else cast(NeedleRecord, {**record, "score": scores[scorer]})
            for record in self.records
        ]
        return replace(self, records=judged)

    def pooled(self, method: str, length: int) -> Tally:
        """A length over all its depths, with the interval that effective lengths go by."""
        tally = self.tally(method, length)
        return replace(tally, bounds=self.interval(method, length))

    def by_text(self, method: str, length: int) -> Scores:
        """Scores grouped by what they share: a text is a window of the haystack with its needle."""
        groups: dict[int, list[float]] = {}
        for record in self.chosen(method, length):
            if (score := scored(record)) is not None:
                groups.setdefault(text_of(record), []).append(score)
        return [groups[text] for text in sorted(groups)]

    def interval(self, method: str, length: int) -> Interval:
        """Over all depths, by how the samples came to be: inference.py."""
        return pooled_interval(self.by_text(method, length), self.looks)

    def effective(self, method: str) -> Effective:
        if method not in self._effective:
            scores = {length: self.by_text(method, length) for length in self.lengths}
            self._effective[method] = effective_length(scores, self.looks)
        return self._effective[method]
