"""Published figures of long contexts, to stand beside one's own: other people's measurements.

Scores in percent as their sources print them, by length in tokens. Theirs are other samples, texts,
prompts, scorers and machines: a difference to a row of ours is no difference of models alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from longctx.errors import UserError
from longctx.eval.format import show_length

_K = 1024
_QWEN2 = "Qwen2 Technical Report, arXiv 2407.10671, table 12"
_QWEN25 = "Qwen2.5 Technical Report, arXiv 2412.15115, table 16"
_RULER_PAGE = "RULER's own table, github.com/NVIDIA/RULER, README"
_RULER_K = (4, 8, 16, 32, 64, 128)
_NEEDLEBENCH_K = (8, 32, 128, 256)


@dataclass(frozen=True)
class PublishedRow:
    """`method` in the words of this project: `none` is the model as trained."""

    benchmark: str
    model: str
    method: str
    scores: Mapping[int, float]
    source: str


def _rows(
    benchmark: str,
    lengths: Sequence[int],
    source: str,
    model: str,
    **scores: Sequence[float],
) -> tuple[PublishedRow, ...]:
    """Rows of one model by method; `yarn_dca` stands for `yarn+dca`."""
    tokens = [size * _K for size in lengths]
    return tuple(
        PublishedRow(
            benchmark,
            model,
            method.replace("_", "+"),
            MappingProxyType(dict(zip(tokens, found, strict=True))),
            source,
        )
        for method, found in scores.items()
    )


# Up to 32K, both papers say, yarn+dca leaves the model as it is: there its score is the plain one.
PUBLISHED: Mapping[str, tuple[PublishedRow, ...]] = MappingProxyType(
    {
        "ruler": (
            *_rows(
                "ruler", _RULER_K, _RULER_PAGE, "Qwen2-72B-Instruct",
                unknown=(96.9, 96.1, 94.9, 94.1, 79.8, 53.7),
            ),
            *_rows(
                "ruler", _RULER_K, _QWEN25, "Qwen2.5-7B-Instruct",
                none=(96.7, 95.1, 93.7, 89.4, 74.5, 31.4),
                yarn_dca=(96.7, 95.1, 93.7, 89.4, 82.3, 55.1),
            ),
            *_rows(
                "ruler", _RULER_K, _QWEN25, "Qwen2.5-14B-Instruct",
                none=(97.7, 96.8, 95.9, 93.4, 82.3, 53.0),
                yarn_dca=(97.7, 96.8, 95.9, 93.4, 86.7, 78.1),
            ),
            *_rows(
                "ruler", _RULER_K, _QWEN25, "Qwen2.5-32B-Instruct",
                none=(96.9, 97.1, 95.5, 95.5, 85.3, 57.7),
                yarn_dca=(96.9, 97.1, 95.5, 95.5, 90.3, 82.0),
            ),
            *_rows(
                "ruler", _RULER_K, _QWEN25, "Qwen2.5-72B-Instruct",
                none=(97.7, 97.2, 97.7, 96.5, 88.5, 67.0),
                yarn_dca=(97.7, 97.2, 97.7, 96.5, 93.0, 88.4),
            ),
        ),
        "needlebench": (
            *_rows(
                "needlebench", _NEEDLEBENCH_K, _QWEN2, "Qwen2-7B-Instruct",
                none=(87.07, 73.64, 38.77, 2.92),
                yarn_dca=(87.07, 73.64, 66.32, 60.71),
            ),
            *_rows(
                "needlebench", _NEEDLEBENCH_K, _QWEN2, "Qwen2-72B-Instruct",
                none=(91.90, 92.01, 73.05, 17.13),
                yarn_dca=(91.90, 92.01, 90.27, 85.21),
            ),
        ),
    }
)  # fmt: skip


HEADING = "figures of others, not measured here"
MEANING = "Other samples, texts and scorers than ours: beside our rows, not in one table with them."


@dataclass(frozen=True)
class PublishedTable:
    """A benchmark's rows as words; the last one of each is the number of its source."""

    benchmark: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    sources: Sequence[str]

    @property
    def heading(self) -> str:
        return f"{self.benchmark}: {HEADING}"

    @property
    def notes(self) -> list[str]:
        """Each source under its number."""
        return [f"[{number}] {source}" for number, source in enumerate(self.sources, start=1)]


def tables(rows: Sequence[PublishedRow]) -> list[PublishedTable]:
    """One for each benchmark, in the order of the rows."""
    found = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        shown = [row for row in rows if row.benchmark == benchmark]
        lengths = sorted({length for row in shown for length in row.scores})
        sources = list(dict.fromkeys(row.source for row in shown))
        told = [
            [
                *(row.model, row.method),
                *(f"{row.scores[one]:g}" if one in row.scores else "–" for one in lengths),
                f"[{sources.index(row.source) + 1}]",
            ]
            for row in shown
        ]
        heads = ["model", "method", *map(show_length, lengths), "by"]
        found.append(PublishedTable(benchmark, heads, told, sources))
    return found


def as_markdown(rows: Sequence[PublishedRow]) -> str:
    """To stand below a table of ours; empty without rows."""
    lines: list[str] = []
    for one in tables(rows):
        lines += ["", f"## {one.heading}", "", f"| {' | '.join(one.heads)} |"]
        lines.append("|---|---|" + "---:|" * (len(one.heads) - 2))
        lines += [f"| {' | '.join(row)} |" for row in one.rows]
        lines += ["", f"{'; '.join(one.notes)}."]
    return "\n".join([*lines, "", MEANING, ""]) if lines else ""


def published(names: Sequence[str], flag: str) -> list[PublishedRow]:
    """The rows of benchmarks, by name.

    Raises:
        UserError: nothing of that name is kept here.
    """
    for name in names:
        if name not in PUBLISHED:
            raise UserError(f"{flag} {name}: not known: use {', '.join(PUBLISHED)}")
    return [row for name in dict.fromkeys(names) for row in PUBLISHED[name]]
