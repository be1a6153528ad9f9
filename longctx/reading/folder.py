"""Which files of a folder of code are read, in which order, and what is skipped.

`.gitignore` files are followed as git does it for files that it does not know yet, without git:
its settings can name programs to run. Knows no encodings and reads nothing else.
"""

from __future__ import annotations

import codecs
import fnmatch
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from longctx.reading.document import ReadingError

MOST_FILES = 20_000
# Other people's code and what tools write, where no .gitignore says so.
_TOOLS = {"node_modules", "__pycache__", "venv", "site-packages"}
_SNIFFED = 8192
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
IGNORED, BINARY = "ignored by .gitignore", "binary"
HIDDEN, OUTSIDE = "hidden", "links that lead elsewhere"


@dataclass(frozen=True)
class Rule:
    """A line of a .gitignore.

    Attributes:
        base: the folder of that file, relative to the root, with its slash; '' for the root.
        segments: of the pattern, between its slashes. `**` is any number of folders.
    """

    base: str
    segments: tuple[str, ...]
    negated: bool
    folders_only: bool

    def decides(self, inner: str, is_folder: bool) -> bool:
        if (self.folders_only and not is_folder) or not inner.startswith(self.base):
            return False
        return _matches(self.segments, inner[len(self.base) :].split("/"))


class FolderFiles(NamedTuple):
    """Files by path, and how many were skipped why."""

    files: list[Path]
    skipped: Counter[str]


def folder_files(folder: Path, name: str) -> FolderFiles:
    """All files below a folder that may hold text, in the order of their paths.

    Raises:
        ReadingError: more than `MOST_FILES`, or a folder that cannot be listed.
    """
    found = FolderFiles([], Counter())
    try:
        root = folder.resolve(strict=True)
        _walk(folder, root, "", (), found, name)
    except OSError as error:
        raise ReadingError(name, f"cannot be listed ({error.strerror}): check it") from error
    return found


def _walk(
    folder: Path, root: Path, inner: str, rules: Sequence[Rule], found: FolderFiles, name: str
) -> None:
    rules = [*rules, *rules_of(folder / ".gitignore", inner)]
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        path, here = folder / entry.name, f"{inner}{entry.name}"
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            if not is_folder:
                found.skipped[HIDDEN] += 1
        elif entry.is_symlink() and not _stays(path, root):
            found.skipped[OUTSIDE] += 1
        elif ignored(here, is_folder, rules):
            found.skipped[f"folders {IGNORED}" if is_folder else IGNORED] += 1
        elif is_folder:
            if entry.name not in _TOOLS:
                _walk(path, root, f"{here}/", rules, found, name)
        elif not entry.is_file():
            continue  # a pipe or a socket
        elif _binary(path):
            found.skipped[BINARY] += 1
        else:
            found.files.append(path)
            if len(found.files) > MOST_FILES:
                raise ReadingError(
                    name, f"holds more than {MOST_FILES:,} files: name a folder below it"
                )


def _stays(link: Path, root: Path) -> bool:
    """A link to a file of the same folder. Those to folders would show files twice, or for ever."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and target.is_relative_to(root)


def _binary(path: Path) -> bool:
    if path.suffix.lower() == ".pdf":
        return False  # has a reader of its own
    try:
        with path.open("rb") as opened:
            begin = opened.read(_SNIFFED)
    except OSError:
        return False  # reading it will say so
    return b"\0" in begin and not begin.startswith(_MARKS)


# -- .gitignore ---------------------------------------------------------------------------------


def rules_of(file: Path, inner: str) -> list[Rule]:
    """
    Args:
        inner: the folder of the file, relative to the root, with its slash; '' for the root.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [rule for line in lines if (rule := rule_of(line, inner)) is not None]


def rule_of(line: str, inner: str = "") -> Rule | None:
    """None of a comment, an empty line, and of what no folder could be meant by."""
    line = re.sub(r"(?<!\\) +$", "", line)
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    line = line[negated:]
    line = line.removeprefix("\\") if line.startswith(("\\!", "\\#")) else line
    folders_only, anchored = line.endswith("/"), "/" in line.rstrip("/")
    segments = [segment for segment in line.split("/") if segment]
    if not anchored:
        segments = ["**", *segments]
    if not segments or segments[-1:] == ["**"] == segments or segments.count("**") > 4:
        return None
    return Rule(inner, tuple(segments), negated, folders_only)


def _matches(segments: Sequence[str], parts: Sequence[str]) -> bool:
    if not segments:
        return not parts
    if segments[0] == "**":
        if len(segments) == 1:
            return bool(parts)
        return any(_matches(segments[1:], parts[at:]) for at in range(len(parts)))
    if not parts or not fnmatch.fnmatchcase(parts[0], segments[0]):
        return False
    return _matches(segments[1:], parts[1:])


def ignored(inner: str, is_folder: bool, rules: Sequence[Rule]) -> bool:
    """The last rule that matches decides."""
    for rule in reversed(rules):
        if rule.decides(inner, is_folder):
            return not rule.negated
    return False
