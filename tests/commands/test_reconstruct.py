"""Prompts again from their recipes, answers judged again, and the list of tasks."""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from pathlib import Path
from typing import Any

import needle_fakes
import pytest
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval.needle.summary import load
from longctx.eval.runfolder import records
from longctx.eval.tasks import TASKS
from longctx.eval.texts import prose


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four cells on a book, beside the book and the model."""
    directory = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny_model, directory / "model")
    (directory / "book.txt").write_text(needle_fakes.english(20_000))
    arguments = ["needle", str(directory / "model"), "--methods", "none", "--lengths", "256,300"]
    arguments += ["--depths", "0,50", "--repeats", "1", "--system", "Be brief."]
    arguments += ["--haystack", str(directory / "book.txt"), "--output", str(directory / "run")]
    assert invoke(*arguments).exit_code == 0
    return directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, prog_name="longctx")


def refused(message: str, *arguments: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "\n" not in str(caught.value)


def rewrite(file: Path, change: Any) -> None:
    """Every record of a file, changed."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(change(record)) + "\n" for record in found))


# -- reconstruct --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [1, 4])
def test_a_prompt_comes_back_byte_for_byte(run: Path, row: int, chatml: Any) -> None:
    record = records.read(run / "results.jsonl")[row - 1]
    ids = [
        int(word)
        for word in invoke("reconstruct", str(run), "--row", str(row), "--ids").stdout.split()
    ]
    assert hashlib.sha256(array("q", ids).tobytes()).hexdigest() == record["prompt_sha256"]
    assert len(ids) == record["prompt_tokens"]
    result = invoke("reconstruct", str(run), "--row", str(row))
    assert result.stdout == chatml.decode(ids)
    assert result.stdout.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert record["question"] in result.stdout
    assert record["expected"][0] in result.stdout
    told = json.loads(invoke("reconstruct", str(run), "--row", str(row), "--json").stdout)
    assert (told["ids"], told["text"], told["checked"]) == (ids, result.stdout, True)
    assert (told["key"], told["recipe"]) == (record["key"], record["recipe"])


def test_a_text_that_is_not_utf8_is_read_again_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    lines = needle_fakes.english(20_000).replace("e", "é").encode("latin-1")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "book.txt").write_bytes(lines)
    (tmp_path / "bad" / "torn.txt").write_bytes("山".encode()[:2] + "山川".encode() * 9)
    folder = str(tmp_path / "run")
    arguments = ["needle", str(tiny_model), "--methods", "none", "--lengths", "256"]
    arguments += ["--depths", "50%", "--repeats", "1", "--output", folder]
    arguments += ["--haystack", str(tmp_path / "bad")]
    refused("may be .*cp1252", *arguments)
    refused(r"torn\.txt: not cp1252", *arguments, "--encoding", "cp1252", "--strict")
    told = invoke(*arguments, "--encoding", "cp1252")
    assert told.exit_code == 0
    assert "read as cp1252: book.txt" in told.stderr
    assert "skipped 1 of 2 files (--strict ends the run):" in told.stderr
    haystack = json.loads((tmp_path / "run" / "run.json").read_text())["haystack"]
    assert haystack["files"] == [str(tmp_path / "bad" / "book.txt")]
    assert haystack["encodings"] == {haystack["files"][0]: "cp1252"}
    assert list(haystack["skipped"]) == [str(tmp_path / "bad" / "torn.txt")]
    assert invoke("reconstruct", folder, "--row", "1").exit_code == 0
    refused("has changed", "reconstruct", folder, "--row", "1", "--encoding", "mac_roman")
    moved = ["reconstruct", folder, "--row", "1", "--haystack", haystack["files"][0]]
    refused("may be .*cp1252", *moved)
    assert invoke(*moved, "--encoding", "latin-1").exit_code == 0


def test_a_list_is_a_haystack_and_its_recipe_says_how(tmp_path: Path) -> None:
    (tmp_path / "list.md").write_text("".join(f"- window garden {n}\n" for n in range(900)))
    arguments = ["needle", "sim:perfect", "--lengths", "256,1K", "--depths", "0,50"]
    arguments += ["--haystack", str(tmp_path / "list.md"), "--repeats", "1"]
    told = invoke(*arguments, "--output", str(tmp_path / "run"))
    assert told.exit_code == 0
    assert "the text is not in sentences: needles stand at the end of a line" in told.stderr
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["boundary"] == "line"
    for row, record in enumerate(records.read(tmp_path / "run" / "results.jsonl"), start=1):
        assert (record["status"], record["recipe"]["boundary"]) == ("ok", "line")
        assert invoke("reconstruct", str(tmp_path / "run"), "--row", str(row)).exit_code == 0


def test_how_texts_are_read_is_for_texts() -> None:
    prose = "generated prose is read from no file: give"
    refused(f"--encoding cp1252: {prose} --haystack", "needle", "--encoding", "cp1252")
    refused(f"--strict: {prose} --haystack", "needle", "--strict")
    refused(f"--encoding cp1252: {prose} --text", "perplexity", "--encoding", "cp1252")
    refused("--encoding klingon: no encoding", "perplexity", "--encoding", "klingon")


def test_generated_prose_is_rebuilt_from_its_name(tiny_model: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    arguments = ["--methods", "none", "--lengths", "256", "--depths", "50%", "--repeats", "1"]
    assert invoke("needle", str(tiny_model), *arguments, "--output", run).exit_code == 0
    told = json.loads(invoke("reconstruct", run, "--row", "1", "--json").stdout)
    assert told["checked"] is True


def test_a_simulated_run_has_the_embedded_tokenizer(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    arguments = ["--lengths", "512", "--depths", "50%", "--repeats", "1", "--output", run]
    assert invoke("needle", "sim:perfect", *arguments).exit_code == 0
    told = json.loads(invoke("reconstruct", run, "--row", "1", "--json").stdout)
    assert told["checked"] is True


def test_names_of_generated_prose_are_read_back() -> None:
    for seed, language, numbers in ((0, "en", False), (7, "zh", True)):
        made = prose.haystack(64, seed, language, numbers=numbers)
        again = prose.rebuild(made.id, 64)
        assert again is not None and again.sha256 == made.sha256
    for name in ("book.txt", "generated prose 99 (en), seed 0", "generated prose 1 (xx), seed 0"):
        assert prose.rebuild(name, 64) is None


def test_what_has_changed_is_named(finished: Path, run: Path, tmp_path: Path) -> None:
    row = ("reconstruct", str(run), "--row", "1")
    other = tmp_path / "other.txt"
    other.write_text(needle_fakes.english(19_000))
    refused(r"haystack other\.txt: has changed since the run", *row, "--haystack", str(other))
    copy = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text("Hello. " + template)
    refused("chat template: has changed since the run", *row, "--model", str(copy))
    needle_fakes.metaspace_tokenizer().save_pretrained(copy)
    refused("tokenizer: has changed since the run", *row, "--model", str(copy))
    rewrite(run / "results.jsonl", lambda r: {**r, "prompt_sha256": "0" * 64})
    refused("prompt: has changed since the run.*000000000000 then", *row)


def test_a_moved_text_is_named_by_hand(finished: Path, run: Path, tmp_path: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    about["haystack"]["files"] = [str(tmp_path / "gone.txt")]
    (run / "run.json").write_text(json.dumps(about))
    row = ("reconstruct", str(run), "--row", "1")
    refused(r"gone\.txt: cannot be read", *row)
    assert invoke(*row, "--haystack", str(finished / "book.txt")).exit_code == 0
    about["haystack"] |= {"files": [], "id": "generated prose 0 (en), seed 0"}
    (run / "run.json").write_text(json.dumps(about))
    refused("run.json names no file and this version does not generate it", *row)


def test_old_records_are_still_read(run: Path) -> None:
    rewrite(run / "results.jsonl", lambda r: {n: r[n] for n in r if n != "prompt_sha256"})
    result = invoke("reconstruct", str(run), "--row", "2", "--json")
    assert json.loads(result.stdout)["checked"] is False
    assert "not checked" in result.stderr
    rewrite(run / "results.jsonl", lambda r: {n: r[n] for n in r if n != "recipe"})
    refused("--row 2: its record holds no recipe", "reconstruct", str(run), "--row", "2")


@pytest.mark.parametrize("row", ["0", "5", "-1"])
def test_rows_that_are_not_there(run: Path, row: str) -> None:
    refused(f"--row {row}: .* has rows 1 to 4", "reconstruct", str(run), "--row", row)


# -- rescore ------------------------------------------------------------------------------------


def test_verdicts_of_today_are_appended(run: Path) -> None:
    file = run / "results.jsonl"
    answers = iter((" {}.", " {}. Or {}", " nothing", " {}"))

    def old(record: dict[str, Any]) -> dict[str, Any]:
        value = record["expected"][0]
        answer = next(answers).format(value[:6], value[:3])
        if answer == " nothing":
            return {**record, "status": "error", "response": None, "score": None, "error": "x"}
        fields = {"response": answer, "finish_reason": "length", "score": None, "scores": None}
        return {**record, **fields, "status": "truncated_output"}

    rewrite(file, old)
    before = file.read_bytes()
    dry = invoke("rescore", str(run), "--dry-run", "--json")
    assert json.loads(dry.stdout)["changed"] == 2
    assert file.read_bytes() == before
    told = json.loads(invoke("rescore", str(run), "--json").stdout)
    assert told["changes"] == [{"from": "truncated_output", "to": "miss", "count": 2}]
    assert (told["answers"], told["without_answer"]) == (4, 1)  # three cells and the control
    assert file.read_bytes().startswith(before)
    added = records.read(file)[4:]
    assert [record["status"] for record in added] == ["miss", "miss"]
    assert added[0]["rescored_from"]["status"] == "truncated_output"
    assert [record["score"] for record in added] == [0.0, 0.0]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["states"] == {"miss": 2, "error": 1, "truncated_output": 1, "not_run": 0}
    assert len(load(run).records) == 4
    again = invoke("rescore", str(run))
    assert again.stdout.startswith("4 answers judged again, 0 changed; wrote")


def test_a_rescored_run_goes_on(finished: Path, run: Path) -> None:
    rewrite(run / "results.jsonl", lambda r: {**r, "status": "ok", "score": 1.0})
    (run / "heatmap.png").unlink()
    assert "4 ok -> miss" in invoke("rescore", str(run)).stdout
    assert (run / "heatmap.png").is_file()
    arguments = ["needle", str(finished / "model"), "--methods", "none", "--lengths", "256,300"]
    arguments += ["--depths", "0,50", "--repeats", "1", "--system", "Be brief."]
    arguments += ["--haystack", str(finished / "book.txt"), "--output", str(run), "--dry-run"]
    plan = json.loads(invoke(*arguments, "--json").stdout)["plan"]
    assert (plan["done"], plan["to_do"]) == (4, 0)


def test_a_control_is_wrong_unless_right(run: Path) -> None:
    (control,) = records.read(run / "controls.jsonl")
    cut = {"response": control["expected"][0][:6], "finish_reason": "length"}
    rewrite(run / "controls.jsonl", lambda r: {**r, **cut, "status": "ok", "score": 1.0})
    assert "1 ok -> miss" in invoke("rescore", str(run)).stdout


def test_bad_folders(tmp_path: Path, run: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for command in (("rescore", nowhere), ("reconstruct", nowhere, "--row", "1")):
        refused(r"nowhere: no run\.json in it", *command)
    assert not Path(nowhere).exists()
    refused("--palette x: not known", "rescore", str(run), "--palette", "x")
    about = json.loads((run / "run.json").read_text()) | {"task": "perplexity"}
    (run / "run.json").write_text(json.dumps(about))
    for command in (("rescore", str(run)), ("reconstruct", str(run), "--row", "1")):
        refused("it holds a perplexity run", *command)


# -- tasks --------------------------------------------------------------------------------------


def test_tasks_are_one_line_each() -> None:
    lines = invoke("tasks").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)
    assert list(json.loads(invoke("tasks", "--json").stdout)) == list(TASKS)
