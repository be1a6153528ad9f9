"""Reading files, and counting tokens in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pdf_fakes
import pytest

from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval.texts.files import Reading
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
        ("bad.txt", bytes([128, 255, 0, 129, 141, 254, 1]), "bad byte at 0"),
        ("latin.txt", b"caf\xe9", r"may be cp1252 \("),
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


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Three files, one of them in Latin-1."""
    for name, text in (("a.py", b"a = 1"), ("bad.py", b"# caf\xe9\n"), ("c.py", b"c = 3")):
        (tmp_path / name).write_bytes(text)
    return tmp_path


def test_what_cannot_be_read_is_skipped_and_told(code: Path) -> None:
    haystack = load(str(code))
    assert haystack.text == "a = 1\n\nc = 3"
    assert [Path(file).name for file in haystack.files] == ["a.py", "c.py"]
    (file,) = haystack.sources.skipped
    assert Path(file).name == "bad.py"
    first, second = haystack.sources.notes()
    assert first == "skipped 1 of 3 files (--strict ends the run):"
    assert "bad.py: not UTF-8; it may be cp1252" in second
    assert haystack.sources.describe()["skipped"].keys() == {file}


def test_strict_ends_at_what_cannot_be_read(code: Path) -> None:
    with pytest.raises(UserError, match=r"^--text .*bad\.py: not UTF-8.*--encoding") as caught:
        load(str(code), Reading("--text", strict=True))
    assert "\n" not in str(caught.value)


def test_a_named_encoding_is_of_what_is_not_utf8(code: Path) -> None:
    (code / "c.py").write_text("# née", encoding="utf-8")
    haystack = load(str(code), Reading(encoding="latin-1", strict=True))
    assert haystack.text == "a = 1\n\n# café\n\n# née"
    assert {Path(file).name: name for file, name in haystack.sources.encodings.items()} == {
        "bad.py": "latin-1"
    }
    assert haystack.sources.notes() == ["read as latin-1: bad.py"]


def test_a_folder_of_nothing_readable_names_the_first(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt: .*\(1 more of 2 files cannot be read\)$"):
        load(str(tmp_path))


def test_long_lists_of_files_are_cut(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index:02}.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good.txt").write_text("good")
    notes = load(str(tmp_path)).sources.notes()
    assert (len(notes), notes[-1]) == (10, "  and 4 more: run.json lists them")
    (note,) = load(str(tmp_path / "*.txt"), Reading(encoding="cp1252")).sources.notes()
    assert note.endswith("07.txt and 4 more")


def test_a_code_file_with_a_mark_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("a = 1".encode("utf-16"))
    assert load(str(tmp_path)).text == "a = 1"


def test_pdf_files_are_read_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "book.PDF").write_bytes(pdf_fakes.pdf(["One page.", "Another."]))
    (tmp_path / "paper.txt").write_bytes(pdf_fakes.pdf(["A paper."]))
    assert load(str(tmp_path)).text == "One page.\n\nAnother.\n\nA paper."
    (tmp_path / "no.pdf").write_bytes(b"no pdf")
    with pytest.raises(UserError, match=r"--haystack .*no\.pdf: cannot be read as PDF"):
        load(str(tmp_path), Reading(strict=True))


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
