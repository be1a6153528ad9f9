"""`longctx report` as its tests call it, and its page taken apart."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from longctx import cli


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)], prog_name="longctx")


def page_of(*folders: Path, options: tuple[str, ...] = ()) -> str:
    output = folders[0].parent / "page.html"
    result = invoke(*folders, "--output", output, "--date", "2026-11-25", *options)
    assert result.exit_code == 0, result.output
    return output.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every tag with its attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.data.setdefault(self.found[-1][0] if self.found else "", []).append(data)

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.found
            if name == tag and all(attributes.get(key) == value for key, value in wanted.items())
        ]
