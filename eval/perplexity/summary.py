"""From token losses to perplexities: per method and length, with intervals and paired differences.

    prefix    tokens 2 to L, and of them the second half
    position  the last `window` tokens before L, and every bin of that width
    window    every token of the documents, read in windows of L
    rolling   the same, in windows side by side: lm-evaluation-harness's rolling log-likelihood

Reads a run folder and nothing else. Averages weigh tokens; the mean over documents of each one's
perplexity stands beside them. Arms are compared token by token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from longctx.errors import UserError
from longctx.eval.format import show_length
from longctx.eval.runfolder import folder, records
from longctx.eval.runfolder.record_schema import PerplexityRecord
from longctx.eval.runfolder.records import newest
from longctx.eval.runfolder.run_schema import PerplexityRunJson, View
from longctx.eval.runfolder.summary_schema import PerplexityMethod, PerplexitySummary
from longctx.eval.stats import cluster_bootstrap, resampling_units

RESULTS = "perplexity.jsonl"
NEGLIGIBLE = 0.0005  # nats; a table of three digits shows it as zero
_Losses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """`nll` is the mean loss in nats; low and high bound the perplexity."""

    documents: int
    tokens: int
    nll: float
    perplexity: float
    low: float
    high: float
    interval_by: str
    perplexity_macro: float
    bits_per_byte: float | None
    second_half: float | None = None


@dataclass(frozen=True)
class LossDifference:
    """Mean loss of a method less that of `against` on the same tokens, in nats."""

    against: str
    documents: int
    tokens: int
    mean: float
    low: float
    high: float
    interval_by: str

    @property
    def holds(self) -> bool:
        """The interval leaves zero out, and by more than kernels differ in rounding."""
        return self.low > NEGLIGIBLE or self.high < -NEGLIGIBLE


class Bin(NamedTuple):
    start: int
    end: int
    perplexity: float


@dataclass(frozen=True)
class PerplexityResults:
    """A run folder as read. `records` holds the newest record of every pass.

    Figures are computed once, however many tables and pictures ask for them.
    """

    run: PerplexityRunJson
    records: Sequence[PerplexityRecord]
    superseded: int = 0
    _figures: dict[tuple[str, int], Figure | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _differences: dict[tuple[str, int], LossDifference | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, run: PerplexityRunJson, found: Iterable[PerplexityRecord]) -> PerplexityResults:
        """Of records in the order in which they were measured."""
        passes = newest(found, _place)
        return cls(run, passes.records, passes.superseded)

    @property
    def methods(self) -> list[str]:
        return list(self.run["grid"]["methods"])

    @property
    def lengths(self) -> list[int]:
        return list(self.run["grid"]["lengths"])

    @property
    def longest(self) -> int:
        return int(self.run["settings"]["longest"])

    @property
    def view(self) -> View:
        return self.run["view"]

    @property
    def trained_length(self) -> int | None:
        return self.run.get("trained_length")

    @property
    def in_windows(self) -> bool:
        """Whether a length is that of the windows in which documents are read whole."""
        return self.view["metric"] in ("window", "rolling")

    @property
    def documents(self) -> list[str]:
        """Their hashes, in order."""
        return [document["sha256"] for document in self.run["text"]["documents"]]

    def records_of(self, method: str, length: int) -> list[PerplexityRecord | None]:
        """The pass that holds a length, for every document; None where there is none yet."""
        stride: int | None = None
        if self.in_windows:
            tokens, window = self.longest, length
            sliding = self.view["stride"] if length < tokens else None
            stride = length if self.view["metric"] == "rolling" else sliding
        else:
            tokens = length if method in self.run["by_length"] else self.longest
            window = tokens
        wanted = (method, tokens, window, stride)
        found = {
            record["document"]["sha256"]: record
            for record in self.records
            if (record["scheme"]["method"], record["tokens"], record["window"], record["stride"])
            == wanted
        }
        return [found.get(document) for document in self.documents]

    def scored(self, length: int) -> slice:
        """Which losses of a pass a length is about: loss i is that of token i + 2."""
        if self.in_windows:
            return slice(0, None)
        if self.view["metric"] == "position":
            # A length of an earlier command in this folder may have no room for today's window.
            first = length - 1 - (self.view["window"] or 0)
            return slice(first, length - 1) if first >= 0 else slice(0)
        return slice(0, length - 1)

    def losses(self, method: str, length: int) -> dict[int, tuple[_Losses, int]]:
        """By document: the losses that a length is about, and the bytes of their text."""
        part = self.scored(length)
        if part.stop == 0:
            return {}
        return {
            index: (np.array(record["nll"][part]), sum(record["bytes"][part]))
            for index, record in enumerate(self.records_of(method, length))
            if record is not None and record["nll"] is not None
        }

    def figure(self, method: str, length: int) -> Figure | None:
        if (method, length) not in self._figures:
            self._figures[method, length] = self._figure(method, length)
        return self._figures[method, length]

    def difference(self, method: str, length: int) -> LossDifference | None:
        """Against the first method, on the tokens that both have."""
        if (method, length) not in self._differences:
            self._differences[method, length] = self._difference(method, length)
        return self._differences[method, length]

    def _figure(self, method: str, length: int) -> Figure | None:
        found = list(self.losses(method, length).values())
        if not found:
            return None
        by, units = resampling_units([losses for losses, _ in found])
        low, high = cluster_bootstrap(units, seed=self.run["settings"]["seed"])
        total = math.fsum(math.fsum(losses) for losses, _ in found)
        tokens, size = sum(len(losses) for losses, _ in found), sum(size for _, size in found)
        halves = [losses[length // 2 - 1 :] for losses, _ in found]
        return Figure(
            documents=len(found),
            tokens=tokens,
            nll=total / tokens,
            perplexity=_exp(total / tokens),
            low=_exp(low),
            high=_exp(high),
            interval_by=by,
            perplexity_macro=math.fsum(_exp(float(x.mean())) for x, _ in found) / len(found),
            bits_per_byte=total / math.log(2) / size if size else None,
            second_half=_exp(float(np.concatenate(halves).mean()))
            if self.view["metric"] == "prefix"
            else None,
        )

    def _difference(self, method: str, length: int) -> LossDifference | None:
        against = self.methods[0]
        if method == against:
            return None
        mine, base = self.losses(method, length), self.losses(against, length)
        pairs = [mine[index][0] - base[index][0] for index in mine if index in base]
        if not pairs:
            return None
        by, units = resampling_units(pairs)
        low, high = cluster_bootstrap(units, seed=self.run["settings"]["seed"])
        mean = float(np.concatenate(pairs).mean())
        tokens = sum(len(pair) for pair in pairs)
        return LossDifference(against, len(pairs), tokens, mean, low, high, by)

    def bins(self, method: str) -> list[Bin]:
        """Perplexity by absolute position, from the pass over the longest length."""
        width, tokens = self.view["window"], self.longest
        if width is None:
            return []
        rows = [
            record["nll"]
            for record in self.records_of(method, tokens)
            if record is not None and record["nll"] is not None
        ]
        found = []
        for start in range(0, tokens, width) if rows else ():
            end = min(start + width, tokens)
            part = np.array([row[max(start - 1, 0) : end - 1] for row in rows])
            if part.size:
                found.append(Bin(start, end, _exp(float(part.mean()))))
        return found

    def passes(self) -> dict[tuple[str, int, int], PerplexityRecord | None]:
        """The passes behind this view by method, window and document."""
        found = {}
        for method in self.methods:
            own = method in self.run["by_length"] or self.in_windows
            for length in self.lengths if own else [self.longest]:
                for index, record in enumerate(self.records_of(method, length)):
                    found[method, length, index] = record
        return found

    def states(self) -> dict[str, int]:
        """Passes by state: ok, error, not_run."""
        passes = self.passes().values()
        return dict(Counter("not_run" if r is None else r["status"] for r in passes))


def _exp(nll: float) -> float:
    """A perplexity. A broken model's may leave the range of floats: JSON has no infinity."""
    return math.exp(min(nll, 700.0))


def _place(record: PerplexityRecord) -> Hashable:
    """Method, document and windows of a pass."""
    names = record["scheme"]["method"], record["document"]["sha256"]
    return *names, record["tokens"], record["window"], record["stride"]


def load(path: Path) -> PerplexityResults:
    run: PerplexityRunJson | None = folder.read_run(path)
    if run is None:
        raise UserError(f"{path}: no {folder.RUN} in it: name the folder of a run")
    if run["task"] != "perplexity":
        raise UserError(f"{path}: it holds a {run['task']} run: name one of perplexity")
    found = records.latest(records.read(path / RESULTS, records.PERPLEXITY))
    return PerplexityResults.of(run, found.values())


def summarize(results: PerplexityResults) -> PerplexitySummary:
    run = results.run
    methods: dict[str, PerplexityMethod] = {}
    for method in results.methods:
        rows: dict[str, Any] = {}
        for length in results.lengths:
            figure, difference = results.figure(method, length), results.difference(method, length)
            rows[str(length)] = None if figure is None else _rounded(asdict(figure))
            if figure is not None and difference is not None:
                rows[str(length)]["difference"] = _rounded(asdict(difference))
        methods[method] = {
            "scheme": run["schemes"][method],
            "one_pass": method not in run["by_length"] and not results.in_windows,
            "lengths": rows,
        }
        if results.view["window"]:
            methods[method]["bins"] = [_rounded(bin._asdict()) for bin in results.bins(method)]
    return {
        "schema": run["schema"],
        "task": run["task"],
        "model": run["model"]["name"],
        **results.view,
        "meaning": meaning(results),
        "bos": run["settings"]["bos"],
        "text": {
            "id": run["text"]["id"],
            "left_out": run["text"]["left_out"],
            "documents": run["text"]["documents"],
        },
        "tokens_per_document": results.longest,
        "trained_length": results.trained_length,
        "states": results.states(),
        "superseded": results.superseded,
        "methods": methods,
        "failures": [
            {
                "method": record["scheme"]["method"],
                "tokens": record["tokens"],
                "window": record["window"],
                "error": record["error"],
                "document": record["document"]["id"],
            }
            for record in results.passes().values()
            if record is not None and record["status"] == "error"
        ],
    }


def _rounded(figures: Mapping[str, Any]) -> Any:
    return {n: float(f"{v:.9g}") if isinstance(v, float) else v for n, v in figures.items()}


def meaning(results: PerplexityResults) -> str:
    """Which tokens stand behind a figure, and where they come from."""
    view, text = results.view, results.run["text"]
    count, longest = len(results.documents), show_length(results.longest)
    which = {
        "prefix": "tokens 2 to L of each document",
        "position": f"the last {view['window']} tokens before L of each document",
        "window": f"every token of each document once, in windows of L moved by {view['stride']}",
        "rolling": "every token of each document once, in windows of L side by side (the rolling "
        "log-likelihood of lm-evaluation-harness)",
    }[view["metric"]]
    left = f", {text['left_out']} shorter texts left out" if text["left_out"] else ""
    return (
        f"Perplexity of {which}. {count} document(s) of {longest} tokens, the same at every length "
        f"({text['id']}{left}). {results.run['settings']['bos'].capitalize()}."
    )
