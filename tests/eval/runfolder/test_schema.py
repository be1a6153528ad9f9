"""docs/run-folder.md against the types of the files, and both against what runs write."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longctx import cli
from longctx.eval.needle import summary
from longctx.eval.runfolder import fields, records, schema
from longctx.eval.texts import prose
from longctx.runs import needle, perplexity

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
OLD = ROOT / "docs" / "runs"

# What only an endpoint's run has, less what other models' proofs have as well.
ENDPOINTS = {
    *("sessions[].concurrency", "sessions[].timeout_s", "sessions[].tokenizer"),
    *(f"sessions[].arms.METHOD.proof.{name}" for name in ("left_out", "prompt_tokens")),
    "sessions[].arms.METHOD.proof.server_prompt_tokens",
}


def documented(name: str) -> set[str]:
    """The fields that the page has of a type."""
    found = re.search(rf"<!-- fields: {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert found is not None, name
    return set(re.findall(r"^\| `([^`]+)` \|", found[1], re.MULTILINE))


def command(*words: Any) -> None:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)


def contents(*files: Path) -> Iterator[Any]:
    for file in files:
        text = file.read_text(encoding="utf-8")
        yield from map(json.loads, text.splitlines() if file.suffix == ".jsonl" else [text])


KINDS = {kind.__name__: kind for found in schema.FILES.values() for kind in found}


def written(name: str, *files: Path) -> set[str]:
    kind = KINDS[name]
    return {field for held in contents(*files) for field in fields.found_in(held, kind)}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needle, "draw", lambda *_: [])
    monkeypatch.setattr(perplexity.picture, "draw", lambda *_: [])


def test_the_page_is_made_from_the_types() -> None:
    assert fields.with_tables(PAGE) == PAGE, (
        "python -m longctx.eval.runfolder.fields docs/run-folder.md"
    )
    assert set(KINDS) == set(re.findall(r"<!-- fields: (\w+) -->", PAGE))
    for file in schema.FILES:
        assert f"## {file}" in PAGE and f"`{file}`" in PAGE


def files(directory: Path, flag: str) -> tuple[str, ...]:
    """A file in UTF-8, one that is not, and one that is none."""
    directory.mkdir()
    text = prose.haystack(4096).text
    text = text.replace(".", "").replace("?", "").replace("!", "").replace("\n\n", "\n")
    (directory / "a.txt").write_text(text, encoding="utf-8")
    (directory / "b.txt").write_bytes(text.replace("e", "é").encode("cp1252", "ignore"))
    (directory / "c.txt").write_bytes(b"\x81")
    return flag, str(directory), "--encoding", "cp1252"


def test_a_needle_run_writes_what_the_page_says(tmp_path: Path) -> None:
    cell = ("--depths", "50,", "--repeats", "1", "--lengths")
    arms = ("--methods", "yarn+dca,none")  # the control is the first one's
    command("needle", *arms, *cell, "256", "--output", tmp_path / "embedded")
    window = ("needle", "sim:window=512", "--adaptive", "--language", "es")
    command(*window, *cell, "1K", "--output", tmp_path / "sim")
    book = tmp_path / "book"
    perfect = ("needle", "sim:perfect", *files(book, "--haystack"))
    command(*perfect, *cell, "1K", "--output", tmp_path / "files")
    several = ("needle", "sim:perfect", "--tasks", "vt,uuid_chain", "--hops", "2")
    command(*several, *cell, "1K", "--output", tmp_path / "tasks")
    spread = ("needle", "sim:perfect", "--samples", "2", "--depths", "50,", "--lengths", "1K")
    command(*spread, "--output", tmp_path / "spread")
    command("needle", "sim:perfect", "--lengths", "256", "--output", tmp_path / "default")
    names = ("embedded", "sim", "files", "tasks/uuid_chain", "spread", "default")
    runs = [tmp_path / name for name in names]

    # A verdict of other rules, and a cell that failed.
    for name in ("results.jsonl", "controls.jsonl"):
        (record,) = contents(runs[1] / name)
        wrong = record | {"status": "partial", "score": 0.5}
        (runs[1] / name).write_text(json.dumps(wrong) + "\n", encoding="utf-8")
    command("rescore", runs[1])
    failed = next(contents(runs[0] / "results.jsonl")) | {"status": "error", "score": None}
    with (runs[0] / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(failed) + "\n")
    summary.write(runs[0])

    def held(kind: str, file: str) -> set[str]:
        return written(kind, *(run / file for run in runs))

    missing = documented("NeedleRunJson") - held("NeedleRunJson", "run.json")
    assert missing == ENDPOINTS | {"sessions[].ray_workers"}  # with --ray
    assert held("NeedleRecord", "results.jsonl") == documented("NeedleRecord")
    assert held("ControlRecord", "controls.jsonl") == documented("ControlRecord")
    assert held("NeedleSummary", "summary.json") == documented("NeedleSummary")
    assert written("TasksTable", tmp_path / "tasks" / "tasks.json") == documented("TasksTable")


def test_a_perplexity_run_writes_what_the_page_says(tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = ("perplexity", "embedded", "--lengths", "64,128", "--documents", "1")
    words += (*files(tmp_path / "book", "--text"), "--metric", "position", "--output", output)
    command(*words, "--methods", "none,yarn+dca")
    failed = next(
        record for record in contents(output / "perplexity.jsonl") if record["tokens"] == 64
    ) | {"status": "error", "nll": None, "error": "RuntimeError: broken"}
    with (output / "perplexity.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(failed) + "\n")
    perplexity.files.write(output)
    missing = documented("PerplexityRunJson") - written("PerplexityRunJson", output / "run.json")
    # The proof of an endpoint is in the table of arms, which both tasks share.
    assert missing == {field for field in ENDPOINTS if ".proof." in field}
    assert written("PerplexityRecord", output / "perplexity.jsonl") == documented(
        "PerplexityRecord"
    )
    assert written("PerplexitySummary", output / "perplexity.json") == documented(
        "PerplexitySummary"
    )


def test_runs_of_older_versions_are_read_as_before(tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(OLD / "needle-smollm2-emma", old)
    assert written("NeedleRunJson", old / "run.json") <= documented("NeedleRunJson")
    assert written("NeedleRecord", old / "results.jsonl") <= documented("NeedleRecord")
    before = next(contents(old / "summary.json"))
    found = summary.load(old)
    assert "compute_s" not in next(contents(old / "results.jsonl"))
    first = found.records[0]
    assert (first["compute_s"], first["cached_tokens"], first["match"]) == (None, None, "all")
    now = summary.write(old)
    assert now["superseded"] == 0
    assert now["states"] == before["states"]
    for method, figures in before["methods"].items():
        for length, row in figures["lengths"].items():
            again = now["methods"][method]["lengths"][length]
            assert (again["n"], again["k"], again["score"]) == (row["n"], row["k"], row["score"])


def test_a_field_that_is_in_no_type_is_seen() -> None:
    record = next(contents(OLD / "needle-smollm2-emma" / "results.jsonl"))
    with pytest.raises(TypeError, match=r"scheme\.colour is in no type"):
        set(fields.found_in(record | {"scheme": {"colour": 1} | record["scheme"]}, records.Record))
    with pytest.raises(TypeError, match="length is '256', not integer"):
        set(fields.found_in(record | {"length": "256"}, records.Record))
    with pytest.raises(TypeError, match="seed is missing"):
        set(fields.found_in({k: v for k, v in record.items() if k != "seed"}, records.Record))
