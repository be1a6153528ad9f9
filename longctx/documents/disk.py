"""Writes that are there whole, or not at all, whenever the process ends.

Every change of the disk goes through the functions of this module, for tests to fail them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

# Of a file that is being written; what a killed process left of it is removed.
TEMPORARY = ".part"


def write(file: BinaryIO, data: bytes | memoryview) -> None:
    """All of it."""
    left = memoryview(data).cast("B")
    while left:
        left = left[file.write(left) :]


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def rename(old: Path, new: Path) -> None:
    os.replace(old, new)
    sync_directory(new.parent)


def remove(path: Path) -> None:
    """Harmless where it is gone."""
    path.unlink(missing_ok=True)


def replace_file(path: Path, *parts: bytes, size: int | None = None) -> None:
    """Put a file in the place of another, which is there until the new one is on the disk.

    Args:
        parts: its content.
        size: of the file, where it is longer than its content: the rest is written later.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    new = path.with_name(path.name + TEMPORARY)
    try:
        with new.open("wb", buffering=0) as file:
            for part in parts:
                write(file, part)
            if size is not None:
                file.truncate(size)
            sync(file.fileno())
        rename(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """A name is on the disk once its directory is. Windows has no such call."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
