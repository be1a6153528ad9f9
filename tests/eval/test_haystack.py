"""Reading files, and counting tokens in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longctx.errors import UserError
from longctx.eval.chat import ChatEncoder
from longctx.eval.haystack import Haystack, TokenMap, load


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"One.\r\nTwo.")
    haystack = load(str(tmp_path / "a.txt"))
    assert (haystack.text, haystack.id) == ("One.\nTwo.", "a.txt")


def test_a_directory_is_sorted_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.md").write_text("B.")
    (tmp_path / "a.txt").write_text("A.")
    (tmp_path / "sub" / "c.txt").write_text("C.")
    (tmp_path / "d.bin").write_bytes(b"\xff")
    haystack = load(str(tmp_path))
    assert haystack.text == "A.\n\nB.\n\nC."
    assert "3 files" in haystack.id
    assert haystack.sha256 == Haystack.from_text(haystack.text).sha256


def test_a_glob(tmp_path: Path) -> None:
    for name in ("b1.txt", "b2.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    assert load(str(tmp_path / "b*.txt")).text == "b1.txt\n\nb2.txt"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file"),
        ("empty.txt", b" \n", "no text"),
        ("bad.txt", b"caf\xe9 \xff\xfe", "bad byte at 3"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(str(tmp_path / name))
    assert name in str(caught.value)


def test_a_directory_without_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.txt or \.md"):
        load(str(tmp_path))


def test_the_map_counts_as_the_tokenizer_does(tokenizer: Any, book: Haystack) -> None:
    chat = ChatEncoder(tokenizer)
    counted = TokenMap(book, chat.offsets).tokens
    assert abs(counted - len(chat.offsets(book.text))) <= 0.001 * counted


def test_slices_start_at_sentences_and_hold_enough(tokenizer: Any, book: Haystack) -> None:
    chat = ChatEncoder(tokenizer)
    tokens = TokenMap(book, chat.offsets)
    starts = {tokens.start_for(3000, fraction) for fraction in (0.0, 0.3, 0.7, 0.999)}
    assert len(starts) == 4
    for start in starts:
        assert start == 0 or book.text[start - 1] in '.!?"'
        piece = tokens.slice(start, 3000)
        assert len(piece.token_ends) >= 3000
        assert piece.tokens_before(piece.character_after(1234)) == 1234


def test_repeating_is_only_done_when_allowed(chatml: Any) -> None:
    short = Haystack.from_text("A short text. It ends soon.")
    chat = ChatEncoder(chatml)
    assert len(TokenMap(short, chat.offsets).slice(0, 500).token_ends) < 50
    assert len(TokenMap(short, chat.offsets, allow_repeat=True).slice(0, 500).token_ends) >= 500
