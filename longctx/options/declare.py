"""How an option is declared: a field of a frozen dataclass, with what there is to say about it.

    @dataclass(frozen=True)
    class PlanOptions:
        model: Annotated[str, Argument("A model of `longctx models`.")]
        context: Annotated[int | None, Option("Tokens of one context.", read=tokens)] = None

The command line, the YAML of `compare`, the TOML and the environment of `serve` and the pages in
docs/ all derive from that. What they hand over are words: `2K` for 2048. Fields that say nothing
about themselves are no options. Knows no command and no typer (commands/command.py does).
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Any, Literal, TypeVar

from longctx.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """
    Attributes:
        panel: the box of `--help` in which it stands.
        read: makes the value of a word and the flag that errors name; without it the field's type
            says what the word is. No lambda with names in it: annotations are evaluated where
            their module's names are not seen later.
        show: makes the word again, of the default.
        name: of flag and key, where the field's is another.
        negated: the flag says that the field is False.
        is_file: names a TOML file with the other options.
    """

    help: str
    panel: str | None = None
    read: Callable[[str, str], Any] | None = None
    show: Callable[[Any], str] = str
    name: str | None = None
    negated: bool = False
    is_file: bool = False


@dataclass(frozen=True)
class Argument(Option):
    """Without a flag. `environment` is its variable, where it has one."""

    metavar: str | None = None
    environment: str | None = None


@dataclass(frozen=True)
class Declared:
    """An option of a class: `field` there, `name` in files, `flag` on a command line."""

    field: str
    kind: Any
    default: Any
    about: Option

    @property
    def name(self) -> str:
        return self.about.name or self.field

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def word(self) -> Any:
        """The type of what a command line hands over."""
        kind = str if self.about.read or typing.get_origin(self.kind) is Literal else self.kind
        if typing.get_origin(kind) is tuple:
            kind = list[typing.get_args(kind)[0]]  # type: ignore[misc]
        return kind | None if self.default in (None, (), "") else kind

    @property
    def default_word(self) -> Any:
        if self.default in (None, (), ""):
            return None
        if self.about.negated:
            return not self.default
        return self.about.show(self.default) if self.about.read else self.default

    def value(self, word: Any) -> Any:
        if word is None:
            return self.default
        if self.about.read:
            return self.about.read(word, self.flag)
        if typing.get_origin(self.kind) is tuple:
            return tuple(word)
        return not word if self.about.negated else word


def options_of(kind: type[Any]) -> tuple[Declared, ...]:
    """In the order of the fields, which is that of `--help`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(
        Declared(field.name, typing.get_args(hints[field.name])[0], field.default, about)
        for field in fields(kind)
        for about in typing.get_args(hints[field.name])[1:]
        if isinstance(about, Option)
    )


def from_words(kind: type[T], words: Mapping[str, Any]) -> T:
    """Options of what a command line hands over, by name; what is left out has its default.

    Raises:
        UserError: a word that is not what the option takes.
    """
    options = [option for option in options_of(kind) if option.name in words]
    return kind(**{option.field: option.value(words[option.name]) for option in options})


def from_mapping(kind: type[T], content: Mapping[str, Any]) -> T:
    """Options of a file's keys and values.

    Raises:
        UserError: a key that is no option, or a value that it cannot be.
    """
    return from_words(kind, words_of(kind, content))


def _as_on_a_command_line(key: str, value: Any) -> str:
    return f"{key} {str(value).lower() if isinstance(value, bool) else value}"


def words_of(
    kind: type[Any],
    content: Mapping[str, Any],
    where: str = "",
    quote: Callable[[str, Any], str] = _as_on_a_command_line,
) -> dict[str, Any]:
    """A file's keys (with - or _) and values as the words of a command line.

    Args:
        where: goes before the key in errors.
        quote: how errors write key and value.

    Raises:
        UserError: a key that is no option, or a value that it cannot be.
    """
    known = {option.name: option for option in options_of(kind) if not option.about.is_file}
    words = {}
    for key, value in content.items():
        option = known.get(key.replace("-", "_"))
        if option is None:
            names = [name.replace("_", "-") for name in known]
            raise UserError(f"{where}{key} is no option: {nearest(key, names)}")
        if value is None and type(None) not in typing.get_args(option.word):
            raise UserError(f"{where}{key}: is empty: give a value, or leave it out")
        try:
            words[option.name] = None if value is None else _typed(option.word, value)
        except ValueError as error:
            raise UserError(f"{where}{quote(key, value)}: {error} is needed") from None
    return words


def nearest(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is not known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"


def _typed(kind: Any, value: Any) -> Any:
    """
    Raises:
        ValueError: says what is needed instead.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # few commands have a file

    kinds = typing.get_args(kind) if isinstance(kind, UnionType) else (kind,)
    flag = bool in kinds
    try:
        # A file may have a number where the command line has a word: `context = 4096`.
        adapter = TypeAdapter[Any](kind, config=ConfigDict(coerce_numbers_to_str=True))
        typed, wrong = adapter.validate_python(value), ""
    except ValidationError as error:
        typed, wrong = None, error.errors()[0]["type"]
    if not wrong and isinstance(value, bool) == flag:  # pydantic takes 1 for true, true for 1
        return typed
    if flag:
        needed = "true or false"
    elif int in kinds or float in kinds:
        needed = "a whole number" if wrong == "int_from_float" else "a number"
    else:
        needed = "a list of names" if typing.get_origin(kinds[0]) is list else "a text"
    raise ValueError(needed)
