"""The fields of a file's type: their dotted names, their words, and what stands in a file.

    schemes.METHOD.sources.NUMBER     an object by name; sessions[].pid: a list

`python -m longctx.eval.runfolder.fields PAGE` writes the tables of docs/run-folder.md anew. Reads
the types that schema.py lists; knows no run.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from longctx.eval.runfolder import schema
from longctx.eval.runfolder.schema_parts import REQUIRED, Field, Name

_JSON = {
    **{int: "integer", float: "number", str: "string", bool: "boolean"},
    **{type(None): "null", Any: "anything"},
}
_TABLE = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


class FieldRow(NamedTuple):
    """A field; `optional` where a file may lack it."""

    name: str
    type: str
    about: Field
    optional: bool


class _Hint(NamedTuple):
    type: Any
    about: Field
    optional: bool


def rows(of: Any, prefix: str = "") -> Iterator[FieldRow]:
    """Every field of a typed dictionary, those of dictionaries within it behind it."""
    for name, hint in _hints(of).items():
        yield FieldRow(f"{prefix}{name}", _words(hint.type), hint.about, hint.optional)
        for path, inner in _inner(hint.type):
            yield from rows(inner, f"{prefix}{name}{path}.")


def later(of: Any) -> dict[str, Any]:
    """What older files lack, and are read as having."""
    hints = _hints(of).items()
    return {name: hint.about.older for name, hint in hints if hint.about.older is not REQUIRED}


def found_in(value: Any, of: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of what stands in a file.

    Raises:
        TypeError: a field that its type does not have, lacks, or says otherwise.
    """
    hints = _hints(of)
    for name, hint in hints.items():
        if name not in value and not hint.optional and hint.about.older is REQUIRED:
            raise TypeError(f"{prefix}{name} is missing")
    for name, held in value.items():
        if name not in hints:
            raise TypeError(f"{prefix}{name} is in no type")
        yield f"{prefix}{name}"
        yield from _within(held, hints[name].type, f"{prefix}{name}")


def table(of: Any) -> str:
    """The fields as a table in Markdown."""
    lines = ["| field | type | unit | is |", "|---|---|---|---|"]
    for row in rows(of):
        about = row.about
        when = about.when or ("" if about.older is REQUIRED else "older files lack it")
        words = f"{about.words} *({when})*" if when else about.words
        lines.append(f"| `{row.name}` | {row.type} | {about.unit} | {words} |")
    return "\n".join(lines) + "\n"


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    kinds = {kind.__name__: kind for of_file in schema.FILES.values() for kind in of_file}
    return _TABLE.sub(lambda found: f"{found[1]}{table(kinds[found[2]])}{found[3]}", page)


def _hints(of: Any) -> dict[str, _Hint]:
    found = {}
    for name, hint in get_type_hints(of, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        plain, about = get_args(get_args(hint)[0] if optional else hint)
        found[name] = _Hint(_known(plain, about.fields), about, optional)
    return found


def _known(hint: Any, fields: Any) -> Any:
    """The type with `fields` for an object that code takes as it is."""
    if fields is None or hint == dict[str, Any]:
        return fields or hint
    key, held = get_args(hint)
    return types.GenericAlias(dict, (key, _known(held, fields)))


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _inner(hint: Any) -> Iterator[tuple[str, Any]]:
    """Typed dictionaries within a type, and how they are reached."""
    for part in _parts(hint):
        if is_typeddict(part):
            yield "", part
        elif get_origin(part) is dict:
            key, held = get_args(part)
            yield from ((f".{_key(key)}{path}", inner) for path, inner in _inner(held))
        elif get_origin(part) is list:
            yield from ((f"[]{path}", inner) for path, inner in _inner(get_args(part)[0]))


def _key(hint: Any) -> str:
    name: Name = get_args(hint)[1]
    return name.word


def _words(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_word(part) for part in _parts(hint)))


def _word(part: Any) -> str:
    if is_typeddict(part):
        return "object"
    if get_origin(part) is Literal:
        return "string"
    if get_origin(part) is list:
        first, *others = map(_word, _parts(get_args(part)[0]))
        many = first.replace("list", "lists", 1) if " " in first else f"{first}s"
        return f"list of {' or '.join([many, *others])}"
    if get_origin(part) is dict:
        key, held = get_args(part)
        return f"object: {_key(key)} to {_words(held)}"
    return _JSON[part]


def _within(value: Any, hint: Any, name: str) -> Iterator[str]:
    for part in _parts(hint):
        if is_typeddict(part) and isinstance(value, dict):
            return (yield from found_in(value, part, f"{name}."))
        if get_origin(part) is dict and isinstance(value, dict):
            key, held = get_args(part)
            for inner in value.values():
                yield from _within(inner, held, f"{name}.{_key(key)}")
            return
        if get_origin(part) is list and isinstance(value, list):
            for inner in value:
                yield from _within(inner, get_args(part)[0], f"{name}[]")
            return
        if _fits(value, part):
            return
    raise TypeError(f"{name} is {value!r}, not {_words(hint)}")


def _fits(value: Any, part: Any) -> bool:
    if part is Any:
        return True
    if get_origin(part) is Literal:
        return value in get_args(part)
    if part is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is part


def main() -> None:
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
