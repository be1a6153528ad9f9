"""`longctx ask` from its options to its exit code: read, choose who answers, ask, show."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from longctx.ask import sources
from longctx.ask.answer import Answering, AskedAnswer
from longctx.ask.choose import choose
from longctx.ask.screen import (
    AnswerScreen,
    print_sources,
    printable,
    say,
    say_documents,
    say_figures,
)
from longctx.errors import UserError
from longctx.options.ask import AskOptions
from longctx.reading import ReadDocument, ReadingError, read_word

DONE, INTERRUPTED, PIPE_CLOSED = 0, 130, 141
_USAGE = 'longctx ask FILE... "question"'
_ENDS = ("exit", "quit", ":q")


@dataclass(frozen=True)
class _Asked:
    files: tuple[str, ...]
    question: str | None


def run(options: AskOptions) -> int:
    """Answer; returns the exit code.

    Raises:
        UserError: a file, a model or a server that cannot be used.
    """
    err = Console(stderr=True)
    try:
        return _run(options, err)
    except KeyboardInterrupt as stop:
        say(err, _interrupted(stop))
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _run(options: AskOptions, err: Console) -> int:
    asked = split_words(options)
    documents = [_read(word, options.encoding) for word in asked.files]
    say_documents(err, documents)
    chosen = choose(options)
    try:
        for note in chosen.notes:
            say(err, note)
        _load(chosen.answering, documents, asked.question, err)
        one = _One(options, chosen.answering, documents, err)
        if asked.question is not None:
            one.ask(asked.question)
        if options.interactive:
            _converse(one, err)
    finally:
        chosen.answering.close()
    return DONE


def _interrupted(stop: KeyboardInterrupt) -> str:
    """With what goes on elsewhere."""
    return ": ".join(["interrupted", *map(str, stop.args)])


def split_words(options: AskOptions) -> _Asked:
    """Files and question of the words of the command line.

    Raises:
        UserError: one of them is missing.
    """
    words = options.words
    if not words:
        raise UserError(f"FILE: none is named: {_USAGE}")
    last = words[-1]
    if options.interactive:
        if "-" in words:
            raise UserError(
                "--interactive with -: questions come from standard input: save the document to a "
                "file and name it"
            )
        if len(words) > 1 and not _is_there(last) and _reads_as_question(last):
            return _Asked(words[:-1], last)
        return _Asked(words, None)
    if not last.strip():
        raise UserError(f"QUESTION: is empty: {_USAGE}")
    if len(words) == 1 or last == "-" or _is_there(last):
        what = f"{last} is a file" if _is_there(last) or last == "-" else "no file is named"
        raise UserError(f"QUESTION: {what}: {_USAGE}, or --interactive")
    if words.count("-") > 1:
        raise UserError("FILE -: standard input can be read once: name it once")
    return _Asked(words[:-1], last)


def _is_there(word: str) -> bool:
    try:
        return Path(word).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a question may be too long for a path
        return False


def _reads_as_question(word: str) -> bool:
    return bool(re.search(r"\s|[?？。]$", word.strip()))


def _read(word: str, encoding: str | None) -> ReadDocument:
    try:
        return read_word(word, encoding)
    except ReadingError as error:
        raise UserError(printable(f"FILE {error}")) from error


def _load(
    answering: Answering,
    documents: Sequence[ReadDocument],
    question: str | None,
    err: Console,
) -> None:
    """Refuse what is too long before weights are loaded."""
    answering.check(documents, question or "?")
    if not answering.loaded:
        with err.status(f"loading {answering.about['model']}"):
            answering.load()
    for note in answering.notes:
        say(err, note)


@dataclass(frozen=True)
class _One:
    """Asks one question and shows what comes of it."""

    options: AskOptions
    answering: Answering
    documents: Sequence[ReadDocument]
    err: Console

    def ask(self, question: str) -> AskedAnswer:
        options, err = self.options, self.err
        out = sys.stderr if options.json else sys.stdout
        with AnswerScreen(err, out) as screen:
            answer = self.answering.ask(self.documents, question, screen)
        found = []
        if options.sources or options.json:
            found = sources.find(self.documents, answer.text, question)
        if options.sources:
            print_sources(Console(file=out), found)
        say_figures(err, answer, options.max_tokens)
        for note in answer.notes:
            say(err, note)
        if options.json:
            content = {
                **answer.to_dict(),
                "question": question,
                "sources": [each.to_dict() for each in found],
                "documents": [_described(each) for each in self.documents],
                **self.answering.about,
            }
            print(json.dumps(content, ensure_ascii=False), flush=True)
        return answer


def _described(document: ReadDocument) -> dict[str, Any]:
    return {
        "name": document.name,
        "media_type": document.media_type,
        "characters": len(document.text),
        "notes": list(document.notes),
    }


def _converse(one: _One, err: Console) -> None:
    """Questions until the input ends. One that fails is told, and the next one is asked."""
    if sys.stdin.isatty():
        import contextlib

        with contextlib.suppress(ImportError):  # the arrow keys; Windows has its own
            import readline  # noqa: F401
        say(err, "Ask; each question is answered by itself. Ctrl-D ends.")
    while True:
        if sys.stdin.isatty():
            try:
                line = input("> ")
            except EOFError:
                print(file=sys.stderr)
                return
        else:
            line = sys.stdin.readline()
            if not line:
                return
        question = line.strip()
        if question in _ENDS:
            return
        if not question:
            continue
        try:
            one.ask(question)
        except UserError as error:
            say(err, f"error: {error}")
        except KeyboardInterrupt as stop:
            say(err, _interrupted(stop))
