"""`longctx compare`: one file, several models, one report. On simulated models."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_server import reads, serving
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval.runfolder import records
from longctx.report.published import PUBLISHED
from longctx.runs import needle
from longctx.tiny import WEIGHTS

DEFAULTS = "defaults: {lengths: [256, 1K], depths: 11, repeats: 2, methods: none}\n"


@pytest.fixture(autouse=True)
def _no_pictures_of_single_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needle, "draw", lambda *_: [])


def invoke(file: Path, *more: str, errors: bool = True) -> Any:
    return CliRunner().invoke(cli.app, ["compare", str(file), *more], catch_exceptions=errors)


def write(path: Path, text: str) -> Path:
    file = path / "models.yaml"
    file.write_text(f"output: {path / 'out'}\n{text}")
    return file


def test_models_in_one_report_sorted_by_effective_length(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        DEFAULTS + "runs:\n  - model: sim:window=256\n  - {model: 'sim:perfect', name: best}\n",
    )
    done = invoke(file)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("best", "sim-"))]
    assert [row[0] for row in rows[-2:]] == ["best", "sim-window=256"]
    out = tmp_path / "out"
    assert {entry.name for entry in out.iterdir()} == {
        *("best", "sim-window=256", "report.html", "report.csv"),
    }
    page = (out / "report.html").read_text()
    assert "sim:perfect" in page and "sim:window=256" in page
    effective = {
        (row["model"], row["effective_length"])
        for row in csv.DictReader((out / "report.csv").read_text().splitlines())
        if not row["depth"]
    }
    assert effective == {("sim:perfect", "1024"), ("sim:window=256", "256")}
    before = {
        name: (out / name / "results.jsonl").read_bytes() for name in ("best", "sim-window=256")
    }
    assert invoke(file).exit_code == 0
    after = {name: (out / name / "results.jsonl").read_bytes() for name in before}
    assert after == before


def test_tasks_of_an_entry_have_a_folder_each(tmp_path: Path) -> None:
    runs = "runs:\n  - {model: 'sim:perfect', tasks: [niah_single_1, vt], lengths: 512}\n"
    file = write(tmp_path, DEFAULTS + runs)
    done = invoke(file)
    assert done.exit_code == 0, done.output
    rows = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("sim-")}
    assert rows == {"sim-perfect/niah_single_1", "sim-perfect/vt"}
    for task in ("niah_single_1", "vt"):
        record = (tmp_path / "out/sim-perfect" / task / "results.jsonl").read_text().splitlines()[0]
        assert json.loads(record)["task"] == task


def test_a_model_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    runs = "runs:\n  - model: ./nowhere\n  - {model: 'sim:perfect', lengths: 256}\n"
    done = invoke(write(tmp_path, DEFAULTS + runs))
    assert done.exit_code == 3
    assert "error: runs[0]: MODEL ./nowhere: no such directory" in done.stderr
    assert "failed: nowhere" in done.stderr
    assert len(records.read(tmp_path / "out" / "sim-perfect" / "results.jsonl")) == 22
    assert (tmp_path / "out" / "report.html").exists()


def test_endpoints_and_local_models_stand_side_by_side(tmp_path: Path) -> None:
    with serving(lambda number, body: reads(body)) as server:
        runs = (
            f"runs:\n  - {{model: served, base_url: '{server.url}', tokenizer: {WEIGHTS}}}\n"
            "  - {model: embedded, methods: [none, dca]}\n"
        )
        settings = "defaults: {lengths: 256, depths: [0, 100], repeats: 1}\n"
        done = invoke(write(tmp_path, settings + runs))
    assert done.exit_code == 0, done.output
    found = {
        name: list(json.loads((tmp_path / "out" / name / "summary.json").read_text())["methods"])
        for name in ("served", "embedded")
    }
    assert found == {"served": ["unverified"], "embedded": ["none", "dca"]}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = invoke(write(tmp_path, DEFAULTS + "runs: [{model: 'sim:perfect'}]\n"), "--dry-run")
    assert done.exit_code == 0, done.output
    assert "44 cells: 0 done, 44 to do" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_list_of_one_depth_is_no_count(tmp_path: Path) -> None:
    text = "runs: [{model: 'sim:perfect', lengths: [512], depths: [25], repeats: 1}]\n"
    done = invoke(write(tmp_path, text))
    assert done.exit_code == 0, done.output
    run = json.loads((tmp_path / "out" / "sim-perfect" / "run.json").read_text())
    assert run["grid"]["depths"] == [25.0]


BAD = {
    "no yaml": ("runs: [", "no YAML"),
    "a list": ("- a\n", "no YAML|the file: keys and values"),
    "no runs": ("runs: []\n", "runs: a list of at least one entry"),
    "unknown top": ("models: []\n", "models: not known: use defaults, output, published, runs"),
    "unknown key": ("runs: [{model: m, length: 2K}]\n", r"runs\[0\]\.length: .*mean lengths\?"),
    "unknown default": ("defaults: {seeds: 1}\nruns: [{model: m}]\n", r"defaults\.seeds: .*seed\?"),
    "no model": ("runs: [{methods: dca}]\n", r"runs\[0\]\.model: is missing"),
    "not a mapping": ("runs: [sim]\n", r"runs\[0\]: keys and values"),
    "nested": ("runs: [{model: m, lengths: {a: 1}}]\n", r"runs\[0\]\.lengths: a value or a list"),
    "bad length": ("runs: [{model: m, lengths: 2X}]\n", r"runs\[0\]: --lengths 2X: not a length"),
    "bad number": ("runs: [{model: m, repeats: many}]\n", r"runs\[0\]: repeats many: a number"),
    "bad flag": ("runs: [{model: m, exact: 3}]\n", r"runs\[0\]: exact 3: true or false"),
    "flag for value": ("runs: [{model: m, seed: true}]\n", r"runs\[0\]: seed true: a number"),
    "flag for text": ("runs: [{model: m, system: no}]\n", r"runs\[0\]: system false: a text"),
    "half a number": ("runs: [{model: m, repeats: 2.5}]\n", r"runs\[0\]: repeats 2.5: a whole"),
    "endless": ("runs: [{model: m, repeats: .inf}]\n", r"runs\[0\]: repeats inf: a number"),
    "empty": ("runs: [{model: m, needle: }]\n", r"runs\[0\]: needle: is empty: give a value"),
    "no seed": ("runs: [{model: m, seed: null}]\n", r"runs\[0\]: seed: is empty: give a value"),
    "bad name": ("runs: [{model: m, name: ../x}]\n", r"runs\[0\]\.name \.\./x: letters"),
    "twins": ("runs: [{model: a/m}, {model: b/m}]\n", r"runs\[0\]: another entry is called m"),
    "second lacks a file": (
        "runs: [{model: 'sim:perfect'}, {model: m, tasks: qa_1}]\n",
        r"runs\[1\]: --tasks qa_1: asks about documents of yours: give their file with --qa",
    ),
    "code": ("runs: !!python/object/apply:os.system [ls]\n", "no YAML"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_with_the_keys_path(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    with pytest.raises(UserError, match=message):
        invoke(write(tmp_path, text), errors=False)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        invoke(tmp_path / "no.yaml", errors=False)


def test_figures_of_others_stand_below_ours_with_their_source(tmp_path: Path) -> None:
    text = "published: [ruler, needlebench]\n" + DEFAULTS + "runs:\n  - model: sim:perfect\n"
    shown = invoke(write(tmp_path, text)).stdout
    ours, others = shown.split("ruler: figures of others, not measured here")
    assert "sim-perfect" in ours and "Qwen" not in ours
    lines = [" ".join(line.split()) for line in others.splitlines()]
    assert "Qwen2.5-72B-Instruct none 97.7 97.2 97.7 96.5 88.5 67 [2]" in lines
    assert "Qwen2.5-72B-Instruct yarn+dca 97.7 97.2 97.7 96.5 93 88.4 [2]" in lines
    assert "[2] Qwen2.5 Technical Report, arXiv 2412.15115, table 16" in lines
    assert "needlebench: figures of others, not measured here" in lines
    assert "Qwen2-7B-Instruct yarn+dca 87.07 73.64 66.32 60.71 [1]" in lines
    # On the page below ours; in no file of figures: what is there was measured.
    page = (tmp_path / "out" / "report.html").read_text()
    ours, others = page.split("Figures of others, not measured here")
    assert "Qwen" not in ours
    assert "<caption>ruler: figures of others, not measured here</caption>" in others
    assert '<th scope="row" class="name">Qwen2.5-72B-Instruct<td>yarn+dca' in others
    assert "[2] Qwen2.5 Technical Report, arXiv 2412.15115, table 16." in others
    files = list((tmp_path / "out").glob("*.csv"))
    assert files and not any("Qwen" in path.read_text() for path in files)
    bad = write(tmp_path, "published: helmet\n" + DEFAULTS + "runs:\n  - model: sim:perfect\n")
    with pytest.raises(UserError, match="published helmet: not known: use ruler, needlebench"):
        invoke(bad, errors=False)


def test_published_methods_agree_within_the_trained_window() -> None:
    """Both reports say so: up to 32K, yarn+dca is the plain model."""
    for rows in PUBLISHED.values():
        for model in {row.model for row in rows}:
            found = {row.method: row.scores for row in rows if row.model == model}
            for length, score in found.get("yarn+dca", {}).items():
                assert (score == found["none"][length]) == (length <= 32 * 1024)


def test_figures_of_others_below_the_tasks(tmp_path: Path) -> None:
    text = "published: ruler\ndefaults: {lengths: 1K, tasks: 'vt,fwe', samples: 1}\n"
    done = invoke(write(tmp_path, text + "runs:\n  - model: sim:perfect\n"))
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    ours, others = (out / "tasks.md").read_text().split("## ruler: figures of others")
    assert "| vt | 1K |" in ours and "Qwen" not in ours
    assert "| model | method | 4K | 8K | 16K | 32K | 64K | 128K | by |" in others
    row = "| Qwen2.5-72B-Instruct | yarn+dca | 97.7 | 97.2 | 97.7 | 96.5 | 93 | 88.4 | [2] |"
    assert row in others
    assert "[1] RULER's own table" in others and "Other samples, texts and scorers" in others
    for name in ("tasks.csv", "tasks.json", "tasks.tex"):
        assert "Qwen" not in (out / name).read_text()


def test_two_models_side_by_side_by_task(tmp_path: Path) -> None:
    text = "defaults: {lengths: 1K, tasks: 'vt,fwe', samples: 3}\nruns:\n  - model: sim:perfect\n"
    done = invoke(write(tmp_path, text + "  - model: sim:flaky=1\n"))
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    table = (out / "tasks.md").read_text().splitlines()
    assert table[0] == "| task | length | sim:perfect · sim | sim:flaky=1 · sim |"
    assert table[2].startswith("| vt | 1K | 100.0 (44-100) n=3 | 0.0 (0-56) n=3 |")
    assert "Tasks side by side" in (out / "report.html").read_text()
    assert r"vt & 1K & 100.0 (44-100) n=3 & 0.0 (0-56) n=3 \\" in (out / "tasks.tex").read_text()
    names = [f"{name}/{task}" for name in ("sim-perfect", "sim-flaky=1") for task in ("vt", "fwe")]
    folders = [str(out / name) for name in names]
    again = CliRunner().invoke(cli.app, ["report", *folders, "--output", str(tmp_path / "a.md")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "a.md").read_text() == (out / "tasks.md").read_text()
    words = ["report", *folders, "--table", "tasks", "--output", str(tmp_path / "a.csv")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert (tmp_path / "a.csv").read_text() == (out / "tasks.csv").read_text()
    for more, message in (
        (["--format", "html", "--table", "tasks"], "--table tasks: html has no table to choose"),
        (["--format", "md", "--table", "cells"], "--table cells: md holds tasks"),
        (["--table", "rows"], "--table rows: not known: use cells or tasks"),
    ):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(cli.app, ["report", *folders, *more], catch_exceptions=False)
