"""Reading files, and counting tokens in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pdf_fakes
import pytest

from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval.texts.haystack import Haystack, TokenMap, load


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
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UserError, match=r"no \.txt, \.md, \.pdf and no source code: name files"):
        load(str(tmp_path))


def test_a_directory_of_source_code(tmp_path: Path) -> None:
    code = {
        "setup.py": "import a",
        "README.md": "# A",
        "src/main.RS": "fn main() {}",
        "src/deep/x.h": "int x;",
    }
    others = {
        ".git/hook.sh": "exit",
        ".hidden.py": "x",
        "node_modules/a/a.js": "x",
        "src/__pycache__/a.py": "x",
        "package-lock.json": "{}",
        "logo.svg": "<svg/>",
    }
    for name, text in {**code, **others}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.c").write_bytes(b"int\x00\x01")
    (tmp_path / "folder.py").mkdir()
    haystack = load(str(tmp_path))
    assert haystack.text == "# A\n\nimport a\n\nint x;\n\nfn main() {}"
    assert [Path(file).name for file in haystack.files] == [
        "README.md",
        "setup.py",
        "x.h",
        "main.RS",
    ]


def test_a_code_file_in_no_known_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"# caf\xe9 \xff\xfe")
    with pytest.raises(UserError, match=r"a\.py: .*bad byte at 5: save it as UTF-8"):
        load(str(tmp_path))


def test_pdf_files_are_read_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "book.PDF").write_bytes(pdf_fakes.pdf(["One page.", "Another."]))
    (tmp_path / "paper.txt").write_bytes(pdf_fakes.pdf(["A paper."]))
    assert load(str(tmp_path)).text == "One page.\n\nAnother.\n\nA paper."
    (tmp_path / "no.pdf").write_bytes(b"no pdf")
    with pytest.raises(UserError, match=r"--haystack .*no\.pdf: cannot be read as PDF"):
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


def test_starts_are_counted_where_tokens_are_uneven(chatml: Any, book: Haystack) -> None:
    # Characters of Chinese are three tokens each here, and English ones a third of one.
    mixed = Haystack.from_text("他在河边等着她回来。" * 1200 + "\n\n" + book.text[:16_000])
    tokens = TokenMap(mixed, ChatEncoder(chatml).offsets)
    guess = tokens.start_for(4000, 0.99)
    assert len(tokens.slice(guess, 4000).token_ends) < 4000
    start = tokens.last_start(4000, guess)
    assert 0 < start < guess
    assert 4000 <= len(tokens.slice(start, 10**6).token_ends) < 4200


def test_repeating_is_only_done_when_allowed(chatml: Any) -> None:
    short = Haystack.from_text("A short text. It ends soon.")
    chat = ChatEncoder(chatml)
    assert len(TokenMap(short, chat.offsets).slice(0, 500).token_ends) < 50
    assert len(TokenMap(short, chat.offsets, allow_repeat=True).slice(0, 500).token_ends) >= 500
