"""What longctx uses of vLLM, and what a release of vLLM has: both read, nothing imported.

    python tests/support/vllm_symbols.py WHEEL_OR_DIRECTORY ...     writes tests/vllm/symbols.json

A table lists, for each release, the modules that longctx imports from with the names it takes: a
function's parameters, a class's fields (with what they are), methods and bases. What an attribute
of a vLLM object is, `ROOTS` says by the variable's name in the plugin, and from there the fields'
annotations do.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "vllm" / "symbols.json"

# Variables of the plugin that hold vLLM's objects: (module, class).
ROOTS = {
    "vllm_config": ("vllm.config.vllm", "VllmConfig"),
    "common": ("vllm.v1.attention.backend", "CommonAttentionMetadata"),
    "kv_cache_spec": ("vllm.v1.kv_cache_interface", "AttentionSpec"),
    "core_request": ("vllm.v1.engine", "EngineCoreRequest"),
    "_vllm_config": ("vllm.config.vllm", "VllmConfig"),
    "_llm": ("vllm.v1.engine.async_llm", "AsyncLLM"),
    "request_output": ("vllm.outputs", "RequestOutput"),
    "completion": ("vllm.outputs", "CompletionOutput"),
    "times": ("vllm.v1.metrics.stats", "RequestStateStats"),
    "scheduler_stats": ("vllm.v1.metrics.stats", "SchedulerStats"),
    "current_platform": ("vllm.platforms.interface", "Platform"),
    "parallel": ("vllm.config.parallel", "ParallelConfig"),
    "cache": ("vllm.config.cache", "CacheConfig"),
    "model": ("vllm.config.model", "ModelConfig"),
}
# Reached through fields of those.
REACHED = {
    "ModelArchitectureConfig": "vllm.config.model_arch",
    "AttentionConfig": "vllm.config.attention",
    "SchedulerConfig": "vllm.config.scheduler",
    "ModelConfig": "vllm.config.model",
    "CacheConfig": "vllm.config.cache",
    "ParallelConfig": "vllm.config.parallel",
}
# Classes whose methods vLLM calls with positional arguments that the plugin's own must take, where
# no base declares them: (the plugin's class, method) -> where vLLM has the like.
CALLED = {"do_kv_cache_update": ("vllm.v1.attention.backends.flash_attn", "FlashAttentionImpl")}


class Source:
    """A release's modules, out of a wheel or a directory that holds `vllm/`."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path) if path.suffix == ".whl" else None
        self._directory = path
        self._parsed: dict[str, ast.Module] = {}

    def _read(self, name: str) -> str | None:
        try:
            if self._zip is not None:
                return self._zip.read(name).decode()
            return (self._directory / name).read_text(encoding="utf-8")
        except (KeyError, OSError):
            return None

    def parse(self, module: str) -> ast.Module | None:
        if module not in self._parsed:
            place = module.replace(".", "/")
            text = self._read(f"{place}.py") or self._read(f"{place}/__init__.py")
            if text is None:
                return None
            self._parsed[module] = ast.parse(text)
        return self._parsed[module]

    def find(self, module: str, name: str) -> tuple[str, ast.stmt] | None:
        """Where a name is defined, imports followed: (module, definition)."""
        tree = self.parse(module)
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, (*_FUNCTION, ast.ClassDef)) and node.name == name:
                return module, node
            if isinstance(node, ast.AnnAssign) and _names(node.target) == [name]:
                return module, node
            if isinstance(node, ast.Assign) and name in _names(*node.targets):
                return module, node
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.ImportFrom) and any(
                (alias.asname or alias.name) == name for alias in node.names
            ):
                origin = node.module or ""
                if node.level:
                    package = module if self._is_package(module) else module.rpartition(".")[0]
                    for _ in range(node.level - 1):
                        package = package.rpartition(".")[0]
                    origin = f"{package}.{origin}".rstrip(".")
                (real,) = (a.name for a in node.names if (a.asname or a.name) == name)
                if found := self.find(origin, real):
                    return found
        return None

    def _is_package(self, module: str) -> bool:
        return self._read(f"{module.replace('.', '/')}/__init__.py") is not None


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def _names(*targets: ast.expr) -> list[str]:
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = node.args
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def describe(source: Source, module: str, name: str) -> dict[str, Any] | None:
    """A symbol, with a class's own members and its bases'; None where it is missing."""
    found = source.find(module, name)
    if found is None:
        return None
    origin, node = found
    if isinstance(node, _FUNCTION):
        return {"parameters": _parameters(node)}
    if not isinstance(node, ast.ClassDef):
        return {}
    fields: dict[str, str] = {}
    methods: dict[str, list[str]] = {}
    for base in node.bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Name) and (above := describe(source, origin, base.id)):
            fields |= above.get("fields", {})
            methods |= above.get("methods", {})
    for each in ast.walk(node):
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            fields[each.target.id] = ast.unparse(each.annotation)
        elif isinstance(each, ast.Assign):
            fields |= dict.fromkeys(_names(*each.targets), "")
            fields |= {
                target.attr: ""
                for target in each.targets
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
            }
    for each in node.body:
        if isinstance(each, _FUNCTION):
            if any("property" in ast.unparse(mark) for mark in each.decorator_list):
                fields[each.name] = ast.unparse(each.returns) if each.returns else ""
            else:
                methods[each.name] = _parameters(each)
    return {"fields": fields, "methods": methods}


# -- the plugin -----------------------------------------------------------------------------------


def plugin_files() -> list[Path]:
    plugin = (ROOT / "longctx" / "vllm").rglob("*.py")
    return sorted((*plugin, *(ROOT / "longctx" / "models").glob("vllm_*.py")))


def imported(files: list[Path]) -> set[tuple[str, str]]:
    """(module, name) of everything imported from vLLM."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found |= {(node.module or "", alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                taken = [alias.name for alias in node.names if alias.name.split(".")[0] == "vllm"]
                assert not taken, f"{path}: import names from {taken}, so that they can be checked"
    return found


def chains(files: list[Path]) -> set[tuple[str, ...]]:
    """Attributes of vLLM's objects: ("vllm_config", "cache_config", "cache_dtype")."""
    found, known = set(), {*ROOTS, *(name for _, name in imported(files))}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            at: ast.AST = node
            while isinstance(at, ast.Attribute):
                names.append(at.attr)
                at = at.value
            if isinstance(at, ast.Name):
                chain = (at.id, *reversed(names))
                first = next((n for n, name in enumerate(chain[:-1]) if name in known), None)
                if first is not None:
                    found.add(chain[first:])
    return found


def overridden(files: list[Path]) -> Iterator[tuple[str, str, str, list[str]]]:
    """(base, class, method, parameters) of every method of a class below vLLM's `base`."""
    classes = {
        node.name: node
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    def bases(node: ast.ClassDef) -> Iterator[str]:
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield from bases(classes[base.id])
            elif isinstance(base, ast.Name):
                yield base.id

    for node in classes.values():
        for base in bases(node):
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    yield base, node.name, each.name, _parameters(each)


def keywords(files: list[Path], names: set[str]) -> set[tuple[str, str]]:
    """(function, parameter) of calls of imported functions and of their attributes."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.split(".")[0] in names:
                    found |= {(called, each.arg) for each in node.keywords if each.arg}
    return found


def needed(files: list[Path]) -> set[tuple[str, str]]:
    return (
        imported(files)
        | set(ROOTS.values())
        | {(m, n) for n, m in REACHED.items()}
        | set(CALLED.values())
    )


def table(source: Source, files: list[Path], *, whole: bool = False) -> dict[str, Any]:
    """What a release has of what is needed, by module and name; of classes, what the plugin names.

    Args:
        whole: classes with all of their members.
    """
    found: dict[str, Any] = {}
    taken = members(files)
    for module, name in sorted(needed(files)):
        about = describe(source, module, name)
        if about is not None:
            for kind in ("fields", "methods"):
                if kind in about:
                    about[kind] = {
                        k: v for k, v in sorted(about[kind].items()) if whole or k in taken
                    }
            found.setdefault(module, {})[name] = about
    return found


def members(files: list[Path]) -> set[str]:
    """Names of attributes and methods in the plugin: all that a table must tell."""
    found = {"__init__"}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
            elif isinstance(node, ast.FunctionDef):
                found.add(node.name)
    return found


def missing(files: list[Path], known: dict[str, Any]) -> list[str]:
    """What the plugin uses and a release has not, in words."""
    wrong = []
    by_name = {name: about for names in known.values() for name, about in names.items()}
    for module, name in sorted(imported(files)):
        if name not in known.get(module, {}):
            wrong.append(f"{module} has no {name}")
    for variable, *attributes in sorted(chains(files)):
        kind = ROOTS.get(variable, ("", variable))[1]
        for attribute in attributes:
            about = by_name.get(kind, {})
            if not about and kind in by_name:
                break  # a variable
            fields, methods = about.get("fields", {}), about.get("methods", {})
            if attribute not in fields and attribute not in methods:
                wrong.append(f"{kind} has no {attribute}")
                break
            words = re.findall(r"\w+", fields.get(attribute, ""))
            kind = next((word for word in words if word in by_name), "")
            if not kind:
                break  # nobody's, or another library's
    for base, own, method, parameters in overridden(files):
        about = by_name.get(base)
        if about is None or "methods" not in about:
            continue
        theirs = about["methods"].get(method)
        if theirs is None and method in CALLED:
            theirs = by_name.get(CALLED[method][1], {}).get("methods", {}).get(method)
        if theirs is None:
            if not method.startswith("_") and method not in _own_methods(files, own):
                wrong.append(f"{base} has no {method}")
        elif parameters[: len(theirs)] != theirs:
            wrong.append(f"{base}.{method} takes {theirs}, and {own}'s {parameters}")
    names = {name for _, name in imported(files)}
    for called, parameter in sorted(keywords(files, names)):
        first, _, rest = called.partition(".")
        about = by_name.get(first, {})
        methods = about.get("methods", {})
        if rest:
            takes = methods.get(rest, [])
        else:  # a class takes its fields, or what its own __init__ does
            takes = about.get("parameters") or methods.get("__init__") or about.get("fields", [])
        if parameter not in takes:
            wrong.append(f"{called} takes no {parameter}")
    return wrong


def _own_methods(files: list[Path], own: str) -> set[str]:
    """Methods that only the plugin itself calls: `self.NAME(...)` in the class."""
    found: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == own:
                found |= {
                    each.func.attr
                    for each in ast.walk(node)
                    if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
                }
    return found


def release_of(path: Path) -> str:
    """`vllm-0.33.0-cp38-...whl` -> "0.33.0"; of a directory, the installed one's."""
    if path.suffix == ".whl":
        return path.name.split("-")[1]
    from longctx.vllm.version import installed

    found = installed()
    assert found is not None, f"{path} is no wheel, and vLLM is not installed"
    return found[1].split("+")[0]


def as_text(tables: dict[str, Any]) -> str:
    """JSON, a symbol a line, so that a difference can be read."""
    releases = []
    for release, known in sorted(tables.items()):
        modules = []
        for module, names in sorted(known.items()):
            lines = [f"   {json.dumps(n)}: {json.dumps(a)}" for n, a in sorted(names.items())]
            modules.append(f"  {json.dumps(module)}: {{\n" + ",\n".join(lines) + "\n  }")
        releases.append(f" {json.dumps(release)}: {{\n" + ",\n".join(modules) + "\n }")
    return "{\n" + ",\n".join(releases) + "\n}\n"


def main() -> None:
    files = plugin_files()
    tables = {release_of(path): table(Source(path), files) for path in map(Path, sys.argv[1:])}
    TABLE.write_text(as_text(tables), encoding="utf-8")
    for release, known in tables.items():
        print(release, *(missing(files, known) or ["has all that is used"]), sep="\n  ")


if __name__ == "__main__":
    main()
