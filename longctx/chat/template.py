"""Where a chat template's own text ends and somebody's begins, and how each becomes token ids.

Encoding a rendered conversation whole would let a text that spells `<|im_end|>` end its own turn,
and merges would reach across the seams. So the model's template is rendered with a mark in place
of everything that somebody wrote; what stands between the marks is the template's, and only that
is encoded with its special tokens. Knows no roles, no tools and no task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from longctx.chat.tokens_process import LONG, TokensPool
from longctx.errors import UserError

# Some templates print today's date or open a thinking block; a prompt must be a function of its
# recipe, and the models served here answer without thinking.
SETTINGS = {"date_string": "26 Jul 2024", "enable_thinking": False}

# The plain one, and the embedded model's: known to end, and to be as long as its texts.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Form = Literal["plain", "json", "ascii"]  # as it is, or inside a JSON string

# Private-use characters: no template looks for them, and none of them is white space to trim. JSON
# escapes the control character and may escape the others, so a mark tells how it was printed.
_OPEN, _ESCAPED, _CLOSE = "\ue000", "\x01", "\ue001"
_FORMS: dict[tuple[str, str, str], Form] = {
    (_OPEN, _ESCAPED, _CLOSE): "plain",
    (_OPEN, r"\u0001", _CLOSE): "json",
    (r"\ue000", r"\u0001", r"\ue001"): "ascii",
}
_MARK = re.compile(rf"({_OPEN}|\\ue000)({_ESCAPED}|\\u0001)(\d+)({_CLOSE}|\\ue001)")
_NO_TOOL = {"type": "function", "function": {"name": "x", "description": "x", "parameters": {}}}
_UNASSIGNED = "\U0010fffe"  # in no vocabulary
_LEFT_OVER = re.compile(rf"{_OPEN}|{_CLOSE}|\\+ue00[01]")


def mark(index: int) -> str:
    return f"{_OPEN}{_ESCAPED}{index}{_CLOSE}"


class FoundMark(NamedTuple):
    """Which mark, and how the template printed it."""

    mark: int
    form: Form


class TemplatePieces(NamedTuple):
    """pieces[0], found[0], pieces[1], …, found[-1], pieces[-1]."""

    pieces: list[str]
    found: list[FoundMark]


class UnreadableError(ValueError):
    """The template prints a mark in a form that cannot be told from its own text."""


def split(rendered: str) -> TemplatePieces:
    """Take a conversation that was rendered with marks apart.

    Raises:
        UnreadableError: a mark was changed on its way, by `upper` or by Python's `repr`.
    """
    pieces, found, at = [], [], 0
    for match in _MARK.finditer(rendered):
        before, escaped, index, after = match.groups()
        form = _FORMS.get((before, escaped, after))
        if form is None:
            break
        pieces.append(rendered[at : match.start()])
        found.append(FoundMark(int(index), form))
        at = match.end()
    pieces.append(rendered[at:])
    if any(_LEFT_OVER.search(piece) for piece in pieces):
        raise UnreadableError("a text is printed in a form that is neither itself nor JSON")
    return TemplatePieces(pieces, found)


def render(
    tokenizer: Any,
    messages: Sequence[dict[str, Any]],
    *,
    tools: Sequence[dict[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    options: Mapping[str, Any] | None = None,
) -> str:
    """The template's text. It raises what it likes: jinja2's errors, or its own words on roles."""
    text: str = tokenizer.apply_chat_template(
        **arguments(messages, tools, add_generation_prompt, options)
    )
    return text


def arguments(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    add_generation_prompt: bool,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Of apply_chat_template, wherever it is called; `options` have been checked."""
    return {
        "conversation": list(messages),
        "tools": None if tools is None else list(tools),
        "tokenize": False,
        "add_generation_prompt": add_generation_prompt,
        **SETTINGS,
        **(options or {}),
    }


# Of what is no special token and opens no turn: it is printed as the template's own text.
_PLAIN = re.compile(r"[A-Za-z0-9 _.,:+/-]{0,64}")
_MOST_OPTIONS = 16
_RESERVED = {
    "messages",
    "conversation",
    "raise_exception",
    "strftime_now",
    "bos_token",
    "eos_token",
}


def check_options(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """What a request may tell a template: flags, numbers and plain words, under names of its own.

    Raises:
        UserError: names the option.
    """
    import inspect

    where = "chat_template_kwargs"
    if len(options) > _MOST_OPTIONS:
        raise UserError(f"{where}: {len(options)} given, at most {_MOST_OPTIONS} are taken")
    taken = {*inspect.signature(tokenizer.apply_chat_template).parameters, *_RESERVED}
    taken |= set(getattr(tokenizer, "special_tokens_map", ()))
    for name, value in options.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) or name in taken:
            raise UserError(
                f"{where}: {name[:80]!r} is nothing that a request may set: leave it out"
            )
        if isinstance(value, str) and not _PLAIN.fullmatch(value):
            raise UserError(
                f"{where}.{name}: {value[:80]!r} must be at most 64 letters, digits, spaces and "
                "_ . , : + / -"
            )
        if not isinstance(value, str | int | float | bool | None):
            raise UserError(f"{where}.{name}: must be a flag, a number, a plain word or null")


def unused_options(tokenizer: Any, options: Mapping[str, Any]) -> list[str]:
    """Those whose names the template does not hold."""
    found = getattr(tokenizer, "chat_template", None) or ""
    source = "\n".join(found.values()) if isinstance(found, dict) else found
    return [name for name in options if not re.search(rf"\b{re.escape(name)}\b", source)]


def syntax_error(
    tokenizer: Any, rendered: Callable[[list[dict[str, Any]], Any], str] | None = None
) -> str | None:
    """Where and why the tokenizer's template cannot be parsed; None where it can, or is not there.

    What it refuses when it is rendered is its own business: there may be other conversations.

    Args:
        rendered: renders messages and tools, and raises SyntaxProblem; here, where it is not given.

    Raises:
        UserError: of `rendered`.
    """
    from jinja2 import TemplateSyntaxError

    found = getattr(tokenizer, "chat_template", None)
    if not found:
        return None
    hello = [{"role": "user", "content": "x"}]
    named = [None, [_NO_TOOL]] if isinstance(found, dict) else [None]  # one with tools, one without
    for tools in named:
        try:
            if rendered is None:
                render(tokenizer, hello, tools=tools)
            else:
                rendered(hello, tools)
        except TemplateSyntaxError as error:
            return f"line {error.lineno}: {' '.join(str(error.message).split())}"
        except SyntaxProblem as error:
            return str(error)
        except UserError:
            raise
        except Exception:
            continue
    return None


class SyntaxProblem(Exception):
    """Where and why a template cannot be parsed."""


class Encoder:
    """Token ids of the template's text and of contents, from threads at the same time.

    The tokenizer of transformers keeps whether special tokens are split as state that calls change,
    so two threads could give each other's setting to a content. Here each has a copy of its own.
    `encode_batch_fast` works without Python's lock: others run beside a long text.
    """

    def __init__(self, tokenizer: Any, apart: TokensPool | None = None) -> None:
        """
        Args:
            apart: makes tokens of long contents, where these are strangers'.
        """
        self._apart_pool = apart
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"tokenizer {type(tokenizer).__name__}: a fast one (tokenizer.json) is needed: "
                "convert it with transformers"
            )
        self._template, self._contents = (_copy(backend, split) for split in (False, True))
        self.template = lru_cache(maxsize=256)(self._encode_template)
        added = backend.get_added_tokens_decoder()
        special = {id: token for id, token in added.items() if token.special}
        # What no piece spells becomes the unknown token: a special one that ends no turn.
        unknown = _ids(self._contents, _UNASSIGNED)
        self._special_ids = frozenset(special).difference(unknown)
        # The longest first: one may begin another.
        ordered = sorted(special.values(), key=lambda token: -len(token.content))
        self._spelled = _any_of(re.escape(token.content) for token in ordered)
        # A token may take the white space beside it along, and then it is part of it here too.
        self._special = _any_of(
            r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
            for token in ordered
        )

    def contents(self, text: str) -> list[int]:
        """Ids of text that somebody wrote: none of them is a special token's."""
        ids = self._ids_of(text)
        if self._special_ids.isdisjoint(ids):
            return ids
        return [id for part in self._apart(text) for id in self._checked(self._ids_of(part))]

    def _ids_of(self, text: str) -> list[int]:
        if self._apart_pool is not None and len(text) >= LONG:
            return self._apart_pool.ids(text, split=True)
        return _ids(self._contents, text)

    def contents_and_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`contents`, and the characters that each id stands for."""
        (encoding,) = self._contents.encode_batch([text], add_special_tokens=False)
        if self._special_ids.isdisjoint(encoding.ids):
            return encoding.ids, encoding.offsets
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        for part in self._apart(text):
            (encoding,) = self._contents.encode_batch([part], add_special_tokens=False)
            ids += self._checked(encoding.ids)
            offsets += [(start + at, end + at) for start, end in encoding.offsets]
            at += len(part)
        return ids, offsets

    def _apart(self, text: str) -> list[str]:
        """Cut inside every special token's text.

        Unigram models have their special tokens among the pieces that text is made of, so that
        splitting them as tokens does not keep text from becoming them.
        """
        cuts = [match.start() + 1 for match in self._spelled.finditer(text)]
        return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]

    def _checked(self, ids: list[int]) -> list[int]:
        if not self._special_ids.isdisjoint(ids):
            raise UserError(
                "the tokenizer reads a special token in a text, and that could forge a turn: take "
                "what spells it out of the text"
            )
        return ids

    def special_span(self, text: str) -> tuple[int, int] | None:
        """From the first special token's first character to behind the last one's last."""
        matches = list(self._special.finditer(text))
        return (matches[0].start(), matches[-1].end()) if matches else None

    def _encode_template(self, text: str) -> tuple[int, ...]:
        return tuple(_ids(self._template, text))


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or r"(?!)")


def _copy(backend: Any, split_special_tokens: bool) -> Any:
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = split_special_tokens
    return copy


def _ids(backend: Any, text: str) -> list[int]:
    if not text:
        return []
    ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids
