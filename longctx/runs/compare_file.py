"""The file of `longctx compare`: models, methods and tasks, checked key by key.

    output: runs/comparison          where everything goes
    published: ruler,needlebench     figures of others, below ours
    defaults:                        for every entry that does not say otherwise
      lengths: 2K,4K,8K
      depths: 11
      repeats: 5
    runs:
      - model: embedded
        methods: none,dca
      - model: sim:window=4K
      - model: qwen2.5-7b            an endpoint: the server's name for it
        base_url: http://127.0.0.1:8000/v1
        tokenizer: Qwen/Qwen2.5-7B-Instruct
        name: served                 its folder below output; else from the model's name

Every other key of an entry is an option of `longctx needle`, with underscores; a list where the
option takes commas. Knows the file, not how runs are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longctx.errors import UserError
from longctx.models.source import SIMULATED
from longctx.options.declare import nearest, options_of
from longctx.options.needle import NeedleOptions
from longctx.report.published import PublishedRow, published

_OWN = ("output", "defaults", "runs", "published")
# These belong to the comparison as a whole, or to its entries by another name.
_NOT_HERE = {"output", "dry_run", "json"}


@dataclass(frozen=True)
class ComparisonEntry:
    """`arguments` are options of the needle command, by name."""

    path: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ComparisonFile:
    file: Path
    output: Path
    entries: tuple[ComparisonEntry, ...]
    published: tuple[PublishedRow, ...] = ()


def read(file: Path) -> ComparisonFile:
    """
    Raises:
        UserError: names the key's path, as `runs[1].lengths`.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"FILE {file}: cannot be read ({error.strerror}): check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"FILE {file}: no YAML ({error}): correct it") from None
    options = {option.name for option in options_of(NeedleOptions)} - _NOT_HERE
    top = _mapping(file, "", content, _OWN)
    defaults = _mapping(file, "defaults", top.get("defaults") or {}, options)
    runs = top.get("runs")
    if not isinstance(runs, list) or not runs:
        raise UserError(f"FILE {file}: runs: a list of at least one entry is needed")
    entries = []
    for index, given in enumerate(runs):
        path = f"runs[{index}]"
        entry = _mapping(file, path, given, {*options, "name"})
        if not isinstance(entry.get("model"), str):
            raise UserError(f"FILE {file}: {path}.model: is missing: name a model")
        name = entry.pop("name", None)
        arguments = {
            key: _value(file, f"{path if key in entry else 'defaults'}.{key}", value)
            for key, value in {**_fitting(defaults, entry), **entry}.items()
        }
        depths = entry.get("depths", defaults.get("depths"))
        if isinstance(depths, list) and len(depths) == 1:
            arguments["depths"] += ","  # a list is never a count
        entries.append(ComparisonEntry(path, _folder(file, path, name, entry["model"]), arguments))
    names = [made.name for made in entries]
    for made in entries:
        if names.count(made.name) > 1:
            raise UserError(
                f"FILE {file}: {made.path}: another entry is called {made.name} as well: give "
                f"it a name, {made.path}.name"
            )
    output = Path(str(top.get("output") or f"runs/{file.stem}"))
    return ComparisonFile(file, output, tuple(entries), _published(file, top.get("published")))


def _published(file: Path, value: Any) -> tuple[PublishedRow, ...]:
    if value is None:
        return ()
    names = str(_value(file, "published", value)).split(",")
    return tuple(published([name.strip() for name in names], f"FILE {file}: published"))


def _fitting(defaults: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Default methods are for local models: what has one arm takes none."""
    one_arm = "base_url" in entry or str(entry["model"]).startswith(SIMULATED)
    return {key: value for key, value in defaults.items() if not (one_arm and key == "methods")}


def _mapping(file: Path, path: str, content: Any, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"FILE {file}: {path or 'the file'}: keys and values are needed")
    known = set(known)
    for key in content:
        if key not in known:
            where = f"{path}.{key}" if path else str(key)
            raise UserError(f"FILE {file}: {where}: not known: {nearest(str(key), known)}")
    return dict(content)


def _value(file: Path, path: str, value: Any) -> Any:
    """YAML knows numbers and lists where a command line knows words."""
    if isinstance(value, list):
        if all(isinstance(part, (str, int, float)) for part in value):
            return ",".join(map(str, value))
    elif value is None or isinstance(value, (str, int, float)):
        return value
    raise UserError(f"FILE {file}: {path}: a value or a list of values is needed")


def _folder(file: Path, path: str, name: Any, model: str) -> str:
    if name is None:
        return re.sub(r"[^\w.=-]+", "-", Path(model).name).strip("-.") or "model"
    if not isinstance(name, str) or not re.fullmatch(r"[\w=-][\w.=-]*", name):
        raise UserError(f"FILE {file}: {path}.name {name}: letters, digits, . = - _ are possible")
    return name
