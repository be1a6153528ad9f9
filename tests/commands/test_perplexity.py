"""`longctx perplexity` as a person meets it: files, resume, dry run, bad input, and the picture."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perplexity_fakes import LENGTHS, METHODS, done, invoke
from typer.testing import CliRunner

from longctx import cli
from longctx.eval.perplexity import summary as perplexity_summary
from longctx.eval.runfolder import records
from longctx.eval.runfolder.folder import LockedFolder
from longctx.models import source
from longctx.models.served import ServedSession
from longctx.plots import perplexity as picture


@pytest.fixture
def command(perplexity_command: list[str]) -> list[str]:
    return perplexity_command


def test_a_run_leaves_everything_it_promises(command: list[str], tmp_path: Path) -> None:
    result = invoke(*command)
    assert result.exit_code == 0
    run = tmp_path / "run"
    assert {file.name for file in run.iterdir()} == {
        *("run.json", "perplexity.jsonl", "lock", "perplexity.json", "perplexity.csv"),
        *("perplexity.md", "perplexity.png", "perplexity.svg"),
    }
    summary = json.loads((run / "perplexity.json").read_text())
    with (run / "perplexity.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["method"], row["length"]) for row in rows] == [
        (method, str(length)) for method in METHODS for length in LENGTHS
    ]
    for row in rows:
        figure = summary["methods"][row["method"]]["lengths"][row["length"]]
        assert float(row["perplexity"]) == figure["perplexity"]
    page = (run / "perplexity.md").read_text()
    for text in (page, result.stdout):
        assert "tokens 2 to L of each document. 3 document(s) of 640 tokens" in text
        assert "1 shorter texts left out" in text
        assert "No beginning-of-sequence token" in text
    about = json.loads((run / "run.json").read_text())
    assert about["sessions"][0]["arms"]["dca"]["proof"]["verified"] is True
    assert about["by_length"] == ["yarn+dca"]
    assert [d["id"] for d in about["text"]["documents"]] == ["0.txt", "1.txt", "2.txt"]
    assert "a pass for every length" in result.stderr


def test_interrupted_and_resumed_is_the_same(command: list[str], tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert done(*command, "--limit", "5")["states"] == {"ok": 5, "not_run": 7}
    file = run / "perplexity.jsonl"
    kept = file.read_bytes()
    assert kept.count(b"\n") == 5
    file.write_bytes(kept + b'{"schema": 1, "key": "torn')
    first = done(*command)
    assert file.read_bytes().startswith(kept)
    assert file.read_bytes().count(b"\n") == 12
    command[command.index(str(run))] = str(whole)
    second = done(*command)
    assert first | {"output": ""} == second | {"output": ""}
    losses = [
        {r["key"]: r["nll"] for r in records.read(folder / file.name, records.PERPLEXITY)}
        for folder in (run, whole)
    ]
    assert losses[0] == losses[1]


def test_control_c_is_code_130_and_resumable(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def interrupted(self: Any, ids: Any, *, request_length: int) -> Any:
        calls.append(len(ids))
        if len(calls) == 7:  # in the second document
            raise KeyboardInterrupt
        return own(self, ids, request_length=request_length)

    own = ServedSession.logprobs
    monkeypatch.setattr(ServedSession, "logprobs", interrupted)
    result = invoke(*command)
    assert result.exit_code == 130
    assert "interrupted, 6 passes left: the same command goes on from here" in result.stderr
    page = (tmp_path / "run/perplexity.md").read_text()
    assert "2 of 3 documents" in page and "1 of 3 documents" in page
    assert "Not counted: 6 pass(es) not run." in page
    monkeypatch.undo()
    assert done(*command)["states"] == {"ok": 12}


def test_a_second_writer_is_refused(command: list[str], tmp_path: Path) -> None:
    with LockedFolder(tmp_path / "run"), pytest.raises(cli.UserError, match=r"pid \d+ on"):
        CliRunner().invoke(cli.app, command, catch_exceptions=False)


def test_a_finished_run_loads_no_weights(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(*command)

    def no_weights(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(source, "load_model", no_weights)
    assert done(*command) == first


def test_failed_passes_are_code_3_and_no_figure(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, ids: Any, *, request_length: int) -> Any:
        if self.method == "dca":
            raise MemoryError("no room")
        return own(self, ids, request_length=request_length)

    own = ServedSession.logprobs
    monkeypatch.setattr(ServedSession, "logprobs", fail)
    result = invoke(*command, "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["states"] == {"ok": 9, "error": 3}
    assert told["methods"]["dca"]["lengths"] == {"256": None, "640": None}
    assert told["failures"][0]["error"] == "MemoryError: no room"
    assert "Not counted: 3 pass(es) failed." in (tmp_path / "run/perplexity.md").read_text()
    monkeypatch.undo()
    assert done(*command)["states"] == {"ok": 12}


def test_what_failed_in_one_view_is_no_failure_of_another(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, ids: Any, *, request_length: int) -> Any:
        if len(ids) < 640:
            raise MemoryError("no room")
        return own(self, ids, request_length=request_length)

    own = ServedSession.logprobs
    command[command.index(",".join(METHODS))] = "none,dca"
    monkeypatch.setattr(ServedSession, "logprobs", fail)
    result = invoke(*command, "--metric", "window", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout.splitlines()[-1])["states"] == {"error": 6, "ok": 6}
    told = done(*command)
    assert (told["failures"], told["states"]) == ([], {"ok": 6})


def test_a_loss_that_is_no_number_is_a_failure(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, ids: Any, *, request_length: int) -> Any:
        return np.full(len(ids) - 1, np.nan)

    monkeypatch.setattr(ServedSession, "logprobs", broken)
    result = invoke(*command, "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["failures"][0]["error"] == "ArithmeticError: a loss in tokens 1-640 is no number"


def test_a_dry_run_loads_no_weights_and_writes_nothing(
    command: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (copy / "model.safetensors").write_bytes(b"no weights")
    command[1] = str(copy)
    plan = done(*command, "--dry-run")["plan"]
    assert (plan["passes"], plan["to_do"], plan["done"]) == (12, 12, 0)
    assert plan["tokens"] == 3 * (640 + 640 + 256 + 640)
    assert plan["seconds"] > 0
    assert not (tmp_path / "run").exists()
    window = done(*command, "--dry-run", "--metric", "window", "--stride", "128")["plan"]
    assert window["tokens"] == 3 * 3 * (4 * 256 + 640)


def test_generated_prose_is_the_default(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["perplexity", str(tiny_model), "--lengths", "64", "--output", str(tmp_path)]
    told = [done(*arguments, "--dry-run", "--documents", "2", "--seed", seed) for seed in "01"]
    names = [[document["id"] for document in each["text"]["documents"]] for each in told]
    assert names[0] == [f"generated prose 1 (en), seed {n}" for n in (1, 2)]
    assert names[1] == [f"generated prose 1 (en), seed {n}" for n in (3, 4)]
    assert list(told[0]["schemes"]) == ["none", "dca"]


def test_one_book_gives_several_documents(command: list[str], texts: Path, tmp_path: Path) -> None:
    command[command.index(str(texts))] = str(texts / "0.txt")
    command[command.index("256,640")] = "64,128"
    text = done(*command, "--dry-run")["text"]
    assert [d["id"] for d in text["documents"]] == [
        *("0.txt", "0.txt from token 128", "0.txt from token 256")
    ]
    assert len({d["sha256"] for d in text["documents"]}) == 3


BAD = {
    "too short": (("--lengths", "64K"), r"--text texts\d*/ \(4 files\): its longest file has "
                  r"\d+ of 65536 tokens .*add text, or lower --lengths"),
    "tiny length": (("--lengths", "3"), "--lengths 3: too short"),
    "no text": (("--text", "nowhere*"), r"--text nowhere\*: no such file"),
    "metric": (("--metric", "x"), "--metric x: use one of prefix, window, position"),
    "unused stride": (("--stride", "64"), "--stride 64: --metric prefix does not read it"),
    "unused window": (("--window", "64"), "--window 64: --metric prefix does not read it"),
    "long stride": (("--metric", "window", "--stride", "255"), "--stride 255: must lie between"),
    "long window": (("--metric", "position", "--window", "1K"), "--window 1024: must lie between"),
    "bos": (("--bos", "x"), "--bos x: use one of auto, always, never"),
    "no bos": (("--bos", "always"), "--bos always: this tokenizer has no such token"),
    "documents": (("--documents", "0"), "--documents 0: must be at least 1"),
    "seed": (("--seed", "-1"), "--seed -1: must not be negative"),
    "limit": (("--limit", "0"), "--limit 0: must be at least 1"),
    "method": (("--methods", "rope"), "--methods rope: not known"),
    "kernel": (("--kernel", "magic"), "--kernel magic: "),
    "unused factor": (("--factor", "2"), r"--factor 2\.0: no method of this run"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, command: list[str], tmp_path: Path) -> None:
    arguments, message = BAD[case]
    with pytest.raises(cli.UserError, match=message) as caught:
        CliRunner().invoke(cli.app, [*command, *arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_experiment_in_the_same_folder(command: list[str], tmp_path: Path) -> None:
    done(*command, "--limit", "1")
    for arguments, message in (
        (("--lengths", "256,512"), "longest 640, this one 512"),
        (("--seed", "5"), "seed 0, this one 5"),
        (("--documents", "2"), "documents_sha256"),
    ):
        with pytest.raises(cli.UserError, match=message):
            CliRunner().invoke(cli.app, [*command, *arguments], catch_exceptions=False)
    needle = ["needle", *command[1:2], "--lengths", "256", "--output", str(tmp_path / "run")]
    with pytest.raises(cli.UserError, match="it holds a perplexity run, this is a needle run"):
        CliRunner().invoke(cli.app, needle, catch_exceptions=False)


def test_a_length_without_room_for_a_later_window_has_no_figure(
    command: list[str], tmp_path: Path
) -> None:
    one_method = (*command[:2], "--methods", "none", *command[4:])
    done(*one_method, "--lengths", "64,640")
    done(*one_method, "--lengths", "256,640", "--metric", "position", "--window", "100")
    figures = json.loads((tmp_path / "run" / "perplexity.json").read_text())
    rows = figures["methods"]["none"]["lengths"]
    assert rows["64"] is None
    assert rows["256"]["tokens"] == rows["640"]["tokens"] == 3 * 100


# -- picture ------------------------------------------------------------------------------------


def test_the_picture_shows_the_figures(command: list[str], tmp_path: Path) -> None:
    done(*command)
    run = tmp_path / "run"
    results = perplexity_summary.load(run)
    (axes,) = picture.figure_of(results).axes
    lines = {line.get_label(): line for line in axes.lines}
    for method in METHODS:
        figures = [results.figure(method, length) for length in LENGTHS]
        assert list(lines[method].get_xdata()) == list(LENGTHS)
        assert list(lines[method].get_ydata()) == [f.perplexity for f in figures if f]
    assert len(axes.collections) == len(METHODS)  # bands
    words = " ".join(text.get_text() for text in axes.texts)
    assert "trained 512" in words and "yarn+dca" in words
    first = [(run / name).read_bytes() for name in ("perplexity.png", "perplexity.svg")]
    assert [file.read_bytes() for file in picture.draw(run)] == first
