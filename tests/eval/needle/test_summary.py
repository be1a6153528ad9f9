"""Summaries of faked run folders: pooling, effective lengths, and the tables that say so."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from run_fakes import write_run

from longctx.eval.needle import summary
from longctx.eval.needle.effective import show_effective
from longctx.eval.stats import wilson
from longctx.runs import screen


def test_effective_lengths_of_four_methods(tmp_path: Path) -> None:
    figures = summary.write(write_run(tmp_path))
    methods = figures["methods"]
    assert {name: found["effective_length"] for name, found in methods.items()} == {
        **{"none": 512, "yarn": 4096, "dca": 8192, "yarn+dca": 8192},
    }
    assert methods["yarn"]["effective"] == {
        "rule": "pooled lower bound >= 0.85",
        **{"length": 4096, "at_least": False, "enough_samples": True, "samples": 22},
        **{"needed": 22, "texts": None},
        **{"last_pass": 4096, "first_fail": 8192, "ruler": 4096, "nolima": 4096},
        "max_tested": 8192,
    }
    assert methods["dca"]["effective"]["at_least"] is True
    assert json.loads((tmp_path / "summary.json").read_text()) == figures


def test_the_window_is_the_effective_length_of_what_fails_beyond_it(tmp_path: Path) -> None:
    # 1K: depths 0 to 40 % are lost, 6 of 11 are found.
    figures = summary.write(write_run(tmp_path))
    assert figures["methods"]["none"]["lengths"]["1024"]["k"] == 12
    assert figures["methods"]["none"]["effective"]["first_fail"] == 1024


def test_tables_end_in_the_effective_length(tmp_path: Path) -> None:
    figures = summary.write(write_run(tmp_path))
    table = (tmp_path / "summary.md").read_text()
    head, rule, none, yarn, dca, _ = [line for line in table.splitlines() if line.startswith("|")]
    assert head.endswith("| 8K | effective length | breaks | RULER's rule | NoLiMa's rule |")
    assert head.count("|") == rule.count("|") == none.count("|")
    # our rule, where it breaks, RULER's, NoLiMa's
    assert none.endswith("| 512 | 512-1K | 512 | 512 |")
    assert yarn.endswith("| 4K | 4K-8K | 4K | 4K |")
    assert dca.endswith("| 22/22 (85-100 %) | >= 8K (max tested) | – | >= 8K | >= 8K |")
    first = csv.DictReader((tmp_path / "summary.csv").read_text().splitlines())
    rules = ("effective_length", "ruler", "nolima", "last_pass", "first_fail")
    by_method = {row["method"]: [row[name] for name in rules] for row in first}
    assert by_method["none"] == ["512", "512", "512", "512", "1024"]
    assert by_method["dca"] == ["8192", "8192", "8192", "8192", ""]
    assert "every length's 95 % lower bound is at least 0.85" in table

    out = Console(width=200, record=True, file=io.StringIO())
    screen.print_results(out, tmp_path, summary.load(tmp_path), figures, [], "default")
    shown = out.export_text()
    (head,) = [line for line in shown.splitlines() if line.startswith("method")]
    assert head.endswith("effective length")
    assert ">= 8K (max tested)" in shown
    assert "none: breaks 512-1K; by RULER's rule 512, by NoLiMa's 512" in shown


def test_six_lengths_with_their_intervals_fit_a_narrow_terminal(tmp_path: Path) -> None:
    figures = summary.write(write_run(tmp_path))
    out = Console(width=80, record=True, file=io.StringIO())
    screen.print_results(out, tmp_path, summary.load(tmp_path), figures, [], "default")
    lines = [line.split() for line in out.export_text().splitlines()]
    assert ["method", "256", "512", "1K", "2K", "4K", "8K", "effective", "length"] in lines
    row = lines.index(["none", "22/22", "22/22", "12/22", "6/22", "4/22", "2/22", "512"])
    assert lines[row + 1] == ["85-100%", "85-100%", "35-73%", "13-48%", "7-39%", "3-28%"]


def test_too_few_samples_are_not_called_no_break(tmp_path: Path) -> None:
    def fails(method: str, length: int, depth: float, repeat: int) -> str | None:
        return "error" if length == 256 and depth < 60 else "ok"

    figures = summary.write(write_run(tmp_path, fails, methods=("dca",), lengths=(256, 512)))
    out = Console(width=200, record=True, file=io.StringIO())
    screen.print_results(out, tmp_path, summary.load(tmp_path), figures, [], "default")
    shown = out.export_text()
    assert "dca: too few samples to see a break; by" in shown
    assert "+12 error" in shown


@pytest.mark.parametrize("status", ["error", "overflow", None])
def test_what_is_not_scored_is_no_sample(tmp_path: Path, status: str | None) -> None:
    # 12 of 22 cells at 512 have no score.
    def fails(method: str, length: int, depth: float, repeat: int) -> str | None:
        return status if length == 512 and depth < 60 else "ok"

    figures = summary.write(write_run(tmp_path, fails, methods=("dca",), lengths=(256, 512, 1024)))
    effective = figures["methods"]["dca"]["effective"]
    assert figures["methods"]["dca"]["effective_length"] is None
    assert (effective["enough_samples"], effective["samples"]) == (False, 10)
    assert effective["last_pass"] == 256
    assert "| not enough samples (10 of 22) |" in (tmp_path / "summary.md").read_text()


def test_three_samples_average(tmp_path: Path) -> None:
    def two_of_three(method: str, length: int, depth: float, repeat: int) -> str:
        return "miss" if repeat == 2 else "ok"

    path = write_run(
        tmp_path, two_of_three, methods=("dca",), lengths=(512,), depths=(50.0,), repeats=3
    )
    figures = summary.write(path)["methods"]["dca"]
    assert figures["lengths"]["512"]["score"] == pytest.approx(0.667, abs=5e-4)
    assert summary.load(path).by_text("dca", 512) == [[1.0], [1.0], [0.0]]


def test_a_lengths_interval_is_the_one_that_effective_length_goes_by(tmp_path: Path) -> None:
    """104 of 110 pass where each has its own text, and not where all misses are of one."""

    def one_text_fails(method: str, length: int, depth: float, repeat: int) -> str:
        return "miss" if repeat == 9 and depth > 45 else "ok"

    told: dict[str, Any] = {"methods": ("dca",), "lengths": (512,), "repeats": 10}
    own = summary.write(write_run(tmp_path / "own", one_text_fails, **told))
    assert (own["texts"], own["methods"]["dca"]["effective_length"]) == ("own", 512)
    path = write_run(tmp_path / "shared", one_text_fails, **told, texts="shared")
    found = summary.write(path)
    assert found["texts"] == "shared"
    dca = found["methods"]["dca"]
    assert dca["effective_length"] is None
    assert wilson(104, 110).low > 0.85 > dca["lengths"]["512"]["low"]
    results = summary.load(path)
    assert dca["lengths"]["512"]["low"] == pytest.approx(results.interval("dca", 512).low, abs=1e-6)
    # Cells are of different texts each: Wilson's.
    assert dca["cells"]["50"]["512"]["low"] == pytest.approx(wilson(9, 10).low, abs=1e-6)
    text = (path / "summary.md").read_text()
    assert "| below 512 |" in text and "depths share a text" in text
    assert "cluster-robust, as depths share texts" in text


def test_a_folder_that_says_nothing_of_texts_shares_them(tmp_path: Path) -> None:
    def second_fails(method: str, length: int, depth: float, repeat: int) -> str:
        return "miss" if repeat == 1 and depth < 30 else "ok"

    path = write_run(tmp_path, second_fails, methods=("dca",), repeats=2, texts="shared")
    lines = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]
    for line in lines:
        del line["recipe"]  # as the first versions wrote them
    (path / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    results = summary.load(path)
    assert results.texts == "shared"
    assert results.by_text("dca", 512) == [[1.0] * 11, [0.0] * 3 + [1.0] * 8]
    # Two texts tell next to nothing, however many their answers.
    low, high = results.interval("dca", 512)
    assert low < 0.05 and high > 0.99
    assert show_effective(results.effective("dca")) == "not enough texts (2 of 10)"
