"""Sweeps over scripted targets: states, resume, controls, summaries."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import needle_fakes
import pytest
from needle_fakes import Scripted, make_sweep, reads_everything, reads_only

from longctx.errors import UserError
from longctx.eval.estimate import expected_work, plan, rate_of, work
from longctx.eval.format import show_bytes, show_seconds
from longctx.eval.needle import summary
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.controls import ClosedBookControl
from longctx.eval.needle.grid import Cell, cells, columns
from longctx.eval.needle.runner import Sweep
from longctx.eval.protocol import ContextOverflowError, Request
from longctx.eval.runfolder.folder import RunFolder, describe_run
from longctx.eval.runfolder.records import Record
from longctx.eval.texts.haystack import Haystack
from longctx.models.source import ModelShape

SHAPE = ModelShape(
    layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocabulary=100
)


class Watch:
    def __init__(self) -> None:
        self.cells: list[Cell] = []

    def started(self, cell: Cell) -> None:
        self.cells.append(cell)

    def finished(self, cell: Cell, record: Record) -> None:
        assert record["status"]


def run(
    sweep: Sweep, output: Path, answers: dict[str, Callable[[Request, str], str]], **part: Any
) -> tuple[Watch, dict[str, Any]]:
    watch = Watch()
    sessions = {m: Scripted(answer, **part, method=m) for m, answer in answers.items()}
    with RunFolder(output) as folder:
        folder.begin(
            describe_run(
                config=sweep.config,
                settings={"seed": sweep.config.seed},
                schemes=sweep.schemes,
                model={"name": "models/scripted"},
                haystack={"id": sweep.builder.haystack.id},
                trained_length=512,
                session={},
            )
        )
        control = ClosedBookControl(sweep, folder.controls)
        pending = sweep.pending(folder.results.records)
        sweep.run(
            pending, sessions, folder.results, watch, control=control if control.due else None
        )
    return watch, summary.write(output)


def test_a_sweep_with_two_methods(tmp_path: Path, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, ("none", "dca"))
    _, figures = run(sweep, tmp_path, {"none": reads_only(512), "dca": reads_everything})
    none, dca = figures["methods"]["none"]["lengths"], figures["methods"]["dca"]["lengths"]
    assert (none["512"]["k"], none["512"]["n"], none["1024"]["score"]) == (6, 6, 0.0)
    assert dca["1024"]["score"] == 1.0
    assert dca["1024"]["low"] == pytest.approx(0.609666, abs=1e-6)
    assert figures["states"] == {"ok": 18, "miss": 6, "not_run": 0}
    assert figures["controls"] == {
        "closed_book": 0.0,
        "shortest": 1.0,
        "discriminative": True,
        "reasons": [],
    }
    assert figures["failures"] == []
    rows = list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    assert len(rows) == 12
    assert rows[-1] == {
        **{"method": "dca", "length": "1024", "depth": "100", "n": "2", "k": "2", "score": "1.0"},
        **{"low": "0.34238", "high": "1.0", "truncated_output": "0", "overflow": "0"},
        **{"error": "0", "not_run": "0", "ruler": "1024", "nolima": "1024"},
        **dict.fromkeys(("effective_length", "last_pass", "first_fail"), ""),
    }
    table = (tmp_path / "summary.md").read_text()
    assert "| dca | 6/6 (61-100 %) | 6/6 (61-100 %) |" in table
    assert json.loads((tmp_path / "summary.json").read_text()) == figures


def test_both_methods_see_the_same_prompts(tmp_path: Path, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, ("none", "dca"), repeats=1)
    run(sweep, tmp_path, dict.fromkeys(("none", "dca"), reads_everything))
    by_method: dict[str, set[str]] = {"none": set(), "dca": set()}
    for record in summary.load(tmp_path).records:
        by_method[record["scheme"]["method"]].add(record["prompt_sha256"])
    assert by_method["none"] == by_method["dca"]
    assert len(by_method["none"]) == 6


def test_a_record_holds_what_it_promises(tmp_path: Path, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, repeats=1)
    run(sweep, tmp_path, {"none": reads_everything})
    record = summary.load(tmp_path).records[0]
    promised = """schema key scheme task language length prompt_tokens slack depth depth_actual
        needle_span evidence_spans distance_to_question seed repeat haystack question expected match
        response finish_reason score scores status error ttft_s cached_tokens server_prompt_tokens
        total_s compute_s peak_mem_bytes backend
        ts prompt_sha256 recipe"""
    assert set(record) == set(promised.split())
    assert set(record["haystack"]) == {"id", "sha256", "offset"}
    assert record["scheme"]["request_length"] == record["length"]
    assert record["prompt_tokens"] + record["slack"] + 32 == record["length"]
    # The prompt is not kept: its recipe gives it back.
    recipe = sweep.recipe(Cell("none", record["length"], record["depth"], record["repeat"]))
    assert recipe.to_dict() == record["recipe"]
    assert sweep.builder.build(recipe).sha256 == record["prompt_sha256"]


def test_only_missing_and_failed_cells_run_again(
    tmp_path: Path, chatml: Any, book: Haystack
) -> None:
    sweep = make_sweep(chatml, book, repeats=1)
    calls = 0

    def fails_twice(request: Request, text: str) -> str:
        nonlocal calls
        calls += 1
        if calls in (2, 4):
            raise RuntimeError("out of\nmemory")
        return reads_everything(request, text)

    first, figures = run(sweep, tmp_path, {"none": fails_twice})
    assert len(first.cells) == 6
    assert figures["states"] == {"ok": 4, "error": 2, "not_run": 0}
    assert [failure["error"] for failure in figures["failures"]] == [
        "RuntimeError: out of memory"
    ] * 2
    # An error is no zero.
    assert figures["methods"]["none"]["lengths"]["512"]["score"] == 1.0
    before = (tmp_path / "results.jsonl").read_bytes()
    second, figures = run(sweep, tmp_path, {"none": reads_everything})
    assert second.cells == [first.cells[1], first.cells[3]]
    assert figures["states"] == {"ok": 6, "not_run": 0}
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)
    third, _ = run(sweep, tmp_path, {"none": reads_everything})
    assert third.cells == []


def test_what_is_cut_off_is_scored_and_what_overflows_is_not(
    tmp_path: Path, chatml: Any, book: Haystack
) -> None:
    def too_long(request: Request, text: str) -> str:
        if request.request_length > 512:
            raise ContextOverflowError("512 tokens at most")
        return reads_everything(request, text)[:4]

    sweep = make_sweep(chatml, book, repeats=1)
    _, figures = run(sweep, tmp_path, {"none": too_long}, finish_reason="length")
    assert figures["states"] == {"truncated_output": 3, "overflow": 3, "not_run": 0}
    assert figures["methods"]["none"]["lengths"]["1024"]["score"] is None
    cut = figures["methods"]["none"]["lengths"]["512"]
    assert (cut["n"], cut["k"], cut["score"]) == (3, 0, 0.0)
    table = (tmp_path / "summary.md").read_text()
    assert "| 0/3 (0-56 %), 3 cut off | – +3 overflow |" in table
    assert (
        "Not counted: 3 overflow. Cut off by the token budget, and scored by what they have: 3."
        in table
    )
    assert figures["failures"] == []


def test_a_map_that_tells_nothing_is_called_so(tmp_path: Path, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, repeats=1)
    _, figures = run(sweep, tmp_path / "weak", {"none": reads_only(0)})
    assert figures["controls"]["discriminative"] is False
    assert "shortest length" in figures["controls"]["reasons"][0]
    assert "**Not discriminative**" in (tmp_path / "weak" / "summary.md").read_text()

    expected = {
        sweep.builder.build(sweep.recipe(cell)).sample.expected[0] for cell in sweep.all_cells()
    }
    _, figures = run(sweep, tmp_path / "knows", {"none": lambda *_: " ".join(sorted(expected))})
    assert "without the needle" in figures["controls"]["reasons"][0]


def test_three_samples_average(tmp_path: Path, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, lengths=(512,), depths=(50.0,), repeats=3)
    answers = iter([True, True, False, False])
    _, figures = run(
        sweep,
        tmp_path,
        {"none": lambda *args: reads_everything(*args) if next(answers) else "no"},
    )
    assert figures["methods"]["none"]["cells"]["50"]["512"]["score"] == 0.666667


def test_not_run_is_a_state(tmp_path: Path, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, ("none", "dca"), repeats=1)
    with RunFolder(tmp_path) as folder:
        folder.begin(
            describe_run(
                config=sweep.config,
                settings={},
                schemes=sweep.schemes,
                model={"name": "m"},
                haystack={"id": "h"},
                trained_length=None,
                session={},
            )
        )
        sessions = {m: Scripted(reads_everything, method=m) for m in sweep.schemes}
        sweep.run(sweep.pending({})[:2], sessions, folder.results, Watch())
    figures = summary.write(tmp_path)
    assert figures["states"] == {"ok": 2, "not_run": 10}
    assert figures["methods"]["dca"]["lengths"]["512"]["states"] == {"not_run": 3}
    assert figures["controls"]["discriminative"] is None


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run\.json"):
        summary.load(tmp_path)


def test_order_is_short_first_and_whole_maps_first(chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, ("none", "dca"))
    order = list(cells(sweep.config, ["none", "dca"]))
    assert [cell.length for cell in order] == sorted(cell.length for cell in order)
    assert {cell.repeat for cell in order[:6]} == {0}
    grouped = list(columns(order))
    assert len(grouped) == 8
    assert all(len(column) == 3 for _, column in grouped)
    assert [method for method, _ in grouped[:2]] == ["none", "dca"]


def test_the_plan_counts_what_is_left(chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, ("none", "dca"), repeats=1)
    everything = sweep.all_cells()
    known: dict[str, Any] = {
        "shape": SHAPE,
        "answer_tokens": 32,
        "prefix_sharing": False,
        "texts": "own",
        "bytes_per_value": 2,
        "rate": 1e-9,
        "rate_from": "from a probe",
    }
    made = plan(everything=everything, pending=everything[2:], **known)
    assert (made.cells, made.done, made.to_do, made.prompts) == (12, 2, 10, 6)
    assert made.tokens == 4 * 512 + 6 * 1024
    assert made.kv_bytes == 2 * 2 * 2 * 16 * 1024 * 2
    assert made.seconds == pytest.approx(
        1e-9 * (4 * work(SHAPE, 512, 32) + 6 * work(SHAPE, 1024, 32))
    )
    assert "12 cells: 2 done, 10 to do" in str(made)
    assert made.own_texts_cost is None  # nothing would be shared anyway
    known["prefix_sharing"] = True
    own, shared = (
        plan(everything=everything, pending=everything, **{**known, "texts": texts})
        for texts in ("own", "shared")
    )
    assert own.seconds is not None and shared.seconds is not None
    assert own.own_texts_cost == pytest.approx(own.seconds / shared.seconds)
    assert f"a text each: {own.own_texts_cost:.2f} x the work of --shared-texts" in str(own)
    assert shared.own_texts_cost is None


@pytest.mark.parametrize("length", [4096, 131072])
def test_a_text_each_costs_at_most_1_8_times_of_shared_ones(length: int) -> None:
    """Of the default grid, for layers alone and for attention alone."""
    everything = list(cells(NeedleConfig(lengths=(length,)), ["none"]))
    for shape in (ModelShape(1, 64, 64, 0, 0, 64, 1), ModelShape(1, 0, 0, 64, 1, 64, 1)):
        made = plan(
            **{"everything": everything, "pending": everything, "shape": shape},
            **{"answer_tokens": 0, "prefix_sharing": True, "texts": "own"},
            **{"bytes_per_value": 2, "rate": None, "rate_from": ""},
        )
        assert made.own_texts_cost is not None and 1.3 < made.own_texts_cost < 1.8


def test_the_plan_counts_shared_tokens_once(chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, ("none", "dca"), lengths=(1024,), depths=(0.0, 50.0, 100.0))
    pending = sweep.all_cells()[1:]  # the first column lacks the cell of depth 0
    full, half = work(SHAPE, 1024, 32), work(SHAPE, 1024, 32, 512)
    shared = list(expected_work(pending, SHAPE, 32, True).values())
    assert shared == [full, half, *[full, full, half] * 3]
    assert set(expected_work(pending, SHAPE, 32, False).values()) == {full}


def test_eleven_depths_have_the_published_ceiling() -> None:
    """1.69 on linear work, 1.35 on attention."""
    column = [Cell("none", 1 << 20, 10.0 * step, 0) for step in range(11)]
    for shape, ceiling in (
        (ModelShape(1, 64, 64, 0, 0, 64, 1), 1.69),
        (ModelShape(1, 0, 0, 64, 1, 64, 1), 1.35),
    ):
        with_, without = (sum(expected_work(column, shape, 0, on).values()) for on in (True, False))
        assert without / with_ == pytest.approx(ceiling, abs=0.005)


def test_rates_come_from_cells_that_answered() -> None:
    assert rate_of([], SHAPE, 32) is None
    done = [{"total_s": 2.0, "length": 512, "ttft_s": 1.0}, {"total_s": 9.0, "length": 512}]
    assert rate_of(done, SHAPE, 32) == pytest.approx(2.0 / work(SHAPE, 512, 32))


def test_rates_count_only_what_was_computed() -> None:
    done = [
        {"total_s": work(SHAPE, 512, 32, cached) * 1e-9, "length": 512, "ttft_s": 1.0} | more
        for cached, more in ((0, {}), (0, {"cached_tokens": 0}), (400, {"cached_tokens": 400}))
    ]
    assert rate_of(done, SHAPE, 32) == pytest.approx(1e-9)
    linear, pair = 2 * 2 * SHAPE.layer_parameters, 2 * 2 * 4 * 16
    assert work(SHAPE, 512, 0, 400) == linear * 112 + pair * (512**2 - 400**2)


def test_times_and_sizes_read_well() -> None:
    assert [show_seconds(s) for s in (0.2, 42, 200, 7500)] == [
        "1 s",
        "42 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [show_bytes(b) for b in (512, 5 << 10, 283115520, 12 << 30)] == [
        "512 B",
        "5.0 KiB",
        "270 MiB",
        "12 GiB",
    ]


def test_fakes_know_no_more_than_the_prompt() -> None:
    assert reads_everything(Request([], 1, 1), "12345678 and 1234567!") == " 1234567."
    assert needle_fakes.reads_only(5)(Request([], 1, 6), "1234567") == " Nothing."
