"""One file that asks nobody but its own server for anything.

Style and script stand in the file itself, and a content security policy names their hashes: nothing
else may run or load, whatever a document or a model says. The script puts all texts there as text.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

# In this order: later ones use what earlier ones define.
_SCRIPTS = ("talk_to_server.js", "places.js", "documents.js", "questions.js")


class Page(NamedTuple):
    """The file, and what goes with it."""

    body: bytes
    headers: dict[str, str]


@cache
def page() -> Page:
    style = _part("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(map(_part, _SCRIPTS)) + "\n})();\n"
    html = _part("page.html")
    for name, text in (("style", style), ("script", script)):
        html = html.replace("{{ " + name + " }}", text)
    headers = {
        "Content-Security-Policy": _policy(style, script),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Page(html.encode(), headers)


def _policy(style: str, script: str) -> str:
    """What the page may do."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
