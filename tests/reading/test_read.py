"""Texts out of bytes and files, where each character stood, and one line for what no text."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pdf_fakes
import pytest

from longctx.errors import UserError
from longctx.reading import ReadingError, read, read_document, read_word
from longctx.reading.process import PageError, PageLimits, page_blocks

PAGE = """<!DOCTYPE html>
<html><head><title>A &amp; B</title><style>p { color: red }</style></head>
<body><script>document.write("<p>never</p>")</script>
<h2>Prices</h2>
<p>One <b>two</b>
three<br>four &lt;|im_end|&gt;</p>
<ul><li>first<li>second</ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre>def f():
    return 1</pre>
<noscript>no</noscript><svg><text>no</text></svg><template>no</template>
"""
TEXT = """# A & B

## Prices

One two three
four <|im_end|>

- first

- second

a | b

1 | 2

def f():
    return 1"""


def refused(message: str, source: bytes | Path, *arguments: str, **options: str) -> None:
    with pytest.raises(ReadingError, match=message) as caught:
        read_document(source, *arguments, **options)
    assert "\n" not in str(caught.value)


# -- text ---------------------------------------------------------------------------------------


def test_text_is_settled_and_its_lines_count() -> None:
    found = read_document("one\r\ntwo cafe\u0301\n".encode(), "a.txt")
    assert (found.text, found.notes, found.media_type) == ("one\ntwo café\n", (), "text/plain")
    assert str(found.place(0)) == "a.txt:1"
    assert str(found.place(found.text.index("caf"))) == "a.txt:2"


def test_encodings_are_recognised_named_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    chinese = "子曰：學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？" * 8
    file.write_bytes(chinese.encode("gb18030"))
    assert read_document(file).text == chinese
    assert read_document(file).notes == ("read as gb18030",)
    file.write_bytes("déjà vu, naïve".encode("cp1252"))
    refused(r"a\.txt: not UTF-8; it may be .*--encoding", file)
    assert read_document(file, encoding="cp1252").text == "déjà vu, naïve"
    data = "déjà vu".encode("cp1252")
    assert read_document(data, "a", "text/plain; charset=windows-1252").text == "déjà vu"
    with pytest.raises(UserError, match="--encoding klingon: no encoding"):
        read_document(file, encoding="klingon")


def test_markdown_is_left_as_it_is() -> None:
    found = read_document(b"# Head\n\n<b>x</b>\n", "README.md")
    assert (found.text, found.media_type) == ("# Head\n\n<b>x</b>\n", "text/markdown")


# -- HTML ---------------------------------------------------------------------------------------


def test_a_page_is_its_blocks_in_order() -> None:
    found = read_document(PAGE.encode(), "page.html")
    assert (found.text, found.media_type) == (TEXT, "text/html")
    for word, line in (("A & B", 2), ("Prices", 4), ("four", 5), ("second", 7), ("return", 9)):
        assert str(found.place(found.text.index(word))) == f"page.html:{line}"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("x.htm", None), ("x", None), ("x", "text/html; charset=utf-8"), ("x.txt", "text/html")],
)
def test_pages_are_told_by_type_name_or_beginning(name: str, media_type: str | None) -> None:
    assert read_document(PAGE.encode(), name, media_type).text == TEXT


def test_a_page_that_is_said_to_be_text_stays_so() -> None:
    assert read_document(b"<p>x</p>", "x", "text/plain").text == "<p>x</p>"


def test_a_page_says_its_encoding() -> None:
    page = "<html><meta charset='windows-1252'><p>déjà vu</p>".encode("cp1252")
    assert read_document(page, "x.html").text == "déjà vu"
    page = page.replace(b"windows-1252", b"no-such-one!")
    refused("it may be", page, "x.html")


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>a<p>b</div></span><i>c", "a\n\nb\n\nc"),
        ("<svg><p>lost</body>found", "found"),
        ("<td>a<td>b", "a | b"),
        ("<p a='" + "x" * 70_000 + "'>kept", "kept"),
        ("<div>" * 20_000 + "deep", "deep"),
        ("<![if x]>a<![endif]>b<!-->c-->d<?php x ?>e", "ab"),
        ("<p>&#0;&#xD800;&#x110000;&unknown;", "\ufffd\ufffd\ufffd&unknown;"),
    ],
)
def test_broken_and_hostile_pages_stay_text(page: str, text: str) -> None:
    found = read_document(page.encode(), "x.html").text
    assert found.startswith(text)
    assert "lost" not in found


def test_a_page_has_a_clock_and_a_bound() -> None:
    with pytest.raises(PageError, match="has more than 10 characters of text: split it"):
        page_blocks("<p>" + "x" * 11, PageLimits(characters=10))
    with pytest.raises(PageError, match=r"takes more than 0.01 seconds to be read: save it as"):
        page_blocks("<p>x" * 300_000, PageLimits(seconds=0.01))
    with pytest.raises(PageError, match=r"16 MiB.*: save it as text"):
        page_blocks("<p>x" * 300_000, PageLimits(memory=16 << 20))


def test_a_page_without_text() -> None:
    refused(r"x\.html: is a page without text", b"<html><script>x()</script></html>", "x.html")


# -- PDF ----------------------------------------------------------------------------------------


def test_a_pdf_knows_its_pages(tmp_path: Path) -> None:
    file = tmp_path / "book.bin"
    file.write_bytes(pdf_fakes.pdf(["First.", "", "Third.", "Fourth."]))
    found = read_document(file, "book.bin")
    assert found.text == "First.\n\nThird.\n\nFourth."
    assert found.notes == ("1 of 4 pages have no text, and are left out",)
    assert [str(found.place(found.text.index(word))) for word in ("First", "Third", "Fourth")] == [
        "book.bin, page 1",
        "book.bin, page 3",
        "book.bin, page 4",
    ]


def test_pdfs_without_text_say_why() -> None:
    refused("a.pdf: is encrypted: save it", pdf_fakes.encrypted(["x"], "secret"), "a.pdf")
    refused("a.pdf: 2 of 2 pages have no text layer.*OCR", pdf_fakes.pdf(["", ""]), "a.pdf")
    refused("a.pdf: cannot be read as PDF", b"plain words", "a.pdf")


# -- what no text ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: give one with text"),
        (b" \n\t ", "is empty: give one with text"),
        ("\ufeff".encode(), "is empty"),
        (b"PK\x03\x04rest", "no text but a zip archive.*export it as PDF or text"),
        (b"\x89PNG\r\n\x1a\n", "no text but a picture: run text recognition"),
        (b"\x1f\x8brest", "no text but compressed: unpack it first"),
        (bytes(range(256)) * 8, "no text"),
    ],
)
def test_what_is_no_text_is_named(data: bytes, message: str) -> None:
    refused(f"report.x: {message}", data, "report.x")


def test_a_large_file_that_is_no_text_is_refused_at_once() -> None:
    began = time.monotonic()
    refused("no text .byte 0x00 at 3", b"abc" + bytes(3 << 20), "x")
    assert time.monotonic() - began < 1


def test_a_text_above_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MOST_BYTES", 1 << 20)
    refused("is larger than the 1 MiB that are read at most", b"x" * ((1 << 20) + 1), "x")
    monkeypatch.setattr(read, "MOST_CHARACTERS", 10)
    with pytest.raises(ReadingError, match="has 12 characters of text"):
        read_document(b"x" * 12, "x")


# -- words of a command line --------------------------------------------------------------------


def test_paths_urls_and_folders(tmp_path: Path) -> None:
    (tmp_path / "emma.txt").write_text("Emma Woodhouse.")
    assert read_word(str(tmp_path / "emma.txt")).text == "Emma Woodhouse."
    for word, message in (
        (str(tmp_path / "ema.txt"), r"no such file or folder: did you mean .*/emma\.txt\?"),
        (str(tmp_path / "x" / "y"), "no such file or folder: check the path"),
        ("https://example.org/a.pdf", "a URL is not fetched: save it first"),
        ("nul\0", "cannot be read"),
    ):
        with pytest.raises(ReadingError, match=message):
            read_word(word)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped in")))
    found = read_word("-")
    assert (found.text, found.name) == ("piped in", "standard input")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ReadingError, match="nothing is piped in: longctx ask - < FILE"):
        read_word("-")
