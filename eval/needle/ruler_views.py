"""The table of ruler_table.py as Markdown, CSV and LaTeX: tasks and lengths down, arms across.

    task            length   model · none           model · dca
    niah_single_1   4K       96.0 (80-99) n=25      ...
    mean            4K       81.3 (77-85) 13 of 13

Knows no file and computes no figure.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longctx.eval.format import show_length
from longctx.eval.needle.effective import RULER_AT_LEAST
from longctx.eval.needle.ruler_table import (
    MEANT,
    MeanScore,
    RulerArm,
    TaskScore,
    lengths_of,
    tasks_of,
)

MEANING = (
    "Score in percent (95 % interval), n: scored samples. The mean is over RULER's tasks, each "
    "counting once; its interval is put together from theirs."
)
RULE = (
    "RULER's rule: the longest length up to which the mean by its scorer is "
    f"{100 * RULER_AT_LEAST:g} % or more"
)
COLUMNS = (
    *("model", "method", "task", "length", "n", "score", "low", "high"),
    *("score_ruler", "cut_off", "missing", "tasks", "tasks_meant"),
)


@dataclass(frozen=True)
class Row:
    """`task` may be a mean's words; a cell for each arm."""

    task: str
    length: str
    cells: tuple[str, ...]
    is_mean: bool = False


def label(arm: RulerArm, arms: Sequence[RulerArm]) -> str:
    """With the model where there are several."""
    several = len({one.model for one in arms}) > 1
    return f"{arm.model} · {arm.method}" if several else arm.method


def rows(arms: Sequence[RulerArm]) -> Iterator[Row]:
    """Tasks and lengths, then both means and the effective lengths."""
    lengths = lengths_of(arms)
    for task in tasks_of(arms):
        for length in lengths:
            scores = [arm.score(task, length) for arm in arms]
            if any(scores):
                yield Row(task, show_length(length), tuple(map(_score, scores)))
    for words, scorer in (("mean", None), ("mean by RULER's scorer", "ruler")):
        for length in lengths:
            means = [arm.mean(length, scorer) for arm in arms]  # type: ignore[arg-type]
            if any(means):
                yield Row(words, show_length(length), tuple(map(_mean, means)), is_mean=True)
    if any(set(arm.tasks) & set(MEANT) for arm in arms):
        told = tuple(arm.show_effective() for arm in arms)
        yield Row("effective length by RULER's rule", "", told, is_mean=True)


def as_markdown(arms: Sequence[RulerArm]) -> str:
    heads = [label(arm, arms) for arm in arms]
    lines = [f"| task | length | {' | '.join(heads)} |", "|---|---:|" + "---:|" * len(heads)]
    for row in rows(arms):
        name = f"**{row.task}**" if row.is_mean else row.task
        lines.append(f"| {name} | {row.length} | {' | '.join(row.cells)} |")
    return "\n".join([*lines, "", f"{MEANING} {RULE}.", ""])


def as_csv(arms: Sequence[RulerArm]) -> str:
    """A row for each arm, task and length; of a mean the task is `mean`. Shares, not percent."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    out.writerow(COLUMNS)
    for arm in arms:
        names = [_text(arm.model), _text(arm.method)]
        for task in arm.tasks:
            for length in arm.lengths:
                own, rulers = arm.score(task, length), arm.score(task, length, "ruler")
                if own is None or rulers is None:
                    continue
                figures: list[Any] = [own.n, *_shares(own), round(rulers.score, 6)]
                out.writerow([*names, task, length, *figures, own.cut_off, own.missing, "", ""])
        for length in arm.lengths:
            mean, by_ruler = arm.mean(length), arm.mean(length, "ruler")
            if mean is None or by_ruler is None:
                continue
            shares = [*_shares(mean), round(by_ruler.score, 6)]
            out.writerow([*names, "mean", length, "", *shares, "", "", mean.count, len(MEANT)])
    return stream.getvalue()


def as_latex(arms: Sequence[RulerArm]) -> str:
    """A tabular of the package booktabs."""
    heads = [_tex(label(arm, arms)) for arm in arms]
    lines = [
        f"% {MEANING}",
        f"% {RULE}.",
        rf"\begin{{tabular}}{{lr{'r' * len(arms)}}}",
        r"\toprule",
        " & ".join(["task", "length", *heads]) + r" \\",
        r"\midrule",
    ]
    before, in_means = "", False
    for row in rows(arms):
        if row.is_mean and not in_means:
            lines.append(r"\midrule")
            in_means = True
        name = "" if row.task == before else _tex(row.task)
        before = row.task
        lines.append(" & ".join([name, row.length, *map(_tex, row.cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _score(one: TaskScore | None) -> str:
    if one is None:
        return "–"
    more = f", {one.cut_off} cut off" if one.cut_off else ""
    more += f", {one.missing} missing" if one.missing else ""
    return f"{_percent(one)} n={one.n}{more}"


def _mean(one: MeanScore | None) -> str:
    return "–" if one is None else f"{_percent(one)} {one.of}"


def _percent(one: TaskScore | MeanScore) -> str:
    low, high = one.interval
    return f"{100 * one.score:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _shares(one: TaskScore | MeanScore) -> list[float]:
    return [round(value, 6) for value in (one.score, *one.interval)]


_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"·": r"$\cdot$", "–": "--", ">": r"\textgreater{}", "<": r"\textless{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)


def _text(value: str) -> str:
    """A name that a spreadsheet would take for a formula is marked as text."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
