"""The text of a PDF, read by a process with a clock and a limit on its memory.

A page that cannot be read is an error and not a gap, and pictures of pages are no text. Knows
no files and no command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longctx.eval.texts.text import settle

_WORKER = Path(__file__).with_name("pdf_worker.py")
_MiB = 1 << 20


@dataclass(frozen=True)
class PdfLimits:
    """What one file may cost. `memory` is in bytes, `characters` those of its whole text."""

    seconds: int = 300
    memory: int = 2048 * _MiB
    pages: int = 20_000
    characters: int = 20_000_000


LIMITS = PdfLimits()


class PdfError(ValueError):
    """No text can be had from these bytes. The message says why, and what to do instead."""


def text_of(data: bytes, limits: PdfLimits = LIMITS) -> str:
    """The pages' texts in NFC, with an empty line between pages.

    Raises:
        PdfError: as `pages_of` says.
    """
    return "\n\n".join(page for page in pages_of(data, limits) if page)


def pages_of(data: bytes, limits: PdfLimits = LIMITS) -> list[str]:
    """The text of every page, in NFC; '' of a page without one.

    Raises:
        PdfError: encrypted, damaged, without text on half of its pages or more, or beyond limits.
    """
    answer = _run(data, limits)
    refused = answer.get("refused")
    if refused is not None:
        raise PdfError(_words(refused, answer, limits))
    pages = [settle(_whole(text)).strip() for text in answer["pages"]]
    without = pages.count("")
    if 2 * without >= len(pages):
        raise PdfError(
            f"{without} of {len(pages)} pages have no text layer, as in scans: "
            "run text recognition (OCR) on it first"
        )
    return pages


def _run(data: bytes, limits: PdfLimits) -> dict[str, Any]:
    numbers = (limits.seconds, limits.memory, limits.pages, limits.characters)
    try:
        # -P: modules beside the worker must not stand in for what it imports.
        done = subprocess.run(
            [sys.executable, "-P", str(_WORKER), *map(str, numbers)],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"refused": "seconds"}
    try:
        answer = json.loads(done.stdout)
    except ValueError:  # it was ended in the middle: by a limit, or by a crash
        answer = {"refused": "crashed"}
    if not isinstance(answer, dict):
        raise AssertionError(f"the worker wrote {answer!r}")
    return answer


def _words(refused: str, answer: dict[str, Any], limits: PdfLimits) -> str:
    split = "split it into smaller files"
    return {
        "encrypted": "is encrypted: save it without a password",
        "damaged": f"cannot be read as PDF ({answer.get('why')}): export it again",
        "missing": f"needs the package pypdf ({answer.get('why')}): pip install pypdf",
        "pages": f"has {answer.get('pages')} pages, and {limits.pages} are read at most: {split}",
        "characters": f"has more than {limits.characters} characters of text: {split}",
        "memory": f"needs more than {limits.memory // _MiB} MiB to be read: {split}",
        "seconds": f"takes more than {limits.seconds} seconds to be read: {split}",
        "crashed": f"ended its reader (limit: {limits.memory // _MiB} MiB): export it again",
    }[refused]


def _whole(text: str) -> str:
    """Without lone surrogates and NUL, which fonts without a proper map give."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
