"""The package's shape: what is packaged, who may import whom, what stays out of start-up, and
that no class name means two things."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
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
# For editors: pyright and jedi look for `longctx.eval` below longctx/. A checkout without symbolic
# links (Windows) has a small text file there, and needs neither.
LINKS = [ROOT / "longctx" / folder for folder in ("attention", "eval", "plots")]
# What setup.py compiles, and git does not know.
LIBRARIES_IN_C = ("decode.lib", "prefill.lib", "draw.lib", "layer.lib")
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
            if file in LINKS or file.name in LIBRARIES_IN_C:
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


@pytest.mark.parametrize("link", LINKS, ids=[link.name for link in LINKS])
def test_editors_find_each_package_below_longctx(link: Path) -> None:
    target = str(link.readlink()) if link.is_symlink() else link.read_text(encoding="utf-8")
    assert target == f"../{link.name}"


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
            # `from longctx import eval` imports longctx.eval; where a class is imported, its name
            # is added, which changes nothing below.
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def starts_with(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


# What of this project each room may import beside itself, from the command line down. A module
# belongs to the longest name that it starts with.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "longctx": (),
    "longctx.__main__": ("longctx.cli",),
    "longctx.cli": ("longctx.commands", "longctx.errors", "longctx.__version__"),
    "longctx.commands": ("longctx",),
    # A question on documents: from a server, or from what a server would load.
    "longctx.ask": (
        *("longctx.reading", "longctx.serve", "longctx.models", "longctx.engine", "longctx.chat"),
        *("longctx.attention", "longctx.tiny", "longctx.options", "longctx.eval.format"),
        *("longctx.documents", "longctx.errors"),
    ),
    # Its worker must start at once, and without torch.
    "longctx.reading": ("longctx.eval.texts", "longctx.killable", "longctx.errors"),
    "longctx.runs": (
        *("longctx.models", "longctx.report", "longctx.plots", "longctx.eval", "longctx.chat"),
        *("longctx.attention", "longctx.tiny", "longctx.options", "longctx.errors"),
    ),
    "longctx.serve": (
        *("longctx.models", "longctx.tiny", "longctx.engine", "longctx.attention", "longctx.chat"),
        *("longctx.grammar", "longctx.killable", "longctx.options", "longctx.eval.format"),
        *("longctx.documents", "longctx.reading", "longctx.errors", "longctx.__version__"),
    ),
    "longctx.documents": (
        *("longctx.models.source", "longctx.engine", "longctx.attention", "longctx.chat"),
        "longctx.errors",
    ),
    "longctx.models": (
        *("longctx.tiny", "longctx.engine", "longctx.attention", "longctx.chat", "longctx.eval"),
        *("longctx.vllm", "longctx.options", "longctx.errors"),
    ),
    # What may be said; what it means is settled above.
    "longctx.options": ("longctx.eval", "longctx.chat", "longctx.errors"),
    "longctx.options.declare": ("longctx.errors",),
    "longctx.options.engine": (),
    "longctx.report": (
        *("longctx.plots", "longctx.eval", "longctx.options", "longctx.errors"),
        "longctx.__version__",
    ),
    "longctx.doctor": (
        *("longctx.attention", "longctx.engine.packed", "longctx.engine.drawing"),
        *("longctx.engine.layer_ops", "longctx.errors", "longctx.__version__"),
    ),
    # Reads what lies in a run folder, never a model.
    "longctx.plots": (
        *("longctx.eval.format", "longctx.eval.runfolder.records", "longctx.errors"),
        *(f"longctx.eval.needle.{name}" for name in ("effective", "inference", "paired")),
        *(f"longctx.eval.needle.{name}" for name in ("ranking", "results", "summary")),
        *(f"longctx.eval.perplexity.{name}" for name in ("summary", "files")),
    ),
    "longctx.tiny": ("longctx.eval", "longctx.chat.template"),
    # Sees models through a protocol. The version is kept in run folders.
    "longctx.eval": ("longctx.chat", "longctx.errors", "longctx.__version__"),
    "longctx.engine": (
        *("longctx.grammar", "longctx.attention", "longctx.options.engine", "longctx.errors"),
    ),
    # Loaded by vLLM, in processes of its own: an adapter of the attention, and nothing else.
    "longctx.vllm": ("longctx.attention",),
    # Its worker must start at once, and without torch.
    "longctx.grammar": ("longctx.killable",),
    "longctx.chat": ("longctx.killable", "longctx.errors"),
    "longctx.killable": (),
    "longctx.attention": (),
    "longctx.errors": (),
}

# The libraries that a room may import, where these are few.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "longctx": (),
    "longctx.__main__": (),
    "longctx.cli": ("typer",),
    "longctx.plots": ("numpy", "matplotlib", "rich"),
    "longctx.errors": (),
    "longctx.options": ("pydantic",),
    "longctx.options.engine": (),
    "longctx.grammar": ("llguidance", "numpy"),
    "longctx.killable": ("psutil",),
    "longctx.reading": (),
    "longctx.attention": ("torch",),
    "longctx.attention.hf": ("torch", "transformers", "accelerate"),  # the one place that knows it
    "longctx.vllm": ("torch", "vllm"),
    "longctx.attention.kernels.flash_attn": ("torch", "flash_attn", "flash_attn_interface"),
}


def room(module: str, rooms: Iterable[str]) -> str | None:
    """The longest name that a module starts with; `longctx` itself is no room of its modules."""
    return max(
        (
            name
            for name in rooms
            if module == name or (name != "longctx" and starts_with(module, name))
        ),
        key=len,
        default=None,
    )


def may_import(module: str, imported: str) -> bool:
    """cli -> commands -> runs -> models -> engine -> attention; serve -> engine; eval -> chat."""
    if imported.split(".")[0] in sys.stdlib_module_names:
        return True
    if imported == "longctx":  # for the version; it loads nothing
        imported = "longctx.__version__"
    if starts_with(imported, "longctx"):
        own = room(module, MAY_IMPORT)
        assert own is not None, f"{module} is in no room of MAY_IMPORT"
        return starts_with(imported, *MAY_IMPORT[own]) or (
            own != "longctx" and starts_with(imported, own)
        )
    own = room(module, LIBRARIES)
    return own is None or starts_with(imported, *LIBRARIES[own])


MODULES = list(all_modules())


def test_only_the_command_line_knows_typer() -> None:
    knowing = {module for module, path in MODULES if "typer" in imports_of(path)}
    assert {name.rpartition(".")[0] for name in knowing} == {"longctx", "longctx.commands"}


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_keep_their_direction(module: str, path: Path) -> None:
    wrong = sorted(name for name in imports_of(path) if not may_import(module, name))
    assert not wrong, f"{module} may not import {', '.join(wrong)}, by MAY_IMPORT and LIBRARIES"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not at the top, nor inside functions, nor for types."""
    known = dict(MODULES)
    left = {
        # `from longctx.eval import stats` needs that module; the package itself holds nothing.
        module: {name if name in known else name.rpartition(".")[0] for name in imports_of(path)}
        & (known.keys() - {module})
        for module, path in MODULES
    }
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"in a circle, or needing one: {', '.join(sorted(left))}"


def test_no_two_public_classes_share_a_name() -> None:
    """A name means one thing, whichever module a reader comes to it from."""
    places: dict[str, list[str]] = {}
    for module, path in all_modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


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
    heavy = sorted(loaded_after(code) & HEAVY)
    assert not heavy, f"{', '.join(heavy)}: import it inside the function that needs it"


def test_plots_load_no_model_library() -> None:
    names = [name for name, _ in MODULES if starts_with(name, "longctx.plots")]
    assert not loaded_after(f"import {', '.join(names)}") & {"torch", "transformers"}
