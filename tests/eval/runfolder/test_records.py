"""The results file: torn ends are repaired, damage is named, a kill loses no finished cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from longctx.errors import UserError
from longctx.eval.needle import summary
from longctx.eval.runfolder.records import (
    NEEDLE,
    RecordFile,
    latest,
    read,
    scored,
    write_atomically,
)

TESTS = Path(__file__).resolve().parents[2]


def record(key: str, **fields: Any) -> dict[str, Any]:
    base = {"schema": 1, "key": key, "scheme": {"method": "none"}, "length": 1, "depth": 0.0}
    return {**base, "repeat": 0, "status": "ok", "score": 1.0, **fields}


def line(key: str, **fields: Any) -> bytes:
    return json.dumps(record(key, **fields)).encode() + b"\n"


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    file = RecordFile(path, NEEDLE)
    file.append(record("a"))
    file.append(record("b", response="山 \n"))
    file.close()
    assert [found["key"] for found in read(path)] == ["a", "b"]
    assert read(path)[1]["response"] == "山 \n"
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn", [b'{"schema": 1, "ke', b"{", b"\xe5\xb1", line("c")[:-2]])
def test_a_torn_last_line_is_repaired(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(line("a") + line("b") + torn)
    assert len(read(path)) == 2
    assert path.read_bytes().endswith(torn)  # reading repairs nothing
    file = RecordFile(path, NEEDLE)
    file.append(record("d"))
    file.close()
    assert path.read_bytes() == line("a") + line("b") + line("d")


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(line("a") + line("b")[:-1])
    file = RecordFile(path, NEEDLE)
    assert set(file.records) == {"a", "b"}
    file.append(record("c"))
    file.close()
    assert path.read_bytes() == line("a") + line("b") + line("c")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b"{oops}\n", "damaged"),
        (b"\n", "damaged"),
        (b"[]\n", "not an object"),
        (b"\xff\xfe\n", "damaged"),
        (line("x", schema=9), "was written by a newer version (schema 9, this one reads 1): use"),
        (line("x", schema=0), "was written by an older version (schema 0, "),
        (line("x", schema="1"), "is damaged (schema '1', this version reads 1)"),
        (line("x", status="great"), "unknown status 'great'"),
        (b'{"schema": 1}\n', "no key"),
    ],
)
def test_damage_in_the_middle_names_its_line(tmp_path: Path, damage: bytes, words: str) -> None:
    path = tmp_path / "results.jsonl"
    content = line("a") + damage + line("b")
    path.write_bytes(content)
    with pytest.raises(UserError, match="line 2") as caught:
        RecordFile(path, NEEDLE)
    assert words in str(caught.value)
    assert path.read_bytes() == content


def test_the_last_record_of_a_key_counts() -> None:
    found = latest([record("a", status="error", score=None), record("b"), record("a")])
    assert found["a"]["status"] == "ok"
    assert len(found) == 2


def test_writing_whole_files_replaces_them(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.json", "old")
    write_atomically(tmp_path / "x.json", "new")
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "new"


SLOW_RUN = """
    import sys, time
    from pathlib import Path
    import needle_fakes
    from longctx.eval.runfolder.folder import RunFolder, describe_run
    from longctx.eval.texts.haystack import Haystack

    class Quiet:
        def started(self, cell): pass
        def finished(self, cell, record): pass

    output, pause = Path(sys.argv[1]), float(sys.argv[2])
    book = Haystack.from_text(needle_fakes.english(60_000), "book")
    sweep = needle_fakes.make_sweep(needle_fakes.chatml_tokenizer(), book, ("none", "dca"))

    def slow(request, text):
        time.sleep(pause)
        return needle_fakes.reads_only(512)(request, text)

    sessions = {m: needle_fakes.Scripted(slow, method=m) for m in sweep.schemes}
    with RunFolder(output) as folder:
        folder.begin(describe_run(
            config=sweep.config, settings={"seed": 0}, schemes=sweep.schemes,
            model={"name": "scripted"}, haystack={"id": "book"}, trained_length=512, session={}))
        sweep.run(sweep.pending(folder.results.records), sessions, folder.results, Quiet())
"""


def start(output: Path, pause: float) -> subprocess.Popen[bytes]:
    code = textwrap.dedent(SLOW_RUN)
    environment = {**os.environ, "PYTHONPATH": f"{TESTS / 'support'}:{TESTS.parent}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(output), str(pause)], env=environment, cwd=TESTS.parent
    )


def outcome(output: Path) -> list[tuple[Any, ...]]:
    names = ("key", "length", "depth", "repeat", "prompt_sha256", "response", "status", "score")
    return sorted(tuple(found[name] for name in names) for found in summary.load(output).records)


def test_kill_minus_nine_loses_at_most_the_cell_in_flight(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed, 0.2)
    path = killed / "results.jsonl"
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = path.read_bytes()
    with path.open("ab") as stream:  # what a kill in the middle of a write leaves
        stream.write(b'{"schema": 1, "key": "')

    assert start(killed, 0.0).wait() == 0
    assert start(whole, 0.0).wait() == 0
    after = path.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 24
    assert outcome(killed) == outcome(whole)
    assert start(killed, 0.0).wait() == 0
    assert path.read_bytes() == after


def test_older_records_are_read_with_both_scorers(tmp_path: Path) -> None:
    """A cut-off answer had no score; an answer has the verdict of then until it is judged again."""
    expected = ["1111111", "2222222", "3333333", "4444444"]
    about = {"expected": expected, "match": "all"}
    cut_off = {
        "status": "truncated_output",
        "score": None,
        "response": "1111111 2222222 3333333 44",
    }
    old = [
        record("cut", **about, **cut_off),
        record("then", **about, status="miss", score=0.0, response="_1111111_ 2222222 x3333333"),
        record("failed", **about, status="error", score=None, response=None),
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in old))
    cut, then, failed = read(file)
    assert (cut["score"], cut["scores"]) == (0.75, {"whole": 0.75, "ruler": 0.75})
    assert (scored(cut), cut["status"]) == (0.75, "truncated_output")
    assert (then["score"], then["scores"]) == (0.0, {"whole": 0.0, "ruler": 0.75})
    assert (failed["score"], failed["scores"], scored(failed)) == (None, None, None)
