"""The text of an HTML page: blocks in the order of the page, each with the line it began in.

Scripts, styles and what browsers never show are left out; headings, items and cells are written as
in Markdown. Nothing is fetched, nothing is run. Hostile pages can make the parser slow, never
anything else than text: it runs in `worker.py`.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

# Elements that browsers show nothing of. `title` stands in the head, and is the first heading.
_UNSEEN = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "canvas"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details"),
    *("dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header"),
    *("hr", "html", "legend", "li", "main", "nav", "ol", "optgroup", "option", "p", "pre"),
    *("section", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul", "head"),
    *("h1", "h2", "h3", "h4", "h5", "h6"),
}
_HEADINGS = {"title": "# ", **{f"h{level}": f"{'#' * level} " for level in range(1, 7)}}
_CELLS = {"td", "th"}
_SPACE = re.compile(r"[ \t\n\r\f\v]+")


class TooMuchTextError(Exception):
    """More characters than may be."""


class PageText(HTMLParser):
    """`feed`, `close`, then `blocks`: (line, text) of each."""

    def __init__(self, characters: int) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[int, str]] = []
        self._left = characters
        self._parts: list[str] = []
        self._line = 0
        self._lead = ""  # before the block's text: `# `, `- `
        self._unseen: list[str] = []
        self._kept = 0  # depth of <pre>

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        if self._unseen:
            return
        if tag == "br":
            self._parts.append("\n")
        elif tag in _CELLS:
            if any(part.strip() for part in self._parts):
                self._parts.append(" | ")
        elif tag in _BLOCKS:
            self._end_block()
            self._kept += tag == "pre"
            self._lead = _HEADINGS.get(tag, "- " if tag == "li" else self._lead)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNSEEN:  # <svg/> has no end to wait for
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("body", "html"):  # what was never closed ends here
            self._unseen.clear()
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
            return
        if not self._unseen and tag in _BLOCKS:
            self._end_block()
            self._lead = ""
            self._kept = max(0, self._kept - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._line and data.strip():
            before = data[: len(data) - len(data.lstrip())]
            self._line = self.getpos()[0] + before.count("\n")
        self._parts.append(data if self._kept else _SPACE.sub(" ", data))
        self._left -= len(data)
        if self._left < 0:
            raise TooMuchTextError

    def close(self) -> None:
        super().close()
        self._end_block()

    def _end_block(self) -> None:
        text = "".join(self._parts)
        if self._kept:
            text = text.strip("\n").rstrip()
        else:
            text = "\n".join(_SPACE.sub(" ", line).strip() for line in text.split("\n")).strip()
        if text.strip():
            self.blocks.append((self._line or self.getpos()[0], self._lead + text))
            self._lead = ""
        self._parts.clear()
        self._line = 0


def blocks_of(page: str, characters: int) -> list[tuple[int, str]]:
    """
    Raises:
        TooMuchTextError.
    """
    parser = PageText(characters)
    parser.feed(page)
    parser.close()
    return parser.blocks


_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.I)


def charset_of(data: bytes) -> str | None:
    """What the page says of its bytes, in its first kilobytes."""
    found = _CHARSET.search(data[:4096])
    return None if found is None else found[1].decode("ascii")
