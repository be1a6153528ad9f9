"""Several tasks in one command, presets, and what their flags refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval import tasks
from longctx.eval.needle.presets import PRESETS
from longctx.eval.needle.summary import load
from longctx.eval.runfolder import records
from longctx.options.declare import options_of
from longctx.options.needle import NeedleOptions
from longctx.runs import settle
from longctx.runs.settle import settle_needle

GRID = ("--methods", "none", "--lengths", "1K,2K", "--depths", "0,100", "--repeats", "1")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, prog_name="longctx")


def refused(message: str, *arguments: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)


def test_tasks_run_side_by_side(tiny_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    names = ["niah_multikey_2", "vt", "latent"]
    arguments = ["needle", str(tiny_model), *GRID, "--tasks", ",".join(names)]
    arguments += ["--output", str(run), "--language", "en"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["tasks"] == names
    assert {file.name for file in run.iterdir()} == {
        *names,
        *("tasks.md", "tasks.csv", "tasks.tex", "tasks.json"),
        "report.html",
    }
    found = {name: records.read(run / name / "results.jsonl") for name in names}
    assert [len(found[name]) for name in names] == [4, 2, 4]
    for name in names:
        assert {record["task"] for record in found[name]} == {name}
        assert {record["recipe"]["task"] for record in found[name]} == {name}
        (control,) = records.read(run / name / "controls.jsonl")
        assert control["status"] == "miss"
        row = json.loads(invoke("reconstruct", str(run / name), "--row", "1", "--json").stdout)
        assert row["checked"] is True
        again = json.loads(invoke("rescore", str(run / name), "--json").stdout)
        assert (again["changed"], again["answers"]) == (0, len(found[name]) + 1)
    assert [record["depth"] for record in found["vt"]] == [None, None]
    assert load(run / "vt").task == "vt"
    assert "Task vt" in (run / "vt" / "summary.md").read_text()
    assert "all,1," in (run / "vt" / "summary.csv").read_text()
    before = (run / "vt" / "results.jsonl").read_bytes()
    assert invoke(*arguments).exit_code == 0
    assert (run / "vt" / "results.jsonl").read_bytes() == before
    # Another task does not go on in a folder that is not its own.
    one = ["needle", str(tiny_model), *GRID, "--tasks", "fwe", "--output", str(run / "vt")]
    refused("the run in it has", *one)


def test_bad_arguments_are_told_before_anything_runs(tiny_model: Path, tmp_path: Path) -> None:
    command = ("needle", str(tiny_model), *GRID, "--output", str(tmp_path / "run"))
    refused("--preset fast: not known: use smoke, quick", *command, "--preset", "fast")
    refused("--tasks needel: not known: did you mean needle", *command, "--tasks", "vt,needel")
    refused("--language es: vt is in en", *command, "--tasks", "needle,vt", "--language", "es")
    refused("--language ko: text is generated in en, zh, .* only", *command, "--language", "ko")
    refused("--tasks qa_1: asks about documents of yours.*--qa", *command, "--tasks", "qa_1")
    refused("--qa no.json: cannot be read", *command, "--tasks", "qa_1", "--qa", "no.json")
    for flag, value, task in (
        ("--hops", "3", "distractors"),
        ("--distractors", "3", "needle"),
        ("--needle", "passkey", "vt,cwe"),
        ("--qa", "no.json", "vt"),
    ):
        words = (*command, "--tasks", task, flag, value)
        refused(f"{flag} {value}: {task.replace(',', ', ')} does not read it: leave it out", *words)
    book = ("--haystack", "no.txt", "--qa", "no.json", "--tasks", "qa_1")
    refused("--haystack no.txt: qa_1 does not read it", *command, *book)
    # Whichever comes first: hours of one task must not go before another's missing file.
    refused("--tasks qa_1: asks about documents of yours", *command, "--tasks", "vt,qa_1")
    refused("--exact: vt is made of whole", *command, "--exact", "--tasks", "needle,vt")
    refused("--hops 0: must be", *command, "--tasks", "needle,uuid_chain", "--hops", "0")
    too_many = ("--tasks", "needle,distractors", "--distractors", "3000")
    refused("--lengths 2048: template, needles, question", *command, *too_many)
    assert not (tmp_path / "run").exists()


TASK_OPTIONS = sorted({name for task in tasks.TASKS.values() for name, _ in task.about.options})


@pytest.mark.parametrize("name", TASK_OPTIONS)
def test_the_setting_of_a_task_has_a_flag(name: str) -> None:
    flags = {option.name: option.default for option in options_of(NeedleOptions)}
    assert name in flags, f"{name} is in About.options of a task: NeedleOptions needs a field"
    assert settle_needle(NeedleOptions()).task_options[name] is None, "the default is the task's"


def test_the_setting_of_a_new_task_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that is declared and not handed on would be taken, and change nothing."""
    task = tasks.TASKS["vt"]
    about = replace(task.about, options=(("limit", None),))
    new = SimpleNamespace(about=about, wording=task.wording, sample=task.sample)
    monkeypatch.setattr(tasks, "TASKS", {**tasks.TASKS, "vt": new})
    monkeypatch.setattr(settle, "TASKS", tasks.TASKS)
    said = settle_needle(NeedleOptions(tasks=("vt",), limit=7))
    assert said.task_options["limit"] == 7
    assert tasks.options_of("vt", said.task_options) == {"limit": 7}


def test_another_language_with_a_text_of_ones_own(tiny_model: Path, tmp_path: Path) -> None:
    """Thai: its text has no sentence marks, and its answers no spaces before and after a number."""
    phrases = ("เรือเก่าจอดอยู่ริมแม่น้ำ", "ฝนตกหนักทั้งคืน", "เด็กๆ เดินกลับบ้านช้าๆ", "ไม่มีใครจำชื่อสะพานได้")
    text = tmp_path / "thai.txt"
    text.write_text(" ".join(phrases[n * n % 4] for n in range(400)), encoding="utf-8")
    run = tmp_path / "run"
    arguments = ("--language", "th", "--haystack", str(text), "--output", str(run))
    result = invoke("needle", str(tiny_model), *GRID, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = records.read(run / "results.jsonl")
    assert [record["language"] for record in found] == ["th"] * 4
    assert all(record["slack"] < 120 for record in found)
    row = json.loads(invoke("reconstruct", str(run), "--row", "2", "--json").stdout)
    assert row["checked"] is True
    again = json.loads(invoke("rescore", str(run), "--json").stdout)
    assert (again["changed"], again["answers"]) == (0, 5)


def test_presets_are_frozen() -> None:
    """New numbers under an old name would make results differ that share it."""
    figures = {
        name: (
            *(len(one.tasks), one.lengths[0], one.lengths[-1], len(one.depths)),
            one.samples or one.repeats,
        )
        for name, one in PRESETS.items()
    }
    assert figures == {
        "smoke": (1, 1024, 2048, 3, 1),
        "quick": (1, 2048, 16384, 5, 2),
        "standard": (1, 4096, 65536, 11, 5),
        "full": (5, 4096, 131072, 11, 5),
        "qwen2-fig1": (1, 8192, 131072, 11, 1),
        "ruler-13": (13, 4096, 131072, 5, 25),
        "ruler-11": (11, 4096, 131072, 5, 25),
    }


def test_flags_win_over_presets(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ("--preset", "smoke", "--lengths", "1K", "--methods", "none", "--dry-run", "--json")
    output = ("--output", str(tmp_path / "run"))
    told = json.loads(
        invoke("needle", str(tiny_model), *arguments, *output).stdout.splitlines()[-1]
    )
    assert told["grid"]["lengths"] == [1024]
    assert told["grid"]["depths"] == [0.0, 50.0, 100.0]
    assert told["sessions"][0]["preset"] == "smoke"


def test_samples_are_as_many_of_every_task(tmp_path: Path) -> None:
    """Each has a text of its own; where depth counts they stand at the depths in turn."""
    run = tmp_path / "run"
    command = ("needle", "sim:perfect", "--tasks", "niah_single_2,vt", "--lengths", "1K")
    command += ("--depths", "0,50,100", "--output", str(run))
    assert invoke(*command, "--samples", "4").exit_code == 0
    single, traced = (
        records.read(run / name / "results.jsonl") for name in ("niah_single_2", "vt")
    )
    assert sorted((one["repeat"], one["depth"]) for one in single) == [
        *((0, 0.0), (1, 50.0), (2, 100.0), (3, 0.0)),
    ]
    assert [one["depth"] for one in traced] == [None] * 4
    assert len({one["prompt_sha256"] for one in (*single, *traced)}) == 8
    told = json.loads((run / "niah_single_2" / "summary.json").read_text())
    assert told["methods"]["sim"]["lengths"]["1024"]["n"] == 4
    assert told["states"] == {"ok": 4, "not_run": 0}
    summary = (run / "niah_single_2" / "summary.md").read_text()
    assert "4 sample(s) a length, at one depth each" in summary
    # More of them go on in the same folders; as repeats they would be another design.
    assert invoke(*command, "--samples", "5").exit_code == 0
    assert len(records.read(run / "vt" / "results.jsonl")) == 5
    refused(r"has spread \[0\.0, 50\.0, 100\.0\], this one None", *command, "--repeats", "5")


def test_samples_are_no_repeats() -> None:
    command = ("needle", "sim:perfect", "--lengths", "1K", "--samples")
    refused("--samples 0: must be at least 1", *command, "0")
    refused("--samples 5: --repeats 2 is another way", *command, "5", "--repeats", "2")
    refused("--samples 5: --adaptive decides how many", *command, "5", "--adaptive")
    ruler = settle_needle(NeedleOptions("sim:perfect", preset="ruler-11"))
    assert (ruler.config.repeats, ruler.config.spread, len(ruler.tasks)) == (25, True, 11)
    fewer = settle_needle(NeedleOptions("sim:perfect", preset="ruler-13", samples=500))
    assert (fewer.config.repeats, fewer.config.spread, len(fewer.tasks)) == (500, True, 13)
    grid = settle_needle(NeedleOptions("sim:perfect", preset="ruler-11", repeats=3))
    assert (grid.config.repeats, grid.config.spread) == (3, False)


def test_a_task_leaves_out_lengths_that_are_too_short_for_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = (
        "needle",
        "sim:perfect",
        "--lengths",
        "512,1K",
        "--samples",
        "1",
        "--output",
        str(run),
    )
    result = invoke(*command, "--tasks", "cwe,vt")
    assert result.exit_code == 0
    assert "left out: 512, too short for cwe" in result.stderr
    assert [one["length"] for one in records.read(run / "cwe" / "results.jsonl")] == [1024]
    assert sorted(one["length"] for one in records.read(run / "vt" / "results.jsonl")) == [
        512,
        1024,
    ]
    assert (
        "| **mean** | 512 | 100.0 (21-100) 1 of 13, not RULER's score |"
        in (run / "tasks.md").read_text()
    )
    refused("--lengths 512: the shortest|--lengths 512: template", *command, "--tasks", "cwe")


def test_a_scorer_is_the_folders(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("needle", "sim:perfect", "--lengths", "1K", "--depths", "50,", "--repeats", "1")
    command += ("--output", str(run))
    assert invoke(*command).exit_code == 0
    (record,) = records.read(run / "results.jsonl")
    assert record["scores"] == {"whole": 1.0, "ruler": 1.0}
    glued = record | {"response": f"it is x{record['expected'][0]}", "scores": None}
    (run / "results.jsonl").write_text(json.dumps(glued) + "\n")
    refused("--scorer best: use whole or ruler", *command, "--scorer", "best")
    refused("--scorer best: use whole or ruler", "rescore", str(run), "--scorer", "best")
    assert "1 ok -> miss" in invoke("rescore", str(run)).stdout
    assert "1 miss -> ok" in invoke("rescore", str(run), "--scorer", "ruler").stdout
    refused("the run in it has scorer 'ruler', this one 'whole'", *command)
    assert invoke(*command, "--scorer", "ruler").exit_code == 0
    (last,) = load(run).records
    assert (last["score"], last["scores"]) == (1.0, {"whole": 0.0, "ruler": 1.0})


def test_a_length_that_one_sample_is_too_long_for_is_left_out(tmp_path: Path) -> None:
    """The words of cwe's example are drawn: the first sample fits here, a later one does not."""
    run = tmp_path / "run"
    command = (
        "needle",
        "sim:perfect",
        "--lengths",
        "1K,2K",
        "--samples",
        "20",
        "--output",
        str(run),
    )
    told = invoke(*command, "--tasks", "cwe,vt", "--dry-run").stderr
    assert "left out: 1K, too short for cwe" in told
    refused("--lengths 1024: the shortest prompt of cwe takes", *command, "--tasks", "cwe")
    few = (*command[:5], "1", *command[6:])
    assert "left out" not in invoke(*few, "--tasks", "cwe,vt", "--dry-run").stderr


def test_a_dry_run_says_what_it_would_take_on_a_gpu(tiny_model: Path, tmp_path: Path) -> None:
    command = ("needle", str(tiny_model), "--methods", "none", "--lengths", "1K", "--samples", "2")
    command += ("--output", str(tmp_path / "run"))
    told = invoke(*command, "--tasks", "vt,fwe", "--dry-run", "--gpu", "h100")
    assert told.exit_code == 0, told.output
    assert told.stderr.count("  on one H100 about 1 s: ") == 2
    assert "all 2 tasks on one H100: about 1 s, not measured" in told.stderr
    one = json.loads(invoke(*command, "--dry-run", "--gpu", "L4", "--json").stdout)["gpu"]
    assert (one["gpu"]["name"], one["fits"]) == ("L4", True)
    refused("--gpu H100: an estimate: add --dry-run", *command, "--gpu", "H100")
    refused("--gpu H1: not known: use A100", *command, "--gpu", "H1", "--dry-run")
    simulated = ("needle", "sim:perfect", "--lengths", "1K", "--dry-run", "--gpu", "H100")
    refused("--gpu H100: MODEL sim:perfect is simulated", *simulated)
