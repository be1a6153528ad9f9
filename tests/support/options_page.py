"""docs/options.md from the declarations: `python tests/support/options_page.py` writes it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import typer

from longctx.cli import app
from longctx.options.declare import Argument, Declared, options_of

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "options.md"
_HEAD = """# Options

Every option of every command, with its default. This page is generated from their declarations
(`python tests/support/options_page.py`), and a test compares the two.

`longctx serve` and `longctx documents` take each option as an environment variable too,
`--max-body` as `LONGCTX_MAX_BODY`, and `serve` as a key of the TOML file that `--config` names.
`longctx compare` takes those of `longctx needle` as keys of its YAML, `--base-url` as `base_url`.
"""


def page() -> str:
    root = typer.main.get_command(app)
    words = root.commands.items()  # type: ignore[attr-defined]
    return _HEAD + "".join(_section(name, word.help, word.callback) for name, word in words)


def _section(name: str, help: str, callback: Any) -> str:
    options = options_of(inspect.unwrap(callback).options)  # type: ignore[attr-defined]
    lines = [f"\n## longctx {name}\n\n{help}\n"]
    panels = dict.fromkeys(option.about.panel for option in options)
    for panel in sorted(panels, key=lambda panel: panel is not None):
        lines.append(f"\n| {panel or 'option'} | default | |\n| --- | --- | --- |\n")
        lines += [_row(option) for option in options if option.about.panel == panel]
    return "".join(lines)


def _row(option: Declared) -> str:
    argument = isinstance(option.about, Argument)
    called = option.about.metavar or option.name.upper() if argument else option.flag
    default = "" if option.word is bool or option.default_word is None else option.default_word
    shown = "needed" if option.required else f"`{default}`" if default != "" else ""
    return f"| `{called}` | {shown} | {option.about.help.replace('|', chr(92) + '|')} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
