"""How many tokens a text has at the least, without tokenising it: what can never fit is refused
before a second is spent on every megabyte of it.

No token stands for more bytes than the longest one. That holds where nothing of a text gets lost on
the way to its tokens, which is checked; for other tokenizers there is no bound, and all is
tokenised.
"""

from __future__ import annotations

import json
import re
from typing import Any

# NFC and NFD make one character of several, or a shorter one: four bytes become one at the most
# (U+212A, three, becomes K).
_COMPOSED = 4
_WHOLE_STEPS = {"ByteLevel", "Digits", "Metaspace", "UnicodeScripts"}


class LengthBound:
    """For one fast tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made = {} if backend is None else json.loads(backend.to_str())
        self._longest = _longest(made)
        self._composes = any(_has(made.get("normalizer"), form) for form in ("NFC", "NFD"))
        self._bytes = _is_byte_level(made)

    def tokens(self, text: str) -> int:
        """At least so many; 0 where nothing is known."""
        if self._longest is None:
            return 0
        ascii_ = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        size = len(text)
        if self._bytes and ascii_ < size:
            size = len(text.encode("utf-8", "replace"))
        if self._composes:  # never two of ASCII
            size = max(ascii_, size // _COMPOSED)
        return -(-size // self._longest)


def _longest(made: dict[str, Any]) -> int | None:
    """What one token stands for at most, in bytes or characters; None where there is no bound."""
    model = made.get("model") or {}
    if model.get("type") != "BPE" or model.get("dropout"):
        return None
    vocabulary = model["vocab"]
    if _is_byte_level(made):
        complete = len({piece for piece in vocabulary if len(piece) == 1}) >= 256
    else:
        named = sum(bool(re.fullmatch(r"<0x[0-9A-F]{2}>", piece)) for piece in vocabulary)
        complete = bool(model.get("byte_fallback")) and named == 256
    added = made.get("added_tokens") or []
    # These take all white space beside them.
    greedy = any(token.get("lstrip") or token.get("rstrip") for token in added)
    if not complete or greedy or made.get("truncation"):
        return None
    if not _whole(made.get("normalizer")) or not _whole(made.get("pre_tokenizer")):
        return None
    return max(map(len, [*vocabulary, *(token["content"].encode() for token in added)]))


def _is_byte_level(made: dict[str, Any]) -> bool:
    return _has(made.get("pre_tokenizer"), "ByteLevel") or _has(made.get("normalizer"), "ByteLevel")


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    if step.get("type") != "Sequence":
        return [step]
    inner = step.get("normalizers") or step.get("pretokenizers") or []
    return [part for one in inner for part in _parts(one)]


def _has(step: dict[str, Any] | None, kind: str) -> bool:
    return any(part.get("type") == kind for part in _parts(step))


def _whole(step: dict[str, Any] | None) -> bool:
    """Whether a normaliser or pre-tokenizer leaves nothing out."""
    return all(_keeps(part) for part in _parts(step))


def _keeps(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    if kind == "Replace":
        pattern, content = part.get("pattern", {}).get("String"), part.get("content", "")
        if pattern is None:
            return False
        return len(content) >= len(pattern) and len(content.encode()) >= len(pattern.encode())
    if kind in ("Split", "Punctuation"):
        return part.get("behavior") != "Removed"
    return kind in _WHOLE_STEPS or kind in ("NFC", "NFD", "Prepend")
