"""The haystack: files read into one text, and how many tokens lie where in it.

Knows files and token counts. Does not know needles, prompts or lengths to aim at.
"""

from __future__ import annotations

import bisect
import glob
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from longctx.errors import UserError
from longctx.eval.texts.pdf import PdfError, text_of
from longctx.eval.texts.text import Boundaries, UndecodableError, decode, sentence_ends

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
_SEPARATOR = "\n\n"
# Token counts are summed over blocks of this many characters; a seam shifts the sum by a token.
_BLOCK_CHARACTERS = 1 << 15

# Character offsets (start, end) of each token of a text.
Tokenize = Callable[[str], list[tuple[int, int]]]


@dataclass(frozen=True)
class Haystack:
    id: str
    text: str
    sha256: str
    files: tuple[str, ...] = ()

    @classmethod
    def from_text(cls, text: str, id: str = "text", files: tuple[str, ...] = ()) -> Haystack:
        return cls(id, text, hashlib.sha256(text.encode()).hexdigest(), files)


def load(pattern: str) -> Haystack:
    """Read what `find` finds into one text."""
    found = find(pattern)
    return of_files(found.files, found.name, f"--haystack {pattern}")


def of_files(files: Sequence[Path], name: str, argument: str, flag: str = "--haystack") -> Haystack:
    texts = [read(file, flag) for file in files]
    text = _SEPARATOR.join(part for part in (text.strip() for text in texts) if part)
    if not text:
        raise UserError(f"{argument}: there is no text in it: name files with text")
    return Haystack.from_text(text, name, tuple(str(file) for file in files))


class HaystackFiles(NamedTuple):
    files: list[Path]
    name: str


def find(pattern: str, flag: str = "--haystack") -> HaystackFiles:
    """A file, all text and source code below a directory, or what a glob matches; by name.

    Below a directory, `TEXT_SUFFIXES` and `CODE_SUFFIXES` count; hidden files and directories,
    installed packages, and code files with bytes of zero in them do not.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return HaystackFiles([path], path.name)
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if _counts(entry, path))
        if not files:
            raise UserError(
                f"{flag} {pattern}: the directory holds no {', '.join(TEXT_SUFFIXES)} and no "
                "source code: name files"
            )
        return HaystackFiles(files, f"{path.name or path}/ ({len(files)} files)")
    matched = glob.glob(str(path), recursive=True)
    files = sorted(Path(entry) for entry in matched if Path(entry).is_file())
    if not files:
        raise UserError(f"{flag} {pattern}: no such file, directory or match: check it")
    return HaystackFiles(
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
            return b"\x00" not in opened.read(_SNIFFED_BYTES)
    except OSError:
        return True  # reading it will say so


def read(file: Path, flag: str = "--haystack") -> str:
    """The text of a file. What is named as a PDF or begins as one is read as one.

    Raises:
        UserError: unreadable, no text, or no text layer; names the file.
    """
    try:
        data = file.read_bytes()
        pdf = file.suffix.lower() == ".pdf" or data.startswith(b"%PDF-")
        return text_of(data) if pdf else decode(data)
    except OSError as error:
        raise UserError(f"{flag} {file}: cannot be read ({error.strerror}): check it") from None
    except UndecodableError as error:
        raise UserError(f"{flag} {file}: {error}: save it as UTF-8") from None
    except PdfError as error:
        raise UserError(f"{flag} {file}: {error}") from None


@dataclass
class TokenMap:
    """Tokens of a haystack under one tokenizer, counted once, and exact slices of it on demand."""

    haystack: Haystack
    tokenize: Tokenize
    allow_repeat: bool = False
    _marks: list[tuple[int, int]] = field(default_factory=list)  # (characters, tokens) so far
    _starts: list[int] = field(default_factory=list)
    _slices: dict[tuple[int, int], Slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text, position, tokens = self.haystack.text, 0, 0
        self._marks.append((0, 0))
        while position < len(text):
            end = min(position + _BLOCK_CHARACTERS, len(text))
            if end < len(text):
                # Cut before white space: merges do not reach across it.
                space = max(text.rfind(" ", position, end), text.rfind("\n", position, end))
                end = space if space > position else end
            tokens += len(self.tokenize(text[position:end]))
            position = end
            self._marks.append((position, tokens))
        self._starts = [0, *(end for end in sentence_ends(text) if end < len(text))]

    @property
    def tokens(self) -> int:
        return self._marks[-1][1]

    def start_for(self, needed: int, fraction: float) -> int:
        """A sentence start with `needed` tokens behind it, `fraction` of the way through them."""
        spare = self.tokens if self.allow_repeat else max(self.tokens - needed, 0)
        target = self._character_at(fraction * spare)
        latest = len(self.haystack.text) if self.allow_repeat else self._character_at(spare)
        index = bisect.bisect_left(self._starts, target)
        if index < len(self._starts) and self._starts[index] <= latest:
            return self._starts[index]
        return self._starts[max(index - 1, 0)]

    def last_start(self, needed: int, before: int) -> int:
        """The last sentence start up to `before` with `needed` tokens behind it, counted; else 0.

        `start_for` takes tokens for evenly spread within a block, which a text of several scripts
        is not.
        """
        starts = self._starts[: bisect.bisect_right(self._starts, before)]
        short = bisect.bisect_left(
            starts, True, key=lambda start: len(self.slice(start, needed).token_ends) < needed
        )
        return starts[max(short - 1, 0)]

    def _character_at(self, token: float) -> int:
        index = bisect.bisect_right(self._marks, token, key=lambda mark: mark[1])
        if index == len(self._marks):
            return self._marks[-1][0]
        (char0, token0), (char1, token1) = self._marks[index - 1 : index + 1]
        return char0 + int((char1 - char0) * (token - token0) / max(token1 - token0, 1))

    def slice(self, start: int, tokens: int) -> Slice:
        """At least `tokens` tokens of text from character `start`, or all there is."""
        if (start, tokens) not in self._slices:
            self._slices = {(start, tokens): self._make_slice(start, tokens)}
        return self._slices[start, tokens]

    def _make_slice(self, start: int, tokens: int) -> Slice:
        source = self.haystack.text[start:].lstrip()
        characters = int(tokens * len(self.haystack.text) / max(self.tokens, 1) * 1.1) + 256
        while True:
            while self.allow_repeat and len(source) < characters:
                source += _SEPARATOR + self.haystack.text
            text = source[:characters]
            offsets = self.tokenize(text)
            if len(offsets) >= tokens or (len(text) == len(source) and not self.allow_repeat):
                return Slice(text, [end for _, end in offsets], Boundaries(text))
            characters = int(characters * 1.3)


@dataclass(frozen=True)
class Slice:
    """A stretch of haystack: its text, and the character at which each token ends."""

    text: str
    token_ends: list[int]
    boundaries: Boundaries

    def tokens_before(self, character: int) -> int:
        return bisect.bisect_right(self.token_ends, character)

    def character_after(self, tokens: int) -> int:
        return self.token_ends[min(tokens, len(self.token_ends)) - 1] if tokens > 0 else 0

    def without(self, characters: int) -> Slice:
        """The slice without its first characters; token ends are kept, as merges there change."""
        if characters == 0:
            return self
        ends = [end - characters for end in self.token_ends if end > characters]
        text = self.text[characters:]
        return Slice(text, ends, Boundaries(text))
