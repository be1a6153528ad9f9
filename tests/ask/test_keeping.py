"""`longctx ask` and the document store: what was read is read again from the disk, exactly."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from serve_helpers import served
from typer.testing import CliRunner

from longctx import cli, tiny
from longctx.ask import choose
from longctx.ask.answer import AskedAnswer, PromptProgress
from longctx.ask.local import LocalAnswering
from longctx.ask.prompt import messages, one_document
from longctx.attention.rope import temperature_bucket
from longctx.chat.documents import HEAD_ROOM, part_of
from longctx.chat.renderer import ChatRenderer
from longctx.documents import disk
from longctx.documents.store import DocumentStore
from longctx.errors import UserError
from longctx.eval.texts import prose
from longctx.models.source import load_tokenizer, locate
from longctx.options.ask import AskOptions
from longctx.reading import ReadDocument, read_document

NUMBER = "7239160"
QUESTION = "What is the special magic number for amber-anchor mentioned in the provided text?"
STATED = f" One of the special magic numbers for amber-anchor is: {NUMBER}. "


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, no_proxy_and_no_key: None, tmp_path: Path) -> None:
    for name in ("LONGCTX_MODEL", "LONGCTX_SERVER", "LONGCTX_DOCUMENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(choose, "DEFAULT", "http://127.0.0.1:9")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def text_of(characters: int, seed: int = 0) -> str:
    text = prose.haystack(4000).text[seed : seed + characters]
    return text[: characters // 2] + STATED + text[characters // 2 :]


def book(characters: int = 5000, seed: int = 0, name: str = "there/book.txt") -> ReadDocument:
    return read_document(text_of(characters, seed).encode(), name)


class Heard:
    """Interrupts where so many tokens are read."""

    def __init__(self, interrupts_at: int | None = None) -> None:
        self.steps: list[PromptProgress] = []
        self.expected: list[tuple[int, float]] = []
        self._at = interrupts_at

    def expects(self, tokens: int, seconds: float) -> None:
        self.expected.append((tokens, seconds))

    def progress(self, progress: PromptProgress) -> None:
        self.steps.append(progress)
        if self._at is not None and progress.processed >= self._at:
            raise KeyboardInterrupt

    def text(self, text: str) -> None:
        return


@contextmanager
def process(model: str = "embedded", **options: Any) -> Iterator[LocalAnswering]:
    """What one run of `longctx ask` has."""
    local = LocalAnswering(AskOptions(**{"max_tokens": 12, **options}), model)
    try:
        yield local
    finally:
        local.close()


def ask(documents: list[ReadDocument], question: str = QUESTION, **options: Any) -> AskedAnswer:
    with process(**options) as local:
        return local.ask(documents, question, Heard())


def cached(answer: AskedAnswer) -> int:
    assert answer.cached_tokens is not None
    return answer.cached_tokens


@pytest.mark.parametrize("method", ["dca", pytest.param("yarn+dca", marks=pytest.mark.slow)])
def test_the_next_process_goes_on_from_what_was_read(store: Path, method: str) -> None:
    """With the same answers as where nothing is kept, for this question and another."""
    kept: dict[str, Any] = {"document_store": store, "method": method}
    first = ask([book()], **kept)
    assert (cached(first), len(list(store.glob("*.safetensors")))) == (0, 1)
    assert first.notes == (f"kept for later questions in {store}: longctx documents list",)
    with process(**kept) as local:
        again = local.ask([book(name="elsewhere/book.txt")], QUESTION, Heard())
        other = local.ask([book()], "Which number?", Heard())
    for question, answer in ((QUESTION, again), ("Which number?", other)):
        fresh = ask([book()], question, method=method, no_document_store=True)
        assert (cached(fresh), fresh.notes) == (0, ())
        assert answer.text == fresh.text and fresh.prompt_tokens is not None
        assert 1000 < cached(answer) < fresh.prompt_tokens and answer.notes == ()
    assert first.text == again.text


@pytest.mark.slow
def test_several_files_are_kept_as_what_stands_in_the_prompt(store: Path) -> None:
    both = [book(3000), book(2500, seed=5000, name="b.txt")]
    first = ask(both, document_store=store)
    again = ask(both, document_store=store)
    fresh = ask(both, no_document_store=True)
    turned = ask(both[::-1], document_store=store)
    assert first.text == again.text == fresh.text
    assert (cached(first), cached(turned)) == (0, 0) and cached(again) > 1000
    name, text = one_document(both)
    assert name == "book.txt, b.txt" and part_of("b.txt", both[1].text) in text
    assert messages(both, "Q", "")[0]["content"] == part_of(name, text)
    same = [read_document(b"1", "x/a.txt"), read_document(b"2", "y/a.txt")]
    assert one_document(same)[0] == "x/a.txt, y/a.txt"


def of_tokens(count: int) -> ReadDocument:
    """A document with which every prompt's first `count` tokens are the same."""
    import numpy as np

    from longctx.documents.prompt import prefix_of

    renderer = ChatRenderer(load_tokenizer(locate(str(tiny.WEIGHTS))))

    def size(text: str) -> int:
        return len(renderer.encode_text(part_of("a", text)))

    before = len(prefix_of(renderer, np.asarray([7]))) - 1
    words, wanted = text_of(6 * count).split(" "), count - before
    low, high = 0, len(words)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(" ".join(words[:middle])) <= wanted else (low, middle)
    for taken in range(low, low - 40, -1):
        for tail in ("", "!", "1", "?!", "12", "123", "1234", "?!?!1"):
            text = " ".join(words[:taken]) + tail
            if size(text) == wanted:
                return read_document(text.encode(), "a")
    raise AssertionError("no text of that length")


@pytest.mark.slow
@pytest.mark.parametrize("below", [1, HEAD_ROOM], ids=["document", "with its head-room"])
def test_questions_of_1_and_1024_tokens_find_the_keys_at_an_edge(store: Path, below: int) -> None:
    """Of the temperature's buckets: where the document, or with its head-room, just has room."""
    edge = temperature_bucket(1400 + below, 512)
    document = of_tokens(edge - below)
    long = QUESTION + " number" * 1000
    with process(document_store=store, method="yarn+dca") as local:
        assert cached(local.ask([document], "?", Heard())) == 0
        tokens = len(local.check([document], long)) - len(local.check([document], "?")) + 1
    long += " number" * (1024 - tokens)
    for question in ("?", long):
        with process(document_store=store, method="yarn+dca") as local:
            size = len(local.check([document], question)) - len(local.check([document], "?")) + 1
            assert size in (1, 1024)
            answer = local.ask([document], question, Heard())
        assert cached(answer) >= edge - below
        fresh = ask([document], question, method="yarn+dca", no_document_store=True)
        assert answer.text == fresh.text


@pytest.mark.slow
def test_a_longer_question_is_read_anew_and_spoils_nothing(store: Path) -> None:
    document = of_tokens(temperature_bucket(1400, 512) - 1)
    ask([document], "?", document_store=store, method="yarn+dca")
    long = ask([document], "number " * 2200, document_store=store, method="yarn+dca")
    assert cached(long) == 0
    assert cached(ask([document], "?", document_store=store, method="yarn+dca")) > 1400


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["method", "dtype", "weight"])
def test_what_was_computed_otherwise_is_computed_again(
    store: Path, tmp_path: Path, changed: str
) -> None:
    ask([book()], document_store=store, method="yarn+dca")
    options: dict[str, Any] = {"method": "yarn+dca"}
    if changed == "method":
        options["method"] = "dca"
    elif changed == "dtype":
        options["dtype"] = "bfloat16"
    else:
        options["model"] = str(shutil.copytree(tiny.WEIGHTS, tmp_path / "model"))
        (file,) = Path(options["model"]).glob("*.safetensors")
        weights = load_file(file)
        name = next(each for each in weights if "layers.0" in each and "v_proj.weight" in each)
        weights[name][0, 0] += 0.5
        save_file(weights, file, metadata={"format": "pt"})
    answer = ask([book()], document_store=store, **options)
    fresh = ask([book()], no_document_store=True, **options)
    assert (cached(answer), answer.text) == (0, fresh.text)
    assert cached(ask([book()], document_store=store, **options)) > 1000


def test_what_was_read_before_an_interrupt_is_there_afterwards(store: Path) -> None:
    document = book(16000)
    with process(document_store=store) as local, pytest.raises(KeyboardInterrupt):
        local.ask([document], QUESTION, Heard(interrupts_at=600))
    with DocumentStore(store, reads_only=True) as looked:
        (record,) = looked.records()
        assert record.keys is not None and not record.keys.complete
        there = record.keys.stored_tokens
    assert there >= 512 and there % 512 == 0
    with process(document_store=store) as local:
        again = local.ask([document], QUESTION, Heard())
    assert cached(again) == there
    assert again.text == ask([document], no_document_store=True).text
    assert cached(ask([document], document_store=store)) > 3000


@pytest.mark.slow
def test_an_interrupt_between_two_questions_harms_nothing(store: Path) -> None:
    document = book(16000)
    with process(document_store=store) as local:
        with pytest.raises(KeyboardInterrupt):
            local.ask([document], QUESTION, Heard(interrupts_at=600))
        again = local.ask([document], QUESTION, Heard())
    assert cached(again) >= 512
    assert cached(ask([document], document_store=store)) > 3000


# -- where nothing can be kept ------------------------------------------------------------------


def invoke(*words: str) -> Any:
    options = ["--local", "--max-tokens", "8"]
    return CliRunner().invoke(cli.app, ["ask", *words, *options], catch_exceptions=False)


def test_where_the_store_is_taken_it_is_read(store: Path, tmp_path: Path) -> None:
    """One line says so; what is there is used, and nothing is added."""
    file, other = tmp_path / "book.txt", tmp_path / "other.txt"
    file.write_text(text_of(5000))
    other.write_text(text_of(5000, seed=5000))
    words = ("--document-store", str(store))
    first = invoke(str(file), QUESTION, *words)
    with DocumentStore(store):
        again = invoke(str(file), QUESTION, *words)
        new = invoke(str(other), QUESTION, *words)
    line = f"another process has the document store {store}: read from it, nothing added"
    assert again.stderr.count(line) == new.stderr.count(line) == 1
    assert again.stdout == first.stdout and "of them reused" in again.stderr
    assert "reused" not in new.stderr and new.exit_code == 0
    assert len(list(store.glob("*.json"))) == 2  # of one document, and checksums of weights


def test_where_it_can_be_no_directory_the_answer_comes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text_of(5000))
    result = invoke(str(tmp_path / "file"), "What?", "--document-store", str(tmp_path / "file/x"))
    assert result.exit_code == 0 and result.stdout.strip()
    assert "nothing is kept: --document-store" in result.stderr and "cannot be" in result.stderr


def test_on_a_full_disk_it_is_told_and_nothing_is_left(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = disk.write, 400_000

    def full(file: Any, data: Any) -> None:
        nonlocal room
        room -= memoryview(data).nbytes
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    fresh = ask([book()], no_document_store=True)
    monkeypatch.setattr(disk, "write", full)
    answer = ask([book()], document_store=store)
    assert answer.text == fresh.text
    assert answer.notes == ("not kept for later questions: No space left on device",)
    assert not list(store.glob("*.safetensors")) and not list(store.glob("*.part"))
    small = ask([book()], document_store=store, document_budget=50_000)
    assert "--document-budget 50000" in small.notes[0]


def test_it_can_be_forbidden_and_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, short = tmp_path / "book.txt", tmp_path / "short.txt"
    file.write_text(text_of(5000))
    short.write_text("Seven.")
    invoke(str(file), "What?", "--no-document-store")
    invoke(str(short), "What?")  # read as fast as it is found
    assert not (tmp_path / "data").exists()
    invoke(str(file), "What?")
    assert len(list((tmp_path / "data/longctx/documents").glob("*.safetensors"))) == 1
    monkeypatch.setenv("LONGCTX_DOCUMENT_STORE", str(tmp_path / "named"))
    invoke(str(file), "What?")
    assert len(list((tmp_path / "named").glob("*.safetensors"))) == 1
    with pytest.raises(UserError, match=r"--no-document-store with --document-store x: leave one"):
        AskOptions(no_document_store=True, document_store=Path("x"))
    with pytest.raises(UserError, match=r"--document-budget 0: must be at least 1"):
        AskOptions(document_budget=0)


# -- with a server --------------------------------------------------------------------------------


def asked_at(url: str, documents: list[ReadDocument], **options: Any) -> AskedAnswer:
    found = choose.choose(AskOptions(server=url, **{"max_tokens": 12, **options}))
    try:
        return found.answering.ask(documents, QUESTION, Heard())
    finally:
        found.answering.close()


def test_a_server_keeps_what_it_is_asked_about(store: Path) -> None:
    """The same document, prompt and keys as of a process that asks by itself."""
    here = ask([book()], document_store=store)
    with served(document_store=store) as server:
        first = asked_at(server.url, [book()])
        other = asked_at(server.url, [book(3000, seed=9000, name="b.txt")])
        again = asked_at(server.url, [book(3000, seed=9000, name="b.txt")])
        count = len(server.service.documents.all())
        plain = asked_at(server.url, [book(3500, seed=9000, name="c.txt")], no_document_store=True)
        assert len(server.service.documents.all()) == count == 2
    assert first.text == here.text and cached(first) > 1000
    assert (cached(other), other.notes) == (0, ()) and cached(again) > 600
    assert other.text == again.text and plain.prompt_tokens is not None
    later = ask([book(3000, seed=9000, name="b.txt")], document_store=store)
    assert cached(later) > 600 and later.text == other.text


def test_a_server_that_can_keep_nothing_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with served(document_store=tmp_path / "file" / "store") as server:
        first, again = (asked_at(server.url, [book()]) for _ in range(2))
    assert "kept until the server ends: --document-store" in first.notes[0]
    assert cached(again) > 1000 and first.text == again.text


def test_an_interrupt_says_what_the_server_still_does(store: Path) -> None:
    with served(document_store=store, chunk_budget=64) as server:
        found = choose.choose(AskOptions(server=server.url, max_tokens=4))
        with pytest.raises(KeyboardInterrupt, match=r"documents remove doc_\w+ --server http"):
            found.answering.ask([book(30000)], QUESTION, Heard(interrupts_at=0))
        found.answering.close()
