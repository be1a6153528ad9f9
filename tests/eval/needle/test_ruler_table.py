"""Tasks of several models side by side: figures, RULER's mean and rule, and the table's forms."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from run_fakes import write_run

from longctx.eval.needle import ruler_views
from longctx.eval.needle.ruler_table import (
    MEANT,
    RulerArm,
    TaskScore,
    TasksOfModel,
    arms_of,
    mean_interval,
    table,
)
from longctx.eval.needle.summary import load
from longctx.eval.stats import wilson

LENGTHS = (4096, 8192)
Right = Callable[[str, int, int], bool]  # task, length, repeat


def model(
    path: Path, name: str, tasks: Sequence[str], right: Right, lengths: Sequence[int] = LENGTHS
) -> TasksOfModel:
    """A model with ten samples of each task and length."""
    runs = {}
    for task in tasks:
        folder = write_run(
            path / name / task,
            lambda _method, length, _depth, repeat, task=task: (
                "ok" if right(task, length, repeat) else "miss"
            ),
            methods=("none",),
            lengths=lengths,
            depths=(50.0,),
            repeats=10,
        )
        run = json.loads((folder / "run.json").read_text())
        run["settings"]["task"] = task
        (folder / "run.json").write_text(json.dumps(run))
        runs[task] = load(folder)
    return TasksOfModel(name, runs)


def by_length(task: str, length: int, repeat: int) -> bool:
    """9 of 10 at 4K; at 8K 8 of 10."""
    return repeat < (9 if length == 4096 else 8)


def test_the_mean_of_thirteen_is_rulers(tmp_path: Path) -> None:
    (arm,) = arms_of([model(tmp_path, "small", MEANT, by_length)])
    mean = arm.mean(4096)
    assert mean is not None
    assert (mean.count, mean.is_rulers, mean.of) == (13, True, "13 of 13")
    assert mean.score == pytest.approx(0.9)
    low, high = arm.runs["vt"].pooled("none", 4096).interval
    assert mean.interval.low == pytest.approx(0.9 - (0.9 - low) / math.sqrt(13))
    assert mean.interval.high == pytest.approx(0.9 + (high - 0.9) / math.sqrt(13))
    assert (arm.effective, arm.show_effective()) == (4096, "4K")
    held = arms_of([model(tmp_path, "good", MEANT, lambda *_: True)])[0]
    assert held.show_effective() == ">= 8K (max tested)"
    low_one = arms_of([model(tmp_path, "bad", MEANT, lambda *_: False)])[0]
    assert (low_one.effective, low_one.show_effective()) == (None, "below 4K")


def test_each_task_counts_once_and_only_rulers_do(tmp_path: Path) -> None:
    tasks = (*MEANT, "needle", "uuid_chain")
    (arm,) = arms_of([model(tmp_path, "small", tasks, lambda task, *_: task in ("vt", "needle"))])
    mean = arm.mean(4096)
    assert mean is not None and mean.score == pytest.approx(1 / 13)
    assert arm.tasks == ["needle", *MEANT, "uuid_chain"]
    others = arms_of([model(tmp_path, "others", ("needle", "latent"), lambda *_: True)])[0]
    assert others.mean(4096) is None
    assert "mean" not in ruler_views.as_markdown([others]).split("\n\n")[0]


def test_fewer_than_thirteen_is_not_rulers_score(tmp_path: Path) -> None:
    eleven = [task for task in MEANT if not task.startswith("qa_")]
    (arm,) = arms_of([model(tmp_path, "small", eleven, lambda *_: True)])
    mean = arm.mean(4096)
    assert mean is not None
    assert (mean.score, mean.of) == (1.0, "11 of 13, not RULER's score")
    assert arm.effective is None
    shown = ruler_views.as_markdown([arm])
    assert "| **mean** | 4K | 100.0 (" in shown and ") 11 of 13, not RULER's score |" in shown
    assert "| needs 13 of 13 tasks at every length (has 11) |" in shown
    told = table([arm])["arms"][0]
    assert told["ruler_effective_length"] is None
    figures = told["mean"]["4096"]
    assert figures is not None and (figures["tasks"], figures["of"]) == (11, 13)


def test_a_length_that_a_task_lacks_is_not_rulers_either(tmp_path: Path) -> None:
    most = model(tmp_path, "small", MEANT[:12], lambda *_: True)
    last = model(tmp_path, "small", MEANT[12:], lambda *_: True, lengths=(8192,))
    arm = RulerArm("small", "none", {**most.runs, **last.runs})
    shown = ruler_views.as_markdown([arm])
    assert "12 of 13, not RULER's score" in shown and " 13 of 13 |" in shown
    assert (arm.effective, arm.has_all) == (None, False)
    assert "| qa_2 | 8K |" in shown and "| qa_2 | 4K |" not in shown


def test_rulers_rule_is_by_rulers_scorer(tmp_path: Path) -> None:
    """Answers that RULER counts and whole words do not: 1.0 by one scorer, 0 by the other."""
    found = model(tmp_path, "small", MEANT, lambda *_: False)
    for results in found.runs.values():
        for record in results.records:
            record["scores"] = {"whole": 0.0, "ruler": 1.0}
    (arm,) = arms_of([found])
    own, rulers = arm.mean(4096), arm.mean(4096, "ruler")
    assert own is not None and rulers is not None
    assert (own.score, rulers.score) == (0.0, 1.0)
    assert arm.show_effective() == ">= 8K (max tested)"


def test_two_models_stand_in_one_table(tmp_path: Path) -> None:
    arms = arms_of(
        [
            model(tmp_path, "small", MEANT, by_length),
            model(tmp_path, "large_2", ("vt", "cwe"), lambda *_: True, lengths=(4096,)),
        ]
    )
    lines = ruler_views.as_markdown(arms).splitlines()
    assert lines[0] == "| task | length | small · none | large_2 · none |"
    cells = [re.sub(r" \(\d+-\d+\)", "", line) for line in lines]
    assert "| vt | 4K | 90.0 n=10 | 100.0 n=10 |" in cells
    assert "| vt | 8K | 80.0 n=10 | – |" in cells
    assert any(line.endswith("| 100.0 (72-100) n=10 |") for line in lines)
    assert len([line for line in lines if line.startswith("| ")]) == 1 + 13 * 2 + 2 * 2 + 1

    rows = list(csv.DictReader(ruler_views.as_csv(arms).splitlines()))
    assert len(rows) == 13 * 2 + 2 + 2 + 1
    (mean,) = [row for row in rows if row["model"] == "large_2" and row["task"] == "mean"]
    assert (mean["score"], mean["tasks"], mean["tasks_meant"]) == ("1.0", "2", "13")
    (one,) = [row for row in rows if row["task"] == "vt" and row["length"] == "8192"]
    assert (one["n"], one["score"], one["missing"]) == ("10", "0.8", "0")

    tex = ruler_views.as_latex(arms).splitlines()
    assert tex[2] == r"\begin{tabular}{lrrr}" and tex[-1] == r"\end{tabular}"
    assert r"task & length & small $\cdot$ none & large\_2 $\cdot$ none \\" in tex
    (first,) = [line for line in tex if line.startswith(r"niah\_single\_1 & 4K & 90.0 (60-")]
    assert first.endswith(r" n=10 & -- \\")
    assert tex.count(r"\midrule") == 2
    columns = {line.count(" & ") for line in tex if line.endswith(r"\\")}
    assert columns == {3}


def test_the_interval_of_the_mean_covers_it() -> None:
    """Thirteen tasks of different difficulty with 25 samples: the true mean lies inside."""
    rng = random.Random(0)
    truths = [0.99, 0.95, 0.9, 0.9, 0.8, 0.7, 0.97, 0.95, 0.6, 0.5, 0.85, 0.7, 0.4]
    truth, inside, rounds = sum(truths) / 13, 0, 600
    for _ in range(rounds):
        scores = []
        for p in truths:
            k = sum(rng.random() < p for _ in range(25))
            scores.append(TaskScore(25, k / 25, wilson(k, 25)))
        low, high = mean_interval(scores)
        inside += low <= truth <= high
    assert 0.93 <= inside / rounds <= 0.98
