"""HTML as text, read by a process with a clock and a limit on its memory."""

from __future__ import annotations

import json
from typing import NamedTuple

from longctx.killable.process import START_SECONDS, EndedError, KillableProcess, TooSlowError
from longctx.reading.document import MOST_CHARACTERS

_MiB = 1 << 20


class PageLimits(NamedTuple):
    """What one page may cost. `memory` is in bytes, `characters` those of its text."""

    seconds: float = 60.0
    memory: int = 1024 * _MiB
    characters: int = MOST_CHARACTERS


PAGE_LIMITS = PageLimits()


class PageError(ValueError):
    """No text can be had from this page. The message says why, and what to do instead."""


def page_blocks(page: str, limits: PageLimits = PAGE_LIMITS) -> list[tuple[int, str]]:
    """Blocks of a page's text: the line of the page in which each begins, and the text.

    Raises:
        PageError: beyond the limits, or nothing that the parser reads.
    """
    remedy = "save it as text"
    try:
        process = KillableProcess("longctx.reading.worker")
    except EndedError as error:
        raise PageError(f"cannot be read: no process for it ({error}): free memory") from error
    try:
        try:
            process.ask(json.dumps(limits._asdict()), START_SECONDS)
        except TooSlowError as error:
            raise PageError("cannot be read: its reader does not start: free memory") from error
        told = process.ask(json.dumps(page), limits.seconds)
    except TooSlowError as error:
        raise PageError(
            f"takes more than {limits.seconds:g} seconds to be read: {remedy}"
        ) from error
    except EndedError as error:
        raise PageError(
            f"ended its reader (limit: {limits.memory // _MiB} MiB): {remedy}"
        ) from error
    finally:
        process.close()
    if "refused" in told:
        words = {
            "characters": f"has more than {limits.characters:,} characters of text: split it",
            "memory": f"needs more than {limits.memory // _MiB} MiB to be read: {remedy}",
            "damaged": f"cannot be read as HTML ({told.get('why')}): {remedy}",
        }
        raise PageError(words[told["refused"]])
    return [(line, text) for line, text in told["blocks"]]
