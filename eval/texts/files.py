"""Which files a text is made of, and what is read from each.

Knows encodings and PDFs by what reads them. Does not know what the text is for.
"""

from __future__ import annotations

import codecs
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from longctx.errors import UserError
from longctx.eval.texts.encoding import UTF8, UndecodableError, decode
from longctx.eval.texts.pdf import PdfError, text_of

TEXT_SUFFIXES = (".txt", ".md", ".pdf")
# Source code that people read. Data and markup (.json, .html, .svg) are mostly made by programs.
CODE_SUFFIXES = (
    *(".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".cu", ".cuh"),
    *(".rs", ".go", ".java", ".kt", ".scala", ".clj", ".groovy", ".cs", ".fs", ".vb", ".swift"),
    *(".m", ".mm", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".vue", ".svelte", ".dart"),
    *(".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".sh", ".bash", ".ps1", ".sql", ".hs"),
    *(".ml", ".mli", ".ex", ".exs", ".erl", ".lisp", ".el", ".scm", ".zig", ".nim", ".f90"),
)
# Other people's code and what tools write, beside hidden directories.
_SKIPPED_DIRECTORIES = {"node_modules", "__pycache__", "venv"}
_SNIFFED_BYTES = 8192
_NOTED = 8


@dataclass(frozen=True)
class Reading:
    """How files are read: what --encoding and --strict say. `flag` is what errors name."""

    flag: str = "--haystack"
    encoding: str | None = None
    strict: bool = False


@dataclass(frozen=True)
class ReadFiles:
    """`encodings` of files that were not UTF-8; `skipped` could not be read, and why."""

    texts: list[tuple[Path, str]]
    encodings: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(str(file) for file, _ in self.texts)

    def describe(self) -> dict[str, Any]:
        """What run.json says of them."""
        found: dict[str, Any] = {"files": list(self.files)}
        if self.encodings:
            found["encodings"] = self.encodings
        if self.skipped:
            found["skipped"] = self.skipped
        return found

    def notes(self) -> list[str]:
        """What people are told of what was not read as it is."""
        named: dict[str, list[str]] = {}
        for file, encoding in self.encodings.items():
            named.setdefault(encoding, []).append(Path(file).name)
        notes = [f"read as {encoding}: {_some(files)}" for encoding, files in named.items()]
        if self.skipped:
            every = len(self.texts) + len(self.skipped)
            notes.append(f"skipped {len(self.skipped)} of {every} files (--strict ends the run):")
            lines = [f"  {file}: {why}" for file, why in self.skipped.items()]
            notes += lines[:_NOTED]
            if len(lines) > _NOTED:
                notes.append(f"  and {len(lines) - _NOTED} more: run.json lists them")
        return notes


class FoundFiles(NamedTuple):
    files: list[Path]
    name: str


def find(pattern: str, flag: str = "--haystack") -> FoundFiles:
    """A file, all text and source code below a directory, or what a glob matches; by name.

    Below a directory, `TEXT_SUFFIXES` and `CODE_SUFFIXES` count; hidden files and directories,
    installed packages, and code files with bytes of zero in them do not.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return FoundFiles([path], path.name)
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if _counts(entry, path))
        if not files:
            raise UserError(
                f"{flag} {pattern}: the directory holds no {', '.join(TEXT_SUFFIXES)} and no "
                "source code: name files"
            )
        return FoundFiles(files, f"{path.name or path}/ ({len(files)} files)")
    matched = glob.glob(str(path), recursive=True)
    files = sorted(Path(entry) for entry in matched if Path(entry).is_file())
    if not files:
        raise UserError(f"{flag} {pattern}: no such file, directory or match: check it")
    return FoundFiles(
        files, files[0].name if len(files) == 1 else f"{path.name} ({len(files)} files)"
    )


def _counts(file: Path, root: Path) -> bool:
    inner = file.relative_to(root).parts
    if any(part.startswith(".") or part in _SKIPPED_DIRECTORIES for part in inner):
        return False
    suffix = file.suffix.lower()
    if suffix not in TEXT_SUFFIXES + CODE_SUFFIXES or not file.is_file():
        return False
    if suffix in TEXT_SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            begin = opened.read(_SNIFFED_BYTES)
            marked = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            return marked or b"\x00" not in begin
    except OSError:
        return True  # reading it will say so


def read(
    files: Sequence[Path], reading: Reading, encodings: Mapping[str, str] | None = None
) -> ReadFiles:
    """What stands in the files. Of several, those that cannot be read are skipped.

    Args:
        encodings: of files, by name, before what `reading` says.

    Raises:
        UserError: none can be read, or, under `strict`, one cannot; names the first.
    """
    found = ReadFiles([])
    for file in files:
        named = (encodings or {}).get(str(file), reading.encoding)
        try:
            text, encoding = _read(file, named)
        except UndecodableError as error:
            found.skipped[str(file)] = str(error)
        except OSError as error:
            found.skipped[str(file)] = f"cannot be read ({error.strerror}): check it"
        except PdfError as error:
            found.skipped[str(file)] = str(error)
        else:
            found.texts.append((file, text))
            if encoding is not None and encoding != UTF8:
                found.encodings[str(file)] = encoding
    if found.skipped and (reading.strict or not found.texts):
        file_, why = next(iter(found.skipped.items()))
        others = len(found.skipped) - 1
        more = f" ({others} more of {len(files)} files cannot be read)" if others else ""
        raise UserError(f"{reading.flag} {file_}: {why}{more}")
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NOTED} more" if len(names) > _NOTED else ""
    return f"{', '.join(names[:_NOTED])}{more}"


def _read(file: Path, encoding: str | None) -> tuple[str, str | None]:
    """Text and encoding. What is named as a PDF or begins as one is read as one: it has none."""
    data = file.read_bytes()
    if file.suffix.lower() == ".pdf" or data.startswith(b"%PDF-"):
        return text_of(data), None
    return decode(data, encoding)
