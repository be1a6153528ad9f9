"""The package's shape: what is packaged, who may import whom, and what stays out of start-up."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    "longctx": "longctx",
    "longctx.attention": "attention",
    "longctx.eval": "eval",
    "longctx.plots": "plots",
}
HEAVY = {"torch", "transformers", "accelerate", "numpy", "matplotlib", "flash_attn"}


def test_every_package_directory_is_packaged() -> None:
    found = {
        ".".join((package, *init.parent.relative_to(ROOT / folder).parts))
        for package, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    setuptools = PROJECT["tool"]["setuptools"]
    assert set(setuptools["packages"]) == found
    assert setuptools["package-dir"] == {k: v for k, v in FOLDERS.items() if k != "longctx"}


def test_every_directory_with_modules_is_a_package() -> None:
    for folder in FOLDERS.values():
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module.parent} has no __init__.py"


def test_every_other_file_of_a_package_is_packaged() -> None:
    """A template that is missing from the wheel is there in a clone and in an editable install."""
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder).rglob("*"):
            if not file.is_file() or file.suffix == ".py" or "__pycache__" in file.parts:
                continue
            name = file.relative_to(ROOT / folder)
            owners = [".".join((package, *name.parts[:depth])) for depth in range(len(name.parts))]
            globs = [
                (package_name, name.relative_to(Path(*name.parts[:depth])))
                for depth, package_name in enumerate(owners)
            ]
            assert any(
                inner.match(glob) for owner, inner in globs for glob in listed.get(owner, [])
            ), f"{file} is in no package-data"


def test_coverage_names_all_packages() -> None:
    assert set(PROJECT["tool"]["coverage"]["run"]["source_pkgs"]) == set(FOLDERS)


def all_modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(p for p in parts if p != "__init__"))), path


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            # `from longctx import eval` imports longctx.eval; `from longctx.info import collect`
            # adds a name that no rule below can match.
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def starts_with(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def may_import(module: str, imported: str) -> bool:
    """cli -> server -> engine -> attention; cli -> eval; cli -> plots -> what eval has recorded."""
    if imported.split(".")[0] in sys.stdlib_module_names:
        return True
    if module == "longctx":
        return False
    if starts_with(module, "longctx.attention"):
        allowed = ["torch", "longctx.attention"]
        name = module.removeprefix("longctx.attention.")
        if name.startswith("hf"):  # the one place that knows transformers
            allowed += ["transformers", "accelerate"]
        if name.startswith("kernels.flash_attn"):
            allowed += ["flash_attn", "flash_attn_interface"]
        return starts_with(imported, *allowed)
    if starts_with(module, "longctx.eval"):  # sees models through a protocol
        # `import longctx` is for the version; it loads nothing.
        return not imported.startswith("longctx.") or starts_with(
            imported, "longctx.eval", "longctx.errors", "longctx.__version__"
        )
    if starts_with(module, "longctx.plots"):  # reads what lies in a run folder, never a model
        return starts_with(
            imported,
            "numpy",
            "matplotlib",
            "rich",
            "longctx.plots",
            "longctx.errors",
            *(
                f"longctx.eval.{name}"
                for name in ("config", "effective", "paired", "ranking", "records", "summary")
            ),
            *(f"longctx.eval.perplexity_{name}" for name in ("summary", "files")),
        )
    if starts_with(module, "longctx.engine"):  # its adapter for the harness knows the protocol
        harness = ["longctx.eval.target"] if module == "longctx.engine.target" else []
        return not imported.startswith("longctx.") or starts_with(
            imported, "longctx.engine", "longctx.attention", "longctx.errors", *harness
        )
    return True


MODULES = list(all_modules())


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_keep_their_direction(module: str, path: Path) -> None:
    wrong = sorted(name for name in imports_of(path) if not may_import(module, name))
    assert not wrong, f"{module} may not import {', '.join(wrong)}"


def loaded_after(code: str) -> set[str]:
    """The top-level names in sys.modules once a fresh interpreter has run `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n' + ' '.join(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import longctx",
        "import longctx.cli",
        "import sys; sys.argv = ['longctx', '--help']; from longctx.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code",
    ],
    ids=["package", "cli", "help"],
)
def test_start_up_imports_nothing_heavy(code: str) -> None:
    assert not loaded_after(code) & HEAVY


def test_plots_load_no_model_library() -> None:
    names = [name for name, _ in MODULES if starts_with(name, "longctx.plots")]
    assert not loaded_after(f"import {', '.join(names)}") & {"torch", "transformers"}
