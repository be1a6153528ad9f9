"""Simulated models through the whole command: the diagonal, effective lengths, adaptive repeats."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval.needle import summary
from longctx.eval.runfolder import records
from longctx.plots import heatmap
from longctx.plots.style import Style
from longctx.runs import needle

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (256, 512, 1024, 2048)
GRID = ("--lengths", ",".join(map(str, LENGTHS)))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than a simulated model, and have tests of their own."""
    monkeypatch.setattr(needle, "draw", lambda *_: [])


def run(model: str, output: Path, *more: str) -> dict[str, Any]:
    words = ["needle", model, *GRID, "--output", str(output), "--json", *more]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def asked(output: Path) -> list[tuple[int, float, int]]:
    found = records.read(output / "results.jsonl")
    return [(one["length"], one["depth"], one["repeat"]) for one in found]


@pytest.mark.parametrize("window", [512, 600])
def test_a_window_is_the_diagonal_exactly(window: int, tmp_path: Path) -> None:
    told = run(f"sim:window={window}", tmp_path, "--depths", "n=41", "--repeats", "1")
    results = summary.load(tmp_path)
    for record in results.records:
        frontier = 100 * (1 - window / record["length"])
        assert (record["status"] == "ok") == (record["depth"] >= frontier)
    # The longest tested length that lies within the window.
    assert told["methods"]["sim"]["effective_length"] == 512
    effective = told["methods"]["sim"]["effective"]
    assert (effective["last_pass"], effective["first_fail"]) == (512, 1024)
    assert told["controls"]["closed_book"] == 0
    assert told["trained_length"] == window
    # In the picture the last row that was missed lies above the dashed curve, the next one below.
    axes = heatmap.figure_of([results], Style()).axes[0]
    assert "a simulated model" in {text.get_text() for text in axes.figure.findobj(Text)}  # type: ignore[union-attr]
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    xs, ys = np.asarray(dashed.get_xdata()), np.asarray(dashed.get_ydata())
    for x, length in enumerate(LENGTHS):
        if length > window:
            missed = sum(results.tally("sim", length, depth).total == 0 for depth in results.depths)
            (level,) = set(ys[(xs == x - 0.5) | (xs == x + 0.5)]) & set(ys[xs == x + 0.5][:1])
            assert level == missed - 0.5


def test_the_others_do_what_they_say(tmp_path: Path) -> None:
    perfect = run("sim:perfect", tmp_path / "perfect")["methods"]["sim"]
    assert (perfect["effective_length"], perfect["effective"]["at_least"]) == (2048, True)
    middle = ("--depths", "0,40,50,60,100", "--repeats", "4")
    run("sim:lost-middle", tmp_path / "middle", *middle)
    lost = summary.load(tmp_path / "middle")
    score = {
        (length, depth): lost.tally("sim", length, depth).score
        for length in LENGTHS
        for depth in (0.0, 40.0, 50.0, 60.0, 100.0)
    }
    assert {score[length, depth] for length in LENGTHS for depth in (0.0, 100.0)} == {1.0}
    assert {score[1024, depth] for depth in (40.0, 50.0, 60.0)} == {1.0}
    assert sum(score[2048, depth] or 0 for depth in (40.0, 50.0, 60.0)) < 2.5
    shares = {}
    few = ("--lengths", "512,1K", "--depths", "21", "--repeats", "3")
    for model in ("sim:flaky", "sim:flaky=0.5", "sim:flaky=0"):
        run(model, tmp_path / model, *few)
        tally = summary.load(tmp_path / model).tally("sim")
        shares[model] = (tally.score or 0, tally.n)
    assert shares["sim:flaky=0"] == (1.0, 126)
    assert shares["sim:flaky"][0] == pytest.approx(0.8, abs=0.1)
    assert shares["sim:flaky=0.5"][0] == pytest.approx(0.5, abs=0.12)
    run("sim:flaky", tmp_path / "again", *few)
    first, second = (records.read(tmp_path / n / "results.jsonl") for n in ("sim:flaky", "again"))
    assert [r["status"] for r in first] == [r["status"] for r in second]


BAD = {
    "sim:": "MODEL sim:: no such simulated model: use one of sim:perfect, sim:window=N",
    "sim:best": "no such simulated model",
    "sim:window": "no such simulated model",
    "sim:window=1K,2K": "no such simulated model",
    "sim:window=x": "MODEL sim:window=x: window x: not a length",
    "sim:flaky=2": "no such simulated model",
    "sim:perfect=1": "no such simulated model",
}


@pytest.mark.parametrize("model", BAD)
def test_unknown_ones_are_told_which_there_are(model: str) -> None:
    with pytest.raises(UserError, match=BAD[model]):
        CliRunner().invoke(cli.app, ["needle", model], catch_exceptions=False)


def test_they_have_one_arm() -> None:
    words = ["needle", "sim:perfect", "--methods", "none,dca"]
    with pytest.raises(UserError, match="--methods none,dca: MODEL sim:perfect is simulated"):
        CliRunner().invoke(cli.app, words, catch_exceptions=False)


# Adaptive repeats


@pytest.mark.parametrize("model", ["sim:window=512", "sim:perfect", "sim:flaky=0.8"])
def test_adaptive_repeats_cost_less_for_the_same_effective_length(
    model: str, tmp_path: Path
) -> None:
    grid = ("--lengths", "256,512,1K", "--repeats", "6")
    fixed = run(model, tmp_path / "fixed", *grid)
    told = run(model, tmp_path / "adaptive", "--adaptive", *grid)
    lengths = [one["methods"]["sim"]["effective_length"] for one in (fixed, told)]
    assert lengths[0] == lengths[1]
    assert len(asked(tmp_path / "adaptive")) <= 0.5 * len(asked(tmp_path / "fixed"))
    assert told["states"].get("not_run") == 0
    rule = told["stopping"]
    assert (rule["most_repeats"], rule["threshold"], rule["budget_minutes"]) == (6, 0.85, None)
    run_json = json.loads((tmp_path / "adaptive" / "run.json").read_text())
    assert run_json["stopping"] == rule
    assert f"Stopping rule: {rule['rule']}" in (tmp_path / "adaptive" / "summary.md").read_text()
    assert fixed["stopping"] is None


def test_repeats_go_to_the_length_in_doubt(tmp_path: Path) -> None:
    run("sim:window=1000", tmp_path, "--adaptive", "--depths", "50,90,95,97,99,100")
    counts = dict.fromkeys(LENGTHS, 0)
    for length, *_ in asked(tmp_path):
        counts[length] += 1
    # Six times six samples are the first to be 33; at 2K two of six depths lie in the dark.
    assert counts[256] == counts[512] == 36
    assert counts[2048] > 36


def test_adaptive_runs_go_on_in_the_same_order(tmp_path: Path) -> None:
    """Interrupted after any number of cells, the rest is what would have been asked."""
    words = ("--lengths", "256,512,1K", "--adaptive", "--repeats", "4")
    run("sim:flaky=0.2", tmp_path / "whole", *words)
    whole = asked(tmp_path / "whole")
    lines = (tmp_path / "whole" / "results.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (3, 34):
        part = tmp_path / str(kept)
        run("sim:flaky=0.2", part, *words, "--budget-minutes", "1e-9")
        path = part / "results.jsonl"
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:40])  # as a kill leaves it
        run("sim:flaky=0.2", part, *words)
        assert asked(part)[:kept] == whole[:kept]
        assert sorted(asked(part)) == sorted(whole)


# A second look at close lengths


def miss(output: Path, places: set[tuple[int, int]]) -> None:
    """Make misses of the cells at these (length, place among its cells)."""
    path = output / "results.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    counts = dict.fromkeys(LENGTHS, 0)
    for record in found:
        place = (record["length"], counts[record["length"]])
        counts[record["length"]] += 1
        if place in places:
            record |= {"status": "miss", "score": 0.0, "scores": {"whole": 0.0, "ruler": 0.0}}
    path.write_text("".join(json.dumps(record) + "\n" for record in found), encoding="utf-8")


TWO = ("--lengths", "256,512")


def test_a_close_length_is_looked_at_again(tmp_path: Path) -> None:
    words = ["needle", "sim:perfect", *TWO, "--output", str(tmp_path)]
    told = run("sim:perfect", tmp_path, *TWO)
    assert told["states"] == {"ok": 44, "not_run": 0}
    assert told["methods"]["sim"]["effective_length"] == 512
    miss(tmp_path, {(512, 4)})
    dry = CliRunner().invoke(cli.app, [*words, "--dry-run"])
    assert "77 cells, up to 110 if a length is close: 44 done, 33 to do" in dry.stderr
    assert "at each length at which one misses 1 or 2 of 22" in dry.stderr
    done = CliRunner().invoke(cli.app, words)
    assert "33/33" in done.stderr, done.stderr
    assert "512 " in done.stdout and "54/55" in done.stdout

    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["methods"]["sim"]["effective_length"] == 512
    assert told["states"]["not_run"] == 0
    rule = json.loads((tmp_path / "run.json").read_text())["stopping"]
    assert rule == told["stopping"]
    assert (rule["first_repeats"], rule["most_repeats"], rule["threshold"]) == (2, 5, 0.85)
    page = (tmp_path / "summary.md").read_text()
    assert "2 repeats, 5 at the close length 512" in page
    assert "and of 97.5 % where a close length was looked at again" in page
    assert f"Stopping rule: {rule['rule']}" in page

    # Killed in the middle of its second look: what it lacks is known, and asked.
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:50]))
    assert summary.write(tmp_path)["states"]["not_run"] == 27
    # Another number of repeats, named by the user, does not change what it is judged by.
    told = run("sim:perfect", tmp_path, *TWO, "--repeats", "5")
    assert told["stopping"]["first_repeats"] == 2
    assert [one["n"] for one in told["methods"]["sim"]["lengths"].values()] == [55, 55]


def test_more_repeats_than_a_first_look_are_not_looked_at_again(tmp_path: Path) -> None:
    run("sim:perfect", tmp_path, "--lengths", "256", "--repeats", "3")
    miss(tmp_path, {(256, 0)})
    told = run("sim:perfect", tmp_path, "--lengths", "256")
    assert told["stopping"] is None
    assert told["methods"]["sim"]["lengths"]["256"]["n"] == 33


def test_a_run_goes_on_in_the_same_session(tmp_path: Path) -> None:
    """A model that misses now and then is asked twice without a second command."""
    told = run("sim:clustered=0.95,0", tmp_path, *TWO)
    assert sorted(one["n"] for one in told["methods"]["sim"]["lengths"].values()) == [22, 55]
    done = json.loads((tmp_path / "run.json").read_text())
    assert len(done["sessions"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--no-second-look",),
        ("--repeats", "2"),
        ("--adaptive", "--repeats", "2"),
        ("--samples", "22"),
        ("--shared-texts",),
        ("--limit", "500"),
        ("--depths", "5"),  # ten samples, which cannot pass anyway
        ("--preset", "quick"),
        ("--tasks", "vt"),  # no depths
    ],
)
def test_whoever_says_how_many_gets_no_second_look(words: tuple[str, ...], tmp_path: Path) -> None:
    command = ["needle", "sim:perfect", "--lengths", "512", "--output", str(tmp_path), "--json"]
    done = CliRunner().invoke(cli.app, [*command, "--dry-run", *words])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert "first_repeats" not in told.get("stopping", {})
    assert told["plan"]["most_cells"] is None
    assert "if a length is close" not in done.stderr


def test_a_budget_ends_a_run_that_goes_on(tmp_path: Path) -> None:
    told = run("sim:perfect", tmp_path, "--adaptive", "--budget-minutes", "1e-9")
    assert told["states"]["not_run"] == 44
    assert told["stopping"]["budget_minutes"] == 1e-9
    assert "or after 1e-09 minutes" in told["stopping"]["rule"]
    assert told["controls"]["closed_book"] is None
    told = run("sim:perfect", tmp_path, "--adaptive", "--budget-minutes", "5")
    assert told["states"]["not_run"] == 0
    assert told["methods"]["sim"]["effective_length"] == 2048


def test_a_budget_is_for_all_tasks_together(tmp_path: Path, monkeypatch: Any) -> None:
    """Half an hour for each of thirteen tasks would be a night."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 10.0  # seconds, at every look
        return now

    monkeypatch.setattr("longctx.runs.needle.time.monotonic", clock)
    words = ["needle", "sim:perfect", "--lengths", "512", "--depths", "3", "--repeats", "2"]
    words += ["--tasks", "needle,distractors", "--budget-minutes", "1", "--output", str(tmp_path)]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    counts = [
        (tmp_path / task / "results.jsonl").read_bytes().count(b"\n")
        for task in ("needle", "distractors")
    ]
    assert counts == [6, 0] or (sum(counts) <= 6 and counts[1] == 0)


def test_a_control_that_a_limit_left_out_is_made_up_for(tmp_path: Path) -> None:
    words = ("--lengths", "512", "--depths", "1", "--repeats", "2")
    told = run("sim:perfect", tmp_path, *words, "--limit", "2")
    assert told["controls"] == {
        **{"closed_book": None, "shortest": 1.0, "discriminative": None, "reasons": []}
    }
    told = run("sim:perfect", tmp_path, *words)
    assert told["controls"]["discriminative"] is True
    assert len(records.read(tmp_path / "controls.jsonl")) == 1
    run("sim:perfect", tmp_path, *words)
    assert len(records.read(tmp_path / "controls.jsonl")) == 1


def test_short_lengths_of_a_long_run_go_on_in_its_folder(tmp_path: Path) -> None:
    """Beyond 113K tokens the generated text is another, longer one."""
    words = ("--depths", "1", "--repeats", "1")
    run("sim:perfect", tmp_path, "--lengths", "512,120K", *words)
    told = run("sim:perfect", tmp_path, "--lengths", "512", *words)
    assert told["states"] == {"ok": 2, "not_run": 0}
    assert len(records.read(tmp_path / "results.jsonl")) == 2


def test_a_killed_sweep_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    words = ["needle", "sim:perfect", *GRID, "--repeats", "200", "--output", str(tmp_path)]
    path = tmp_path / "results.jsonl"
    started = subprocess.Popen(
        [sys.executable, "-m", "longctx", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    before = path.read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    run("sim:perfect", tmp_path, "--repeats", "1")
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--budget-minutes", "0"), "--budget-minutes 0: must be above 0"),
        (("--budget-minutes", "inf"), "--budget-minutes inf: must be above 0, or left out"),
        (("--lengths", "9" * 400), "not a length"),
        (("--depths", "9" * 5000), "one number is a count from 1 to 1001"),
        (("--adaptive", "--limit", "3"), "--limit 3: --adaptive ends by its own rule"),
    ],
)
def test_bad_budgets(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli.app, ["needle", "sim:perfect", *flags], catch_exceptions=False)


def test_a_run_that_filled_the_disk_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = os.write, 0

    def fills_up(file: int, data: Any) -> int:
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    command = ["needle", "sim:perfect", "--lengths", "512", "--depths", "3", "--repeats", "2"]
    command += ["--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["longctx", *command])
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", fills_up)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert stopped.value.code == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"error: {tmp_path / 'run'}: the disk is full (No space left on device): free some space, "
        "and the same command goes on from here"
    )
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    assert before.count(b"\n") == 4
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    after = (tmp_path / "run" / "results.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 6
