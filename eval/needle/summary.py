"""From records to figures: cells, lengths, and the summary files of a run folder.

Reads a run folder and nothing else, so that a summary can be made again at any time. An error is
no zero: only scored cells count in n. A place of the grid counts once, whatever its keys: another
version may have taken its temperature at another length, and the newest record is the one.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

from longctx.errors import UserError
from longctx.eval.format import depth_name, show_depth, show_length
from longctx.eval.needle.certainty import TEXTS, interval_words, sentences
from longctx.eval.needle.config import Texts, depths_of
from longctx.eval.needle.effective import (
    MEANING,
    OTHER_RULES,
    Effective,
    effective_length,
    show_break,
    show_effective,
    show_other,
)
from longctx.eval.needle.inference import (
    FIXED,
    Looks,
    Scores,
    independent_interval,
    pooled_interval,
)
from longctx.eval.runfolder import folder, records
from longctx.eval.runfolder.records import looked_again, newest, place_of, scored, text_of
from longctx.eval.runfolder.schema import (
    ControlFigures,
    ControlRecord,
    EffectiveFigures,
    MethodFigures,
    NeedleRecord,
    NeedleRunJson,
    NeedleSummary,
    Stopping,
    TallyFigures,
)
from longctx.eval.scoring import SCORED, Scorer
from longctx.eval.stats import Interval, wilson

# A map whose easiest cells fail, or which succeeds without a needle, says nothing about length.
_SHORTEST_AT_LEAST = 0.85
_CLOSED_BOOK_AT_MOST = 0.05


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


def load(path: Path) -> NeedleResults:
    """Read a run folder, whoever may be writing to it."""
    run: NeedleRunJson | None = folder.read_run(path)
    if run is None:
        raise UserError(f"{path}: no {folder.RUN} in it: name the folder of a run")
    if run["task"] != "needle":
        raise UserError(f"{path}: it holds a {run['task']} run: name the folder of a needle run")
    written = list(records.read(path / folder.RESULTS))
    controls = records.latest(records.read(path / folder.CONTROLS, records.CONTROL))
    # A record that was run again stands in its last line.
    lines = {record["key"]: number for number, record in enumerate(written, start=1)}
    return NeedleResults.of(run, records.latest(written).values(), controls.values(), lines)


def summarize(results: NeedleResults) -> NeedleSummary:
    run = results.run
    methods: dict[str, MethodFigures] = {}
    for method in results.methods:
        by_depth = {
            depth_name(depth): {
                str(length): results.tally(method, length, depth).to_dict()
                for length in results.lengths
            }
            for depth in results.depths
        }
        effective = results.effective(method)
        methods[method] = {
            "scheme": run["schemes"][method],
            "effective_length": effective.length,
            "effective": cast(EffectiveFigures, effective.to_dict()),
            "lengths": {
                str(length): results.pooled(method, length).to_dict() for length in results.lengths
            },
            "cells": by_depth,
        }
    states = Counter[str](record["status"] for record in results.records)
    states["not_run"] = sum(
        results.tally(method).states.get("not_run", 0) for method in results.methods
    )
    return {
        "schema": run["schema"],
        "task": run["task"],
        "model": run["model"]["name"],
        "haystack": run["haystack"],
        "trained_length": results.trained_length,
        "texts": results.texts,
        "stopping": results.stopping,
        "states": dict(states),
        "superseded": results.superseded,
        "methods": methods,
        "controls": control_figures(results),
        "failures": [
            {
                "method": record["scheme"]["method"],
                "length": record["length"],
                "depth": record["depth"],
                "repeat": record["repeat"],
                "error": record["error"],
            }
            for record in results.records
            if record["status"] == "error"
        ],
    }


def control_figures(results: NeedleResults) -> ControlFigures:
    """Whether the map can tell success from failure: `discriminative` is None while unknown."""
    closed = [score for record in results.controls if (score := scored(record)) is not None]
    closed_book = sum(closed) / len(closed) if closed else None
    shortest = [
        score
        for method in results.methods
        if (score := results.tally(method, min(results.lengths)).score) is not None
    ]
    best_shortest = max(shortest, default=None)
    reasons = []
    if closed_book is not None and closed_book > _CLOSED_BOOK_AT_MOST:
        reasons.append(f"answers without the needle ({closed_book:.0%})")
    if best_shortest is not None and best_shortest < _SHORTEST_AT_LEAST:
        reasons.append(f"fails at the shortest length already ({best_shortest:.0%})")
    known = closed_book is not None and best_shortest is not None
    return {
        "closed_book": closed_book,
        "shortest": best_shortest,
        "discriminative": False if reasons else (True if known else None),
        "reasons": reasons,
    }


class WrittenNeedle(NamedTuple):
    """A run folder's results, and the figures that its files show."""

    results: NeedleResults
    figures: NeedleSummary


def write(path: Path) -> NeedleSummary:
    """Make summary.json, summary.csv and summary.md of a run folder; returns the first."""
    return write_files(path).figures


def write_files(path: Path) -> WrittenNeedle:
    """The same, with the results, so that whoever shows them need not compute them again."""
    results = load(path)
    summary = summarize(results)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    records.write_atomically(path / "summary.json", text)
    records.write_atomically(path / "summary.csv", _as_csv(results))
    records.write_atomically(path / "summary.md", as_markdown(results, summary))
    return WrittenNeedle(results, summary)


def _as_csv(results: NeedleResults) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    others = ("truncated_output", "overflow", "error", "not_run")
    rules = ("effective_length", "ruler", "nolima", "last_pass", "first_fail")
    table.writerow(["method", "length", "depth", "n", "k", "score", "low", "high", *others, *rules])
    for method in results.methods:
        found = results.effective(method)
        lengths = [found.length, found.ruler, found.nolima, found.last_pass, found.first_fail]
        for length in results.lengths:
            for depth in results.depths:
                tally = results.tally(method, length, depth)
                row = tally.to_dict()
                figures = [row["n"], row["k"], row["score"], row["low"], row["high"]]
                states = [tally.states.get(state, 0) for state in others]
                table.writerow([method, length, depth_name(depth), *figures, *states, *lengths])
    return stream.getvalue()


def as_markdown(results: NeedleResults, summary: NeedleSummary) -> str:
    run = results.run
    lines = [
        f"# {heading(results)}: {run['model']['name']}",
        "",
        f"Haystack {run['haystack']['id']}, depths "
        f"{', '.join(show_depth(depth) for depth in results.depths)}, "
        f"{_repeats_words(results)}, {TEXTS[results.texts]}, "
        f"seed {run['settings'].get('seed')}, trained length "
        f"{show_length(results.trained_length) if results.trained_length else 'unknown'}.",
        "",
        "| method | "
        + " | ".join(show_length(length) for length in results.lengths)
        + " | effective length | breaks | RULER's rule | NoLiMa's rule |",
        "|---|" + "---:|" * (len(results.lengths) + 4),
    ]
    for method in results.methods:
        row = [show_tally(results.pooled(method, length)) for length in results.lengths]
        found = results.effective(method)
        row += [show_effective(found), show_break(found)]
        row += [show_other(found, found.ruler), show_other(found, found.nolima)]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    told = interval_words(results.texts, results.looks)
    lines += ["", f"{told} {others_sentence(summary)}", ""]
    lines += [f"{MEANING}\n", f"{OTHER_RULES}\n"]
    lines.append(f"## How certain is this\n\n{' '.join(certainty(results))}\n")
    if results.stopping:
        lines.append(f"Stopping rule: {results.stopping['rule']}\n")
    for reason in summary["controls"]["reasons"]:
        lines.append(f"**Not discriminative**: the model {reason}.\n")
    return "\n".join(lines)


def certainty(results: NeedleResults) -> list[str]:
    """How certain the figures are, in sentences for everybody."""
    samples = [
        results.by_text(method, length) for method in results.methods for length in results.lengths
    ]
    return sentences(results.texts, results.looks, samples)


def _repeats_words(results: NeedleResults) -> str:
    grid = results.run["grid"]
    if grid.get("spread"):
        return f"{grid['repeats']} sample(s) a length, at one depth each"
    if results.looks.first is not None:
        return again_words(results)
    return f"{'up to ' if results.stopping else ''}{grid['repeats']} repeat(s)"


def again_words(results: NeedleResults) -> str:
    """`2 repeats, 5 at the close lengths 1K, 4K`: of a run with a second look."""
    assert results.stopping is not None
    least, most = results.stopping["first_repeats"], results.stopping["most_repeats"]
    lengths = ", ".join(map(show_length, sorted(results.again)))
    close = f"{most} at the close length{'s' if len(results.again) > 1 else ''} {lengths}"
    return f"{least} repeats, {close if lengths else 'no length close'}"


def heading(results: NeedleResults) -> str:
    """What was asked, for headings."""
    return "Needle in a haystack" if results.task == "needle" else f"Task {results.task}"


def show_tally(tally: Tally) -> str:
    """`3/3 (44-100 %)`, how many of them were cut off, and what was not scored behind it."""
    low, high = tally.interval
    shown = f"{tally.total:g}/{tally.n} ({100 * low:.0f}-{100 * high:.0f} %)" if tally.n else "–"
    shown += f", {tally.cut_off} cut off" if tally.cut_off else ""
    extra = ", ".join(f"{count} {state}" for state, count in tally.others().items())
    return f"{shown} +{extra}" if extra else shown


def others_sentence(summary: NeedleSummary) -> str:
    """What no figure counts: samples without a score, and records that a newer one replaced."""
    counts: Iterable[str] = (
        f"{count} {state.replace('_', ' ')}"
        for state, count in sorted(summary["states"].items())
        if count and state not in SCORED
    )
    named = ", ".join(counts)
    told = f"Not counted: {named}." if named else "Every cell was scored."
    if cut := summary["states"].get("truncated_output"):
        told += f" Cut off by the token budget, and scored by what they have: {cut}."
    if not summary["superseded"]:
        return told
    older = f"{summary['superseded']} older record(s) of an earlier version"
    return f"{told} Left out: {older}, whose place has a newer one."
