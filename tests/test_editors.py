"""Editors follow every import of this project's modules: jedi, and pyright as basedpyright.

basedpyright brings its own JavaScript and node, where the `pyright` of PyPI would download both
when it first runs. No third party is installed where they look: what is asked for is ours.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("longctx", "attention", "eval", "plots", "tests", "benchmarks")
LINKS = [ROOT / "longctx" / folder for folder in ("attention", "eval", "plots")]

pytestmark = [
    pytest.mark.slow,  # both read the whole project
    pytest.mark.skipif(
        not all(link.is_symlink() for link in LINKS),
        reason="this checkout has no symbolic links, so editors find no longctx.attention, "
        "longctx.eval and longctx.plots: see git's core.symlinks",
    ),
]


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not any(file.is_relative_to(link) for link in LINKS):
                yield file


def imports_of_ours(file: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Each with what it would be on a line of its own, one name a line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("longctx."):
            for alias in node.names:
                yield node, f"from {node.module} import {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if f"{alias.name}.".startswith("longctx."):
                    yield node, f"import {alias.name}"


def test_jedi_finds_where_each_imported_name_is_defined() -> None:
    import jedi

    asked: dict[str, str] = {}
    for file in files():
        for node, line in imports_of_ours(file):
            asked.setdefault(line, f"{file.relative_to(ROOT)}:{node.lineno}")
    assert len(asked) > 500

    project = jedi.Project(ROOT, sys_path=[str(ROOT)], smart_sys_path=False)
    here = ROOT / "imports.py"  # is not written
    environment = jedi.InterpreterEnvironment()
    script = jedi.Script("\n".join(asked), path=here, project=project, environment=environment)

    def is_found(row: int, line: str) -> bool:
        names = script.goto(row, len(line) - 1, follow_imports=True)
        paths = [name.module_path for name in names if name.module_path not in (None, here)]
        return any(path.resolve().is_relative_to(ROOT) for path in paths)

    lost = [
        f"{where}: {line}"
        for row, (line, where) in enumerate(asked.items(), 1)
        if not is_found(row, line)
    ]
    assert not lost, "\n".join(lost)


def test_pyright_resolves_each_import(tmp_path: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # An environment without packages: half of the time, and the same on every machine.
    for packages in (f"lib/{version}/site-packages", "Lib/site-packages"):
        (tmp_path / "empty" / packages).mkdir(parents=True)
    settings = tmp_path / "pyrightconfig.json"
    wanted = {
        "include": [str(ROOT / folder) for folder in FOLDERS],
        "exclude": [str(link) for link in LINKS],  # imports are looked for there all the same
        "extraPaths": [str(ROOT), str(ROOT / "tests" / "support")],
        "venvPath": str(tmp_path),
        "venv": "empty",
        "typeCheckingMode": "off",
        "reportMissingImports": "error",
        "reportAttributeAccessIssue": "error",
    }
    settings.write_text(json.dumps(wanted), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--project", str(settings), "--outputjson"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: it reports something
    told = json.loads(done.stdout)
    found = told["generalDiagnostics"]
    assert told["summary"]["filesAnalyzed"] >= len(list(files()))
    assert any('"torch" could not be resolved' in one["message"] for one in found)  # it does look
    lost = [
        f"{one['file']}:{one['range']['start']['line'] + 1}: {one['message']}"
        for one in found
        if concerns_ours(one)
    ]
    assert not lost, "\n".join(lost)


def concerns_ours(diagnostic: dict[str, Any]) -> bool:
    if 'of module "longctx' in diagnostic["message"]:
        return True
    line = diagnostic["range"]["start"]["line"] + 1
    return any(
        node.lineno <= line <= (node.end_lineno or node.lineno)
        for node, _ in imports_of_ours(Path(diagnostic["file"]))
    )
