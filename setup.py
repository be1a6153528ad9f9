"""The one thing that pyproject.toml cannot say: the C library of attention/native.

It is compiled as the package is built, and is no extension of Python: one wheel a platform serves
every Python and every torch. Without a compiler the wheel is one for any platform, and torch's own
kernels run. `python setup.py build_native` builds it in the tree, for a run by PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = "longctx.attention.native"
FOLDER = Path("attention", "native")


def compile_into(folder: Path) -> bool:
    """Whether there is a library now; says so in one line where there is none."""
    spec = importlib.util.spec_from_file_location("longctx_build_native", FOLDER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.compile_into(folder)
    if reason is not None:
        print(f"longctx: no native attention kernel: {reason}; torch's is used", file=sys.stderr)
    return reason is None


class BuildPackage(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            compile_into(FOLDER)
        else:
            into = Path(self.build_lib, *PACKAGE.split("."))
            self.distribution.has_native = compile_into(into)


class BuildNative(Command):
    """In the tree, beside the C file."""

    description = "compile attention/native/decode.c in the tree"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        if not compile_into(FOLDER):
            sys.exit(1)


class Wheel(bdist_wheel):
    """For this platform where the library is in it, and for any Python."""

    def get_tag(self) -> tuple[str, str, str]:
        if not getattr(self.distribution, "has_native", False):
            return super().get_tag()
        self.root_is_pure = False
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildPackage, "build_native": BuildNative, "bdist_wheel": Wheel})
