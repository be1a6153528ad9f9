"""`longctx documents`: what is kept, with and without a running server; every mistake one line."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_helpers import Served, long_text, served
from typer.testing import CliRunner

from longctx import cli
from longctx.documents import disk
from longctx.documents.store import DocumentStore
from longctx.errors import UserError

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, no_proxy_and_no_key: None, tmp_path: Path) -> None:
    monkeypatch.delenv("LONGCTX_DOCUMENT_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A document of more than one chunk."""
    (tmp_path / "texts").mkdir()
    made = tmp_path / "texts" / "report.md"
    made.write_text(long_text(700))
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(document_store=tmp_path_factory.mktemp("kept") / "store") as found:
        yield found


def invoke(*words: object) -> Any:
    return CliRunner().invoke(cli.app, ["documents", *map(str, words)], catch_exceptions=False)


def told(*words: object) -> Any:
    result = invoke(*words, "--json")
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def refused(message: str, *words: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        invoke(*words)
    assert "\n" not in str(caught.value)


# -- without a server -----------------------------------------------------------------------------


def test_a_document_is_added_listed_verified_and_removed(store: Path, file: Path) -> None:
    there = ("--document-store", store)
    (added,) = told("add", file, *there)["documents"]
    assert (added["name"], added["state"], added["persistent"]) == ("report.md", "ready", True)
    assert added["stored_tokens"] == added["tokens"] > 600
    listed = told("list", *there)
    assert (listed["store"], listed["damaged"]) == (str(store), {})
    (one,) = listed["documents"]
    assert one["id"] == added["id"] and one["bytes"] == listed["bytes"] > 100_000
    shown = invoke("list", *there)
    assert shown.stdout.split()[:2] == [added["id"], "report.md"]
    assert f"{added['tokens']:,} tokens stored" in shown.stdout
    assert f"1 document in {store}" in shown.stderr
    assert told("verify", *there)["documents"] == {added["id"]: []}
    assert invoke("verify", added["id"], *there).stdout == f"{added['id']}  as it was written\n"
    assert invoke("remove", added["id"], *there).stdout == f"removed {added['id']}\n"
    assert told("list", *there)["documents"] == []
    assert {path.name for path in store.iterdir()} == {".lock", "weights.json"}


def test_a_text_alone_needs_no_model(store: Path, file: Path, monkeypatch: Any) -> None:
    from longctx.serve import loading

    monkeypatch.setattr(loading, "prepare", None)
    shown = invoke("add", file, "--text-only", "--document-store", store)
    assert shown.stdout.endswith("text alone\n") and "report.md" in shown.stdout
    assert invoke("list", "--document-store", store).stdout.endswith("bytes  text alone\n")


def test_what_is_damaged_is_found(store: Path, file: Path) -> None:
    there = ("--document-store", store)
    (added,) = told("add", file, *there)["documents"]
    (keys,) = store.glob("*.safetensors")
    raw = bytearray(keys.read_bytes())
    raw[len(raw) - 5000] ^= 1
    keys.write_bytes(raw)
    found = invoke("verify", *there)
    assert found.exit_code == 1
    assert found.stdout == f"{added['id']}  its keys are damaged from token 512 on\n"
    (store / f"{added['id']}.txt").write_text("another")
    assert "is not what was added" in invoke("verify", *there).stdout
    (store / f"{added['id']}.json").write_text("{")
    assert "damaged: " in invoke("list", *there).stdout
    assert invoke("verify", *there).exit_code == 1
    invoke("remove", added["id"], *there)
    assert told("verify", *there)["documents"] == {}


def test_the_default_place(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("add", file, "--text-only")
    assert (tmp_path / "data/longctx/documents").is_dir()
    monkeypatch.setenv("LONGCTX_DOCUMENT_STORE", str(tmp_path / "named"))
    invoke("add", file, "--text-only")
    assert told("list")["store"] == str(tmp_path / "named")


# -- with one -------------------------------------------------------------------------------------


def test_a_server_has_its_documents(server: Served, file: Path, store: Path) -> None:
    for address in (server.url, f"{server.url}/v1", server.url.removeprefix("http://")):
        (added,) = told("add", file, "--server", address)["documents"]
        assert (added["state"], added["persistent"]) == ("ready", True)
    (one,) = told("list", "--server", server.url)["documents"]
    assert one["id"] == added["id"]
    assert "tokens stored" in invoke("list", "--server", server.url).stdout
    # Beside the server, what it has is read and not written.
    there = ("--document-store", server.service.settings.document_store)
    assert told("list", *there)["documents"][0]["id"] == added["id"]
    assert told("verify", *there)["documents"] == {added["id"]: []}
    for words in (("add", file), ("add", file, "--text-only"), ("remove", added["id"])):
        refused("another process has it: stop that one, ask it", *words, *there)
    assert invoke("remove", added["id"], "--server", server.url).exit_code == 0
    assert told("list", "--server", server.url)["documents"] == []


def test_a_server_that_keeps_nothing_is_told(tmp_path: Path, file: Path) -> None:
    (tmp_path / "file").write_text("")
    with served(document_store=tmp_path / "file" / "store") as server:
        result = invoke("add", file, "--server", server.url)
    assert result.exit_code == 0
    assert "report.md: kept until the server ends: --document-store" in result.stderr


def test_a_server_with_a_key(file: Path) -> None:
    with served(api_key="open-sesame") as locked:
        refused(r"--server http\S+: refuses \(401\): ", "list", "--server", locked.url)
        words = ("list", "--server", locked.url, "--api-key", "open-sesame")
        assert told(*words)["documents"] == []


# -- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fly",), "ACTION fly: use list, add, remove, verify"),
        (("add",), "ACTION add: name files, one or more"),
        (("remove",), "ACTION remove: name ids, one or more"),
        (("list", "doc_1"), "ACTION list: takes no doc_1: leave it out"),
        (("verify", "doc_1"), "ID doc_1: there is no such document in .*store"),
        (("remove", "doc_1"), "ID doc_1: there is no such document in .*store"),
        (("add", "nowhere.txt"), "FILE nowhere.txt: no such file or folder"),
        (("add", "https://a.b/c"), "FILE https://a.b/c: a URL is not fetched"),
        (("verify", "--server", "x"), "--server: verify reads the directory itself: leave it out"),
        (("add", "x", "--text-only", "--server", "x"), "--text-only with --server x: a server"),
        (("list", "--server", NOWHERE), f"--server {NOWHERE}: does not answer as longctx does"),
        (("list", "--server", "ftp://x"), "--server ftp://x: not an address"),
        (("list", "--document-budget", "much"), "--document-budget much: not an amount of memory"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...], message: str, store: Path, file: Path
) -> None:
    words = tuple(str(file) if word == "x" and words[0] == "add" else word for word in words)
    message = message.replace("--server x", f"--server {file}") if str(file) in words else message
    refused(message, *words, "--document-store", store)


def test_files_that_are_no_documents(store: Path, tmp_path: Path) -> None:
    there = ("--document-store", store)
    for name, raw, why in (
        ("empty.txt", b" \n", "is empty: give one with text"),
        ("a.bin", b"\x00\x01\xff" * 50, r"no text: not UTF-8 "),
        ("a.docx", b"PK\x03\x04" + bytes(50), "no text but a zip archive"),
    ):
        (tmp_path / name).write_bytes(raw)
        refused(rf"FILE \S+{name}: ({why})", "add", tmp_path / name, *there)
    (tmp_path / "long.txt").write_text(long_text(1500))
    refused(
        r"FILE long\.txt: too long: 1,\d\d\d tokens, and the context is 1,024, of which .*--co",
        *("add", tmp_path / "long.txt", *there, "--context", "1K"),
    )


def test_a_server_refuses_in_one_line(server: Served, tmp_path: Path) -> None:
    at = ("--server", server.url)
    refused(r"refuses \(404\): There is no document 'doc_1' here", "remove", "doc_1", *at)
    (tmp_path / "long.txt").write_text(long_text(17_000))
    refused(r"refuses \(400\): .*16384", "add", tmp_path / "long.txt", *at)
    refused(r"refuses \(404\): There is nothing at", "list", "--server", f"{server.url}/elsewhere")


def test_a_store_that_cannot_be_used(
    store: Path, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    words = ("add", file, "--text-only", "--document-store")
    refused("--document-store .*: cannot be used ", *words, tmp_path / "file" / "x")
    refused("--document-store .*: cannot be used ", "list", "--document-store", tmp_path / "file")
    refused("--document-budget 10: .* do not fit", *words, store, "--document-budget", "10")
    with DocumentStore(store) as taken:
        assert taken.records() == []
        refused("another process has it", *words, store)

    def full(_file: Any, _data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    refused(r"cannot be written to \(No space left on device\): make room", *words, store)
    monkeypatch.undo()
    assert not [path.name for path in store.iterdir() if path.name != ".lock"]
