"""Text of PDFs, and every reason why there is none."""

from __future__ import annotations

from dataclasses import replace

import pdf_fakes
import pytest

from longctx.eval.texts import pdf_worker
from longctx.eval.texts.pdf import LIMITS, PdfError, text_of

LINE = b"BT /F1 12 Tf 72 720 Td (A line of text on a page of a book) Tj ET\n"


def test_pages_are_joined() -> None:
    data = pdf_fakes.pdf(["Café (1869).", "", "The second."])
    assert text_of(data) == "Café (1869).\n\nThe second."


def test_a_second_reading_is_equal() -> None:
    data = pdf_fakes.pdf([f"Page {number}." for number in range(20)])
    assert text_of(data) == text_of(data)


@pytest.mark.parametrize("password", ["secret", ""], ids=["password", "owner-only"])
def test_encrypted(password: str) -> None:
    with pytest.raises(PdfError, match="is encrypted: save it without a password"):
        text_of(pdf_fakes.encrypted(["Hidden."], password))


@pytest.mark.parametrize(
    ("pages", "message"),
    [(["", ""], "2 of 2 pages have no text layer.*OCR"), (["Title", "", ""], "2 of 3 pages")],
    ids=["scan", "cover"],
)
def test_scans_are_no_text(pages: list[str], message: str) -> None:
    with pytest.raises(PdfError, match=message):
        text_of(pdf_fakes.pdf(pages))


@pytest.mark.parametrize(
    "data",
    [b"", b"%PDF-1.4\nnothing", b"plain text", pdf_fakes.pdf(["x"])[:200]],
    ids=["empty", "header", "text", "cut"],
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(PdfError, match=r"cannot be read as PDF .*export it again"):
        text_of(data)


def test_too_many_pages() -> None:
    with pytest.raises(PdfError, match="has 3 pages, and 2 are read at most: split it"):
        text_of(pdf_fakes.pdf(["a", "b", "c"]), replace(LIMITS, pages=2))


def test_too_much_text() -> None:
    with pytest.raises(PdfError, match="more than 50 characters of text: split it"):
        text_of(pdf_fakes.pdf(["x" * 40, "y" * 40]), replace(LIMITS, characters=50))


def test_a_small_file_that_unpacks_to_a_large_one() -> None:
    """30 MB of drawing in 0.1 MB of file: the reader may not take this machine's memory."""
    data = pdf_fakes.pdf(["bomb"], contents=LINE * (30_000_000 // len(LINE)))
    assert len(data) < 200_000
    with pytest.raises(PdfError, match="192 MiB"):
        text_of(data, replace(LIMITS, memory=192 << 20))


def test_a_file_that_takes_forever() -> None:
    data = pdf_fakes.pdf(["slow"], contents=LINE * 400_000)
    with pytest.raises(PdfError, match="takes more than 1 seconds to be read: split it"):
        text_of(data, replace(LIMITS, seconds=1))


def test_without_pypdf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longctx.eval.texts.pdf._run", lambda data, limits: {"refused": "missing"})
    with pytest.raises(PdfError, match="needs the package pypdf"):
        text_of(b"%PDF-")


def test_a_reader_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longctx.eval.texts.pdf._WORKER", "no/such/worker.py")
    with pytest.raises(PdfError, match="ended its reader"):
        text_of(pdf_fakes.pdf(["x"]))


def test_fonts_without_a_map_leave_no_broken_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"pages": ["a\ud800b\0c \r\n e\u0301"]}
    monkeypatch.setattr("longctx.eval.texts.pdf._run", lambda data, limits: pages)
    assert text_of(b"%PDF-") == "a\ufffdbc \n \u00e9"


def test_the_worker_by_itself() -> None:
    assert pdf_worker.extract(pdf_fakes.pdf(["One."]), 10, 1000) == {"pages": ["One."]}
