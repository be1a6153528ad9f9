"""`longctx needle` as a person meets it: files, resume, dry run, and one line for bad input."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import needle_fakes
import pytest
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval.runfolder import records
from longctx.eval.runfolder.folder import RunFolder
from longctx.models import local

ROOT = Path(__file__).resolve().parents[2]
GRID = ("--methods", "none,dca", "--lengths", "256,640", "--depths", "0,50", "--repeats", "1")


@pytest.fixture(scope="session")
def book_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "book.txt"
    file.write_text(needle_fakes.english(40_000))
    return file


@pytest.fixture
def command(tiny_model: Path, book_file: Path, tmp_path: Path) -> list[str]:
    output = str(tmp_path / "run")
    return ["needle", str(tiny_model), *GRID, "--haystack", str(book_file), "--output", output]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, prog_name="longctx")


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "longctx", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )


def test_a_run_leaves_everything_it_promises(command: list[str], tmp_path: Path) -> None:
    result = invoke(*command, "--json")
    assert result.exit_code == 0, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert len(result.stdout.splitlines()) == 1
    assert last["exit_code"] == 0
    assert set(last["methods"]) == {"none", "dca"}
    assert sum(last["states"].values()) == 8
    run = tmp_path / "run"
    # .lock is filelock's: some of its releases remove it.
    assert {file.name for file in run.iterdir()} - {".lock"} == {
        *("run.json", "results.jsonl", "controls.jsonl", "lock"),
        *("summary.json", "summary.csv", "summary.md", "heatmap.png", "heatmap.svg"),
        "report.html",
    }
    for record in records.read(run / "results.jsonl"):
        assert record["prompt_tokens"] + record["slack"] + 32 == record["length"]
        assert record["scheme"]["request_length"] == record["length"]
    about = json.loads((run / "run.json").read_text())
    assert about["schemes"]["dca"]["chunk_size"] == 448
    assert about["schemes"]["dca"]["sources"]["chunk_size"]
    assert about["trained_length"] == 512
    assert about["sessions"][0]["arms"]["dca"]["proof"]["verified"] is True
    assert about["settings"]["model"].startswith("sha256:")
    # Stated, as a model's own generation_config may sample and penalise.
    assert (about["settings"]["temperature"], about["settings"]["repetition_penalty"]) == (0, 1)
    assert about["sessions"][0]["prefix_sharing"] is True
    shown = result.stderr
    assert "method dca" in shown
    assert "proved" in shown
    assert "8 cells: 0 done, 8 to do" in shown
    assert "trained" in shown  # the map's legend


def test_sharing_prefill_changes_no_answer(command: list[str], tmp_path: Path) -> None:
    def results(*more: str) -> tuple[list[Any], list[Any], Any]:
        run = tmp_path / "run"
        assert invoke(*command, "--depths", "0,50,100", *more).exit_code == 0
        found = records.read(run / "results.jsonl")
        session = json.loads((run / "run.json").read_text())["sessions"][0]
        shutil.rmtree(run)
        answers = [(r["key"], r["response"], r["status"]) for r in found]
        return answers, found, session["prefix_sharing"]

    shared, records_shared, told_shared = results("--shared-texts")
    alone, records_alone, told_alone = results("--shared-texts", "--no-prefix-sharing")
    assert shared == alone
    assert (told_shared, told_alone) == (True, False)
    assert {record["cached_tokens"] for record in records_alone} == {0}
    assert len(records_shared) == 12
    # Answers that repeat their text are guessed, and may end before those that began earlier.
    begun = sorted(records_shared, key=lambda r: (r["scheme"]["method"], r["length"], r["depth"]))
    for before, record in itertools.pairwise([None, *begun]):
        if before is None or record["depth"] == 0:
            assert record["cached_tokens"] == 0
        else:  # up to the needle before, or a token or two further
            start = before["needle_span"][0]
            assert start <= record["cached_tokens"] <= start + 3
    # With a text for every cell prompts have no more than what stands before it in common.
    _, own, _ = results()
    assert len({record["haystack"]["offset"] for record in own}) > 2
    shortest = min(record["needle_span"][0] for record in own)
    assert all(record["cached_tokens"] <= shortest + 3 for record in own)


def test_a_rope_that_follows_the_length_is_told(
    command: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    (copy / "config.json").write_text(json.dumps(config))
    command[1], command[command.index("none,dca")] = str(copy), "none"
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "computed from its first token: keys under rope_type 'dynamic'" in result.stderr
    run = tmp_path / "run"
    assert {record["cached_tokens"] for record in records.read(run / "results.jsonl")} == {0}
    assert json.loads((run / "run.json").read_text())["sessions"][0]["prefix_sharing"] is False


def test_for_people_the_map_is_on_stdout(command: list[str]) -> None:
    result = invoke(*command)
    assert result.exit_code == 0
    assert "0/1" in result.stdout
    assert "640" in result.stdout
    assert "heatmap.png" in result.stdout.replace("\n", "")


def test_a_rerun_does_nothing_twice(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(*command, "--limit", "3").exit_code == 0
    path = tmp_path / "run" / "results.jsonl"
    first = path.read_bytes()
    assert first.count(b"\n") == 3
    assert invoke(*command).exit_code == 0
    second = path.read_bytes()
    assert second.startswith(first)
    assert second.count(b"\n") == 8

    def no_weights(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(local.LocalModel, "sessions", no_weights)
    done = invoke(*command, "--json")
    assert done.exit_code == 0
    assert path.read_bytes() == second
    assert "8 done, 0 to do" in done.stderr


def test_a_dry_run_loads_no_weights_and_writes_nothing(
    command: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    # Weights that cannot be loaded prove that nobody tried.
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (copy / "model.safetensors").write_bytes(b"no weights")
    command[1] = str(copy)
    result = invoke(*command, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["plan"]["cells"] == told["plan"]["to_do"] == 8
    assert told["plan"]["prompts"] == 4
    assert told["plan"]["tokens"] == 4 * 256 + 4 * 640
    assert told["plan"]["kv_bytes"] == 2 * 2 * 2 * 8 * 640 * 4
    assert told["plan"]["seconds"] > 0
    assert told["schemes"]["dca"]["chunk_size"] == 448
    assert "KV cache" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_knows_what_is_done(command: list[str]) -> None:
    assert invoke(*command, "--limit", "2").exit_code == 0
    result = invoke(*command, "--dry-run", "--json")
    plan = json.loads(result.stdout)["plan"]
    assert (plan["done"], plan["to_do"]) == (2, 6)
    assert plan["seconds_from"] == "from finished cells"


@pytest.mark.parametrize("language", ["en", "es"])
def test_without_a_haystack_prose_is_generated(
    language: str, tiny_model: Path, tmp_path: Path
) -> None:
    result = invoke(
        *("needle", str(tiny_model), "--lengths", "1K", "--dry-run", "--json"),
        *("--language", language, "--output", str(tmp_path)),
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["haystack"]["id"] == f"generated prose 1 ({language}), seed 0"
    assert list(told["schemes"]) == ["none", "dca"]


def test_the_default_folder_is_found_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    del command[command.index("--output") :]
    assert invoke(*command, "--limit", "1").exit_code == 0
    assert invoke(*command, "--limit", "1").exit_code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("needle-tiny-")
    assert len(records.read(run / "results.jsonl")) == 2


def test_yarn_takes_its_factor_from_the_longest_length(command: list[str]) -> None:
    command[command.index("none,dca")] = "yarn"
    command[command.index("256,640")] = "256,1600"
    told = json.loads(invoke(*command, "--dry-run", "--json").stdout)
    assert told["schemes"]["yarn"]["factor"] == 4.0
    told = json.loads(invoke(*command, "--dry-run", "--json", "--factor", "8").stdout)
    assert told["schemes"]["yarn"]["factor"] == 8.0


def test_cells_that_fail_are_code_3(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longctx.models.served import ServedSession

    def fail(self: ServedSession, request: Any) -> Any:
        if request.request_length == 640:
            raise MemoryError("no room")
        return asked(self, request)

    asked = ServedSession._asked
    monkeypatch.setattr(ServedSession, "_asked", fail)
    result = invoke(*command, "--json")
    assert result.exit_code == 3
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["states"]["error"] == 4
    assert last["failures"][0]["error"] == "MemoryError: no room"
    monkeypatch.undo()
    assert invoke(*command).exit_code == 0


BAD = {
    "missing path": (("needle", "./nowhere"), r"MODEL \./nowhere: no such directory"),
    "unknown method": (("--methods", "none,rope"), "--methods rope: not known.*yarn"),
    "too long": (("--lengths", "32K"), r"--haystack book\.txt: a prompt of 32768.*--allow-repeat"),
    "too short": (("--lengths", "50"), "--lengths 50: .*larger"),
    "bad length": (("--lengths", "2X"), "--lengths 2X"),
    "bad depth": (("--depths", "5,200"), "--depths 200"),
    "missing text": (("--haystack", "nowhere.txt"), r"--haystack nowhere\.txt: no such file"),
    "bad dtype": (("--dtype", "int4"), "--dtype int4"),
    "bad kernel": (("--kernel", "magic"), "--kernel magic: .*torch_cpu"),
    "kernel of another device": (("--kernel", "torch_cuda"), "--kernel torch_cuda: .*"),
    "unused kernel": (("--methods", "none", "--kernel", "reference"), "--kernel reference: no me"),
    "bad cap": (("--cap", "x"), "--methods dca: cap='x'"),
    "local above chunk": (
        ("--chunk-size", "100", "--local-size", "100"),
        "--methods dca: .*local_size",
    ),
    "chunk above window": (("--chunk-size", "4K"), "--methods dca: chunk_size=4096 exceeds"),
    "unused flag": (("--methods", "none", "--chunk-size", "256"), "--chunk-size 256: no method"),
    "unused factor": (("--factor", "2"), r"--factor 2\.0: no method of this run"),
    "two sizes": (("--chunk-size", "1K,2K"), "--chunk-size 1K,2K: one number"),
    "bad template": (("--template", "x"), "--template x"),
    "system without template": (("--template", "none", "--system", "x"), "--system"),
    "bad palette": (("--palette", "x"), "--palette x"),
    "no repeats": (("--repeats", "0"), "--repeats 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, command: list[str], tmp_path: Path) -> None:
    arguments, message = BAD[case]
    whole = list(arguments) if arguments[0] == "needle" else [*command, *arguments]
    with pytest.raises(UserError, match=message) as caught:
        CliRunner().invoke(cli.app, whole, catch_exceptions=False)
    assert "\n" not in str(caught.value)
    # Put right, the same command must not meet the traces of the wrong one.
    assert not (tmp_path / "run" / "run.json").exists()


def test_bad_input_is_code_2_and_nothing_on_stdout(command: list[str]) -> None:
    done = process(*command, "--lengths", "32K")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --haystack book.txt")
    assert done.stderr.count("\n") == 1


def test_damaged_results_are_code_2(command: list[str], tmp_path: Path) -> None:
    assert invoke(*command, "--limit", "3").exit_code == 0
    path = tmp_path / "run" / "results.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:50]
    path.write_bytes(b"\n".join(lines))
    done = process(*command)
    assert done.returncode == 2
    assert "results.jsonl: line 2 is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_writer_is_refused(command: list[str], tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run"), pytest.raises(UserError, match=rf"pid {os.getpid()} on"):
        CliRunner().invoke(cli.app, command, catch_exceptions=False)


def test_other_settings_in_the_same_folder(command: list[str]) -> None:
    assert invoke(*command, "--limit", "1").exit_code == 0
    with pytest.raises(UserError, match="seed 0, this one 5"):
        CliRunner().invoke(cli.app, [*command, "--seed", "5"], catch_exceptions=False)
    assert invoke(*command, "--repeats", "2", "--limit", "1").exit_code == 0


def test_control_c_is_resumable(command: list[str], tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "longctx", *command, "--repeats", "500"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore interrupts, and so would what this test starts in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    path = tmp_path / "run" / "results.jsonl"
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < 2:
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    stdout, stderr = started.communicate(timeout=60)
    assert started.returncode == 130, stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert "not run" in stdout
    assert records.read(path)


REAL = ROOT / "models" / "smollm2-135m"


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="models/smollm2-135m is absent: make smollm2")
def test_the_real_model_finds_a_needle(tmp_path: Path) -> None:
    done = process(
        *("needle", str(REAL), "--methods", "none,dca", "--lengths", "1K", "--depths", "50%"),
        *("--repeats", "1", "--output", str(tmp_path / "run"), "--json"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [figures["methods"][m]["lengths"]["1024"]["score"] for m in ("none", "dca")] == [1, 1]
    assert figures["controls"]["discriminative"] is True
