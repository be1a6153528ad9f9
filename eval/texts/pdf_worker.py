"""The process that reads one PDF: the file on stdin, one JSON object on stdout.

Run as a script by `pdf.py`, with its limits as arguments, and imports nothing of this package: a
file that crashes, fills the memory or never ends takes only this process along.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from contextlib import suppress
from typing import Any


def limit(seconds: int, memory: int) -> None:
    """Where the system has such limits; elsewhere the parent's clock is the only one."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and does not take it
            resource.setrlimit(kind, (value, most))


def extract(data: bytes, pages: int, characters: int) -> dict[str, Any]:
    """{"pages": their texts}, or {"refused": the reason, …}."""
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        return {"refused": "encrypted"}
    count = len(reader.pages)
    if count > pages:
        return {"refused": "pages", "pages": count}
    texts, length = [], 0
    for page in reader.pages:
        texts.append(page.extract_text())
        length += len(texts[-1])
        if length > characters:
            return {"refused": "characters"}
    return {"pages": texts}


def main() -> None:
    seconds, memory, pages, characters = map(int, sys.argv[1:])
    logging.disable()  # it warns of every oddity
    limit(seconds, memory)
    try:
        answer = extract(sys.stdin.buffer.read(), pages, characters)
    except MemoryError:
        answer = {"refused": "memory"}
    except ImportError as error:
        answer = {"refused": "missing", "why": str(error)}
    except Exception as error:  # a damaged file can raise anything
        too_much = type(error).__name__ == "LimitReachedError"
        answer = {"refused": "memory" if too_much else "damaged", "why": str(error)}
    sys.stdout.write(json.dumps(answer))  # in ASCII: fonts map to lone surrogates too


if __name__ == "__main__":
    main()
