"""Folders begun by an earlier version: a place with two keys counts once, the newest record."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from run_fakes import write_perplexity, write_run
from typer.testing import CliRunner

from longctx import cli
from longctx.eval.needle import summary
from longctx.eval.needle.paired import compare, pairs_of
from longctx.eval.perplexity import files
from longctx.eval.runfolder import records
from longctx.report import table
from longctx.report.collect import collect
from longctx.runs import needle

GRID: dict[str, Any] = {"lengths": (512, 1024), "depths": (0.0, 100.0), "repeats": 2}


def append(file: Path, *found: Any) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in found)


def asked_again(run: Path, status: str = "miss") -> list[dict[str, Any]]:
    """What a version with another key for `yarn+dca` beyond 512 would write."""
    return [
        {**record, "key": f"new {record['key']}", "status": status, "score": float(status == "ok")}
        for record in map(json.loads, (run / "results.jsonl").read_text().splitlines())
        if record["scheme"]["method"] == "yarn+dca" and record["length"] == 1024
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(
        tmp_path / "run", methods=("none", "yarn+dca"), prompts="same", model="m", **GRID
    )
    append(folder / "results.jsonl", *asked_again(folder))
    return folder


def test_a_place_counts_once_and_the_newest_record_is_the_one(run: Path) -> None:
    figures = summary.write(run)
    assert figures["superseded"] == 4
    assert figures["states"] == {"ok": 14 - 4, "miss": 6, "not_run": 0}
    lengths = figures["methods"]["yarn+dca"]["lengths"]
    assert [(lengths[n]["k"], lengths[n]["n"]) for n in ("512", "1024")] == [(4, 4), (0, 4)]
    told = "Left out: 4 older record(s) of an earlier version, whose place has a newer one."
    assert told in (run / "summary.md").read_text()
    results = summary.load(run)
    assert {record["key"][:4] for record in results.chosen("yarn+dca", 1024)} == {"new "}


def test_report_and_pairs_count_it_once(run: Path) -> None:
    report = collect([run])
    (versus,) = report.within
    found = {n: (c.pairs, c.difference) for n, c in versus.difference.lengths.items()}
    # `none` finds depth 100 at 1K, and now yarn+dca nothing.
    assert found == {512: (4, 0.0), 1024: (4, -0.5)}
    rows = csv.DictReader(io.StringIO(table.as_csv(report)))
    pooled = {(r["method"], r["length"]): r["n"] for r in rows if not r["depth"]}
    assert set(pooled.values()) == {"4"}
    assert len(report.runs[0].failures) == 6
    # Also of records that nobody has sorted out.
    everything = records.read(run / "results.jsonl")
    by_method = {
        method: [one for one in everything if one["scheme"]["method"] == method]
        for method in ("none", "yarn+dca")
    }
    assert compare(pairs_of(*by_method.values())).lengths[1024].pairs == 4
    assert compare(pairs_of(*reversed(by_method.values()))).lengths[1024].difference == 0.5


def test_an_older_record_that_was_judged_again_stays_older(run: Path) -> None:
    older = json.loads((run / "results.jsonl").read_text().splitlines()[12])
    assert (older["scheme"]["method"], older["length"]) == ("yarn+dca", 1024)
    append(run / "results.jsonl", {**older, "score": 0.5, "rescored_from": {"status": "ok"}})
    figures = summary.write(run)
    assert figures["superseded"] == 4
    assert figures["methods"]["yarn+dca"]["lengths"]["1024"]["score"] == 0
    # Asked again by the earlier version, it is the newest.
    append(run / "results.jsonl", older)
    assert summary.write(run)["methods"]["yarn+dca"]["lengths"]["1024"]["k"] == 1


def test_a_pass_counts_once(tmp_path: Path) -> None:
    run = write_perplexity(tmp_path / "run")
    assert files.write(run)["superseded"] == 0
    first = json.loads((run / "perplexity.jsonl").read_text().splitlines()[0])
    append(run / "perplexity.jsonl", {**first, "key": "new", "nll": [math.log(4)] * 1023})
    figures = files.write(run)
    assert (figures["superseded"], figures["states"]) == (1, {"ok": 4})
    found = figures["methods"]["none"]["lengths"]["512"]
    assert (found["documents"], found["tokens"]) == (2, 2 * 511)
    assert found["nll"] == pytest.approx(1.5 * math.log(2))
    assert "1 older record(s) of passes made again since" in (run / "perplexity.md").read_text()


def test_a_folder_of_an_earlier_version_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 is no edge of a bucket: what that version keyed at 600 tokens is asked again."""
    monkeypatch.setattr(needle, "draw", lambda *_: [])
    grid = ("--lengths", "600", "--depths", "50,", "--repeats", "1", "--output", str(tmp_path))
    words = ("needle", "--methods", "none,yarn+dca", *grid)
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    results = tmp_path / "results.jsonl"
    none, yarn = map(json.loads, results.read_text().splitlines())
    original, edge = yarn["scheme"]["L0"], yarn["scheme"]["request_length"]
    octaves = 8 * math.log2(edge / original)
    assert edge >= 600 and octaves == pytest.approx(round(octaves), abs=0.02)
    assert yarn["scheme"]["m"] == pytest.approx(0.1 * math.log(edge / original) + 1)
    assert none["scheme"]["request_length"] == 600 and "m" not in none["scheme"]

    old = {**yarn, "key": "older", "scheme": {**yarn["scheme"], "request_length": 600}}
    old["scheme"].pop("m")
    results.write_text(json.dumps(none) + "\n" + json.dumps({**old, "status": "miss"}) + "\n")
    done = CliRunner().invoke(cli.app, (*words, "--json"))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["superseded"] == 1 and told["methods"]["yarn+dca"]["lengths"]["600"]["n"] == 1
    assert [r["key"] for r in records.read(results)] == [none["key"], "older", yarn["key"]]
    assert "1 older record(s)" in " ".join(done.stderr.split())
