"""What was measured, on the disk at any moment: results.json and results.md, written again after
every row. Knows neither torch nor the sections."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Where more is better; of all else less is.
_RATES = ("tok/s", "TFLOP/s", "GB/s")


@dataclass
class Row:
    """One figure.

    Attributes:
        expected: what a check may be off by at most; of a time or rate, what the card's measured
            ceilings allow.
        state: ok or wrong for checks, failed, skipped; empty for figures.
    """

    what: str
    measured: float | str | None = None
    unit: str = ""
    expected: float | None = None
    state: str = ""
    note: str = ""

    @property
    def share(self) -> float | None:
        """Of the ceiling."""
        if self.state or not isinstance(self.measured, float) or not self.expected:
            return None
        if self.unit in _RATES:
            return self.measured / self.expected
        return self.expected / self.measured if self.measured else None

    def __str__(self) -> str:
        cells = [self.what, *(f"{part}" for part in self.cells() if part)]
        return "  ".join(cells)

    def cells(self) -> list[str]:
        """Measured, expected, share of the ceiling, and the note."""
        share = self.share
        return [
            f"{_shown(self.measured)} {self.unit}".strip(),
            "" if self.expected is None else f"({_shown(self.expected)})",
            "" if share is None else f"{100 * share:.0f} %",
            " ".join(part for part in (self.state, self.note) if part),
        ]


@dataclass
class Section:
    """A section and how far it is.

    Attributes:
        status: ok, wrong (a check), failed (an error), partial (items left out), stopped.
        done: items that another process of the section need not do again.
        current: the item under way.
    """

    status: str = "running"
    seconds: float = 0.0
    limit_s: float = 0.0
    error: str = ""
    current: str = ""
    done: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def settle(self) -> None:
        states = {row.state for row in self.rows}
        for state, status in (("failed", "failed"), ("wrong", "wrong"), ("skipped", "partial")):
            if state in states:
                self.status = status
                return
        self.status = "ok"


class Results:
    """The two files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = {}
        self.sections: dict[str, Section] = {}
        file = folder / "results.json"
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            self.about = kept["about"]
            for name, section in kept["sections"].items():
                rows = [Row(**row) for row in section.pop("rows")]
                self.sections[name] = Section(**section, rows=rows)

    def write(self) -> None:
        """Both files, whole or as they were."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sections = {name: asdict(section) for name, section in self.sections.items()}
        whole = {"about": self.about, "sections": sections}
        for name, text in (
            ("results.json", json.dumps(whole, indent=1)),
            ("results.md", self.table()),
        ):
            part = self.folder / f"{name}.part"
            with part.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / name)

    def table(self) -> str:
        """Markdown."""
        lines = [
            "In brackets: what a check may be off by; what the card's measured ceilings allow. "
            "Behind it, the share of the ceiling that was reached.",
            "",
            *(f"- {name}: {value}" for name, value in self.about.items()),
        ]
        for name, section in self.sections.items():
            lines += ["", f"### {name}: {section.status}, {section.seconds:.0f} s", ""]
            if section.rows:
                lines += [
                    "| | measured | (expected) | share | |",
                    "| --- | ---: | ---: | ---: | --- |",
                ]
            for row in section.rows:
                cells = (cell.replace("|", "/").replace("\n", " ") for cell in row.cells())
                lines.append(f"| {row.what.replace('|', '/')} | {' | '.join(cells)} |")
            if section.error:
                lines += ["", "```text", section.error.strip(), "```"]
        return "\n".join(lines)


def _shown(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if value and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
