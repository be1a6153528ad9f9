"""Tokens as clients see them: text, bytes and log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from longctx.engine import TokenLogprob
from longctx.engine.detokenize import Detokenizer


class TokenText:
    """Text and bytes of single tokens; a part of a character has bytes, and no text of its own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, list[int]]] = {}

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """Text of many, as the engine makes it.

        Args:
            special: with that of special tokens.
        """
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text

    def of(self, token_id: int) -> tuple[str, list[int]]:
        if token_id not in self._known:
            self._known[token_id] = self._look_up(token_id)
        return self._known[token_id]

    def _look_up(self, token_id: int) -> tuple[str, list[int]]:
        text: str = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        if "\ufffd" in text:
            piece = self._tokenizer.convert_ids_to_tokens(token_id) or ""
            table = _byte_table()
            if piece and all(char in table for char in piece):
                raw = bytes(table[char] for char in piece)
                return raw.decode("utf-8", "backslashreplace"), list(raw)
        return text, list(text.encode())


@lru_cache
def _byte_table() -> dict[str, int]:
    """The printable stand-ins that byte-level vocabularies write bytes with (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(value): value for value in plain}
    others = (value for value in range(256) if value not in set(plain))
    table.update({chr(256 + at): value for at, value in enumerate(others)})
    return table


def token_list(numbers: Mapping[str, int], ids: Sequence[int]) -> bytes:
    """JSON of the numbers and the ids, made in pieces: one call for a million ids would hold up
    every other thread until it is done."""
    pieces = (",".join(map(str, ids[at : at + 4096])) for at in range(0, len(ids), 4096))
    return f'{json.dumps(numbers)[:-1]}, "tokens": [{",".join(pieces)}]}}'.encode()


def chat_logprobs(text: TokenText, found: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Entries of `logprobs.content`."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        token, raw = text.of(token_id)
        return {"token": token, "logprob": _finite(logprob), "bytes": raw}

    return [
        {
            **entry(one.token_id, one.logprob),
            "top_logprobs": [entry(token_id, logprob) for token_id, logprob in one.top],
        }
        for one in found
    ]


class LogprobRow(NamedTuple):
    """A token of a completion; no log-probability for a prompt's first one."""

    token_id: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


class CompletionLogprobs:
    """`logprobs` of a completion, in columns. `text_offset` counts characters of the choice's text:
    a token that is part of a character stands where that begins.
    """

    def __init__(self, text: TokenText) -> None:
        self._text = text
        self._offset = 0
        self._answer = Detokenizer(lambda ids: text.decode(ids, special=False))
        self.found: dict[str, list[Any]] = _no_rows()

    def prompt(self, rows: Sequence[LogprobRow]) -> None:
        """Of an echo, all at once, before the answer's."""
        text = self._text
        detokenizer = Detokenizer(lambda ids: text.decode(ids, special=True))
        self._add(self.found, rows, detokenizer)
        self._offset += len(detokenizer.finish())

    def answer(self, rows: Sequence[LogprobRow]) -> dict[str, list[Any]]:
        """Of the next tokens, by themselves."""
        new = _no_rows()
        self._add(new, rows, self._answer)
        for name, column in new.items():
            self.found[name] += column
        return new

    def _add(
        self, found: dict[str, list[Any]], rows: Sequence[LogprobRow], detokenizer: Detokenizer
    ) -> None:
        for row in rows:
            found["tokens"].append(self._text.of(row.token_id)[0])
            found["token_logprobs"].append(None if row.logprob is None else _finite(row.logprob))
            found["top_logprobs"].append(self._likeliest(row))
            found["text_offset"].append(self._offset)
            self._offset += len(detokenizer.push(row.token_id))

    def _likeliest(self, row: LogprobRow) -> dict[str, float] | None:
        """By text, the token itself among them. Where two have one text, the likelier counts."""
        if row.logprob is None:
            return None
        shown: dict[str, float] = {}
        for token_id, logprob in (*row.top, (row.token_id, row.logprob)):
            shown.setdefault(self._text.of(token_id)[0], _finite(logprob))
        return shown


def _no_rows() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _finite(logprob: float) -> float:
    """JSON has no infinity; -9999 is what clients of this API expect for impossible."""
    return max(logprob, -9999.0)
