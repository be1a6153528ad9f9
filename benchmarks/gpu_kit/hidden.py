"""Packages that are installed here, hidden as if they were not: for a dry run of what a GPU machine
has, which brings torch, transformers and numpy and next to nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

HIDDEN = frozenset(
    (
        *("fastapi", "starlette", "uvicorn", "pydantic", "pydantic_core", "llguidance", "typer"),
        *("prometheus_client", "matplotlib", "pypdf", "flash_attn", "flash_attn_interface"),
        *("gguf", "openai", "rich", "click"),
    )
)


class _Hiding(PathFinder):
    # Nothing found, and no error: transformers asks for what may be missing by find_spec.
    @classmethod
    def find_spec(
        cls,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] in HIDDEN:
            return None
        return super().find_spec(fullname, path, target)


def hide() -> None:
    """From now on, in this process."""
    sys.meta_path[:] = [_Hiding if each is PathFinder else each for each in sys.meta_path]


def loaded() -> list[str]:
    """Hidden packages that something has imported all the same."""
    return sorted(HIDDEN & sys.modules.keys())
