"""Tokens as clients see them: text, bytes and log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from longctx.engine import TokenLogprob


class TokenText:
    """Text and bytes of single tokens; a part of a character has bytes, and no text of its own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, list[int]]] = {}

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


class CompletionLogprobs:
    """`logprobs` of a completion, in columns; offsets count characters from the echo on."""

    def __init__(self, text: TokenText) -> None:
        self._text = text
        self._offset = 0

    def columns(self, rows: Sequence[tuple[int, float | None, Any]]) -> dict[str, Any]:
        """Of (token id, log-probability, likeliest ones); None for a prompt's first token."""
        found: dict[str, Any] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token_id, logprob, top in rows:
            token, _ = self._text.of(token_id)
            found["tokens"].append(token)
            found["token_logprobs"].append(None if logprob is None else _finite(logprob))
            shown = None if top is None else {self._text.of(n)[0]: _finite(p) for n, p in top}
            found["top_logprobs"].append(shown)
            found["text_offset"].append(self._offset)
            self._offset += len(token)
        return found


def _finite(logprob: float) -> float:
    """JSON has no infinity; -9999 is what clients of this API expect for impossible."""
    return max(logprob, -9999.0)
