"""The one thing that pyproject.toml cannot say: the C libraries of attention and engine.

They are compiled as the package is built, and are no extensions of Python: one wheel a platform
serves every Python and every torch. Without a compiler the wheel is one for any platform, and
torch's own kernels run. `python setup.py build_native` builds them in the tree, for a run by
PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

BUILD = Path("attention", "native", "build.py")
# Package, C file, what it asks the compiler for.
LIBRARIES = (
    ("longctx.attention.native", Path("attention", "native", "decode.c"), ()),
    ("longctx.attention.native", Path("attention", "native", "prefill.c"), ("-lm",)),
    ("longctx.attention.native", Path("attention", "native", "round.c"), ()),
    (
        "longctx.engine",
        Path("longctx", "engine", "draw.c"),
        ("-ffp-contract=off", "-lm"),  # products and sums as numpy has them
    ),
    (
        "longctx.models",
        Path("longctx", "models", "int8.c"),
        ("-ffp-contract=off", "-lm"),  # as torch has them
    ),
    (
        "longctx.engine",
        Path("longctx", "engine", "layer.c"),
        ("-ffp-contract=off",),  # as torch has them
    ),
)


def compile_all(build_lib: Path | None = None) -> list[str]:
    """Beside the C files, or into a build: one line says where it fails.

    Returns:
        Names of the C files that have a library now.
    """
    spec = importlib.util.spec_from_file_location("longctx_build_native", BUILD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reasons = {}
    for package, source, more in LIBRARIES:
        into = Path(build_lib, *package.split(".")) if build_lib else source.parent
        reasons[source.name] = module.compile_into(into, source, more)
    for reason in sorted({reason for reason in reasons.values() if reason}):
        print(f"longctx: no native kernels: {reason}; torch's are used", file=sys.stderr)
    return [name for name, reason in reasons.items() if not reason]


class BuildPackage(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            compile_all()
        else:
            self.distribution.has_native = bool(compile_all(Path(self.build_lib)))


class BuildNative(Command):
    """In the tree, beside the C files."""

    description = "compile the C libraries in the tree"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        if len(compile_all()) < len(LIBRARIES):
            sys.exit(1)


class Wheel(bdist_wheel):
    """For this platform where the libraries are in it, and for any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        if not getattr(self.distribution, "has_native", False):
            return super().get_tag()
        self.root_is_pure = False
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildPackage, "build_native": BuildNative, "bdist_wheel": Wheel})
