"""The store: what it keeps, gives up, and never gives out."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from document_pieces import (
    DIM,
    HEADS,
    LAYERS,
    PRINT,
    TOKENS,
    assert_right,
    keys_of,
    layout_of,
    store_keys,
    tokens_of,
)
from safetensors.torch import load_file

from longctx.documents.keys_file import DamagedError
from longctx.documents.store import DocumentStore, StoreFullError, default_directory
from longctx.errors import UserError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_texts_and_keys_are_there_again_in_the_next_process(directory: Path) -> None:
    with DocumentStore(directory) as store:
        record = store.add("a.txt", "one text\r\nof two lines ✓")
        store_keys(store, record.id, 1)
    with DocumentStore(directory) as store:
        (found,) = store.records()
        assert store.text(found.id) == "one text\r\nof two lines ✓"
        keys = store.keys(found.id, PRINT)
        assert keys is not None and keys.complete
        assert assert_right(keys, 1) == TOKENS
        assert store.keys(found.id, "another") is None
        assert store.get(found.id) == found  # nothing was given up for that


def test_a_name_and_a_text_have_one_id(directory: Path) -> None:
    with DocumentStore(directory) as store:
        first = store.add("a.txt", "text")
        store_keys(store, first.id, 1)
        assert store.add("a.txt", "text").keys is not None
        assert {store.add("b.txt", "text").id, store.add("a.txt", "text.").id}.isdisjoint(
            {first.id}
        )


def test_the_file_is_one_of_safetensors_as_large_as_its_floor(directory: Path) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "text").id
        store_keys(store, id, 1)
        file = directory / f"{id}.safetensors"
    found = load_file(file)
    assert found["tokens"].tolist() == tokens_of(1).tolist()
    assert found["keys.2"].equal(keys_of(1)[0][:, :, 1024:])
    floor = TOKENS * 2 * LAYERS * HEADS * DIM * 4
    assert layout_of().bytes_per_token * TOKENS == floor
    assert file.stat().st_size == layout_of().size < floor + 4 * TOKENS + 1024


def test_what_was_stored_of_a_prefill_is_gone_on_from(directory: Path) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "text").id
        store_keys(store, id, 1, chunks=2)
    with DocumentStore(directory) as store:
        keys = store.keys(id, PRINT)
        assert keys is not None and not keys.complete
        assert assert_right(keys, 1) == 1024


@pytest.mark.slow
def test_a_byte_flipped_anywhere_is_never_given_out(directory: Path) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "text").id
        store_keys(store, id, 1)
    file, manifest = directory / f"{id}.safetensors", directory / f"{id}.json"
    whole, told = file.read_bytes(), manifest.read_bytes()
    draw, counts = random.Random(0), []
    for place in (0, 7, 8, len(whole) - 1, *draw.sample(range(len(whole)), 196)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        manifest.write_bytes(told)
        with DocumentStore(directory) as store:
            counts.append(assert_right(store.keys(id, PRINT), 1))
            assert store.text(id) == "text"
    assert max(counts) < TOKENS  # none was overlooked
    assert set(counts) == {0, 512, 1024}  # chunks before the damage are as good as before


def test_a_file_cut_anywhere_is_never_given_out(directory: Path) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "text").id
        store_keys(store, id, 1)
    file, manifest = directory / f"{id}.safetensors", directory / f"{id}.json"
    whole, told = file.read_bytes(), manifest.read_bytes()
    for length in (0, 1, 8, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 46)):
        file.write_bytes(whole[:length])
        manifest.write_bytes(told)
        with DocumentStore(directory) as store:
            assert store.keys(id, PRINT) is None
            assert store.text(id) == "text"


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_a_damaged_text_or_manifest_is_refused_and_can_be_added_again(
    directory: Path, suffix: str
) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "a text that is longer").id
        store_keys(store, id, 1)
    file = directory / f"{id}{suffix}"
    whole = file.read_bytes()
    for place in range(0, len(whole), 1 + len(whole) // 60):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        file.write_bytes(flipped)
        with DocumentStore(directory) as store:
            if suffix == ".json":
                assert store.get(id) is None and id in store.damaged
            else:
                with pytest.raises(DamagedError):
                    store.text(id)
            assert store.faults(id)
    with DocumentStore(directory) as store:
        assert store.add("a.txt", "a text that is longer").id == id
        assert store.text(id) == "a text that is longer" and id not in store.damaged


def test_keys_of_the_longest_unused_make_way_and_texts_stay(directory: Path) -> None:
    budget = 2 * layout_of().size + 100
    with DocumentStore(directory, budget) as store:
        ids = [store.add(f"{at}.txt", "text").id for at in range(3)]
        for at, id in enumerate(ids[:2]):
            assert store_keys(store, id, at) == []
        store.touch(ids[0])
    with DocumentStore(directory, budget) as store:
        assert store_keys(store, ids[2], 2) == [ids[1]]
        assert store.used_bytes <= budget
        kept = [store.keys(id, PRINT) is not None for id in ids]
        assert kept == [True, False, True]
        assert [store.text(id) for id in ids] == ["text"] * 3
        with pytest.raises(StoreFullError, match="--document-budget"):
            store.add("large.txt", "x" * budget)
    with DocumentStore(directory, 1000) as store, pytest.raises(StoreFullError):
        store_keys(store, ids[0], 0)


def test_keys_that_come_after_the_document_went_leave_nothing(directory: Path) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "text").id
        store.remove(id)
        with pytest.raises(OSError, match="removed meanwhile"):
            store_keys(store, id, 1)
        store.touch(id)  # by a question that was answered meanwhile
        assert store.records() == [] and store.used_bytes == 0
        assert [path.name for path in directory.iterdir()] == [".lock"]


def test_one_process_has_it(directory: Path) -> None:
    with DocumentStore(directory) as store:
        id = store.add("a.txt", "text").id
        with pytest.raises(UserError, match="another process has it"):
            DocumentStore(directory)
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire()\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    run = [sys.executable, "-c", code, str(directory / ".lock")]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process has it"):
            DocumentStore(directory)
        with DocumentStore(directory, reads_only=True) as store:  # as `list` and `verify` do
            assert store.text(id) == "text" and store.faults(id) == []
        other.kill()
    DocumentStore(directory).close()  # the system gave it back


def test_where_nothing_can_be_made_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--document-store .*file/store: cannot be used"):
        DocumentStore(tmp_path / "file" / "store")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other data folders")
def test_the_default_is_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_directory() == Path("/data/longctx/documents")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # to be ignored, by the specification
    monkeypatch.setenv("HOME", "/home/her")
    assert default_directory() == Path("/home/her/.local/share/longctx/documents")
