"""Arrays of candidates: numpy's where the logits lie on the host, torch's elsewhere.

A few candidates a row are so little work that on a CPU a call of torch costs more than what it
does; numpy's cost a third. What follows from them is written once, in names that both libraries
have; this file has what they call differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from longctx.attention.upload import upload

# Of numpy or of torch: both at once is what no type of Python says.
Array: TypeAlias = Any


def hosted(device: torch.device) -> bool:
    """Whether numpy computes what lies there."""
    return device.type == "cpu"


def of(tensor: torch.Tensor) -> Array:
    """The same numbers, not copied."""
    return tensor.numpy() if hosted(tensor.device) else tensor


def placed(host: np.ndarray, device: torch.device) -> Array:
    """Host numbers where those of the device are computed."""
    return host if hosted(device) else upload(torch.from_numpy(host), device)


def library(array: Array) -> Any:
    """Whose functions take it."""
    return torch if isinstance(array, torch.Tensor) else np


def tensor(array: Array) -> torch.Tensor:
    """The same numbers, not copied, for torch."""
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)


def cast(array: Array, dtype: str) -> Array:
    """Of another type, by its name."""
    if isinstance(array, torch.Tensor):
        return array.to(getattr(torch, dtype))
    return array.astype(dtype)


def up_to(count: int, like: Array) -> Array:
    """0, 1, ... below `count`."""
    if isinstance(like, torch.Tensor):
        return torch.arange(count, device=like.device)
    return np.arange(count)


def ascending(array_RK: Array) -> Array:
    """Every row from its least to its largest."""
    if isinstance(array_RK, torch.Tensor):
        return array_RK.sort(1).values
    return np.sort(array_RK, axis=1)


def finite(array_RK: Array) -> Array:
    """Bool [R]: no NaN and no +inf in the row, and one that is more than -inf: its largest tells
    all three, as a NaN is larger than everything."""
    xp = library(array_RK)
    return xp.isfinite(xp.amax(array_RK, 1))


def replaced(array_R: Array, rows: list[int], by: Array) -> Array:
    """With other numbers in some rows."""
    if len(rows) == len(array_R):
        return by
    if isinstance(array_R, torch.Tensor):
        return array_R.index_copy(0, upload(torch.tensor(rows), array_R.device), by)
    array_R = array_R.copy()
    array_R[rows] = by
    return array_R


def picked(array_R: Array, rows: list[int]) -> Array:
    """Some rows; no copy of all."""
    if len(rows) == len(array_R):
        return array_R
    if isinstance(array_R, torch.Tensor):
        return array_R.index_select(0, upload(torch.tensor(rows), array_R.device))
    return array_R[rows]


def along(array_RK: Array, at_RN: Array) -> Array:
    """[R, N]: of each row the numbers at its places."""
    if isinstance(array_RK, torch.Tensor):
        return array_RK.gather(1, at_RN)
    return array_RK[np.arange(len(at_RN))[:, None], at_RN]


def looked_up(tables: Sequence[Array | None], at_RK: Array) -> Array:
    """[R, K]: of each row's table [V] what stands at its places; 0 where a row has none.

    At least one row has a table; all places are in it.
    """
    first = next(table for table in tables if table is not None)
    if isinstance(at_RK, torch.Tensor):
        none = first.new_zeros(1).expand(len(first))
        every = [none if table is None else table for table in tables]
        return torch.stack(every).gather(1, at_RK)
    found_RK = np.zeros(at_RK.shape, first.dtype)
    for row, table in enumerate(tables):
        if table is not None:
            table.take(at_RK[row], out=found_RK[row], mode="clip")
    return found_RK


def put(table: Array, at: int, value: float) -> None:
    """One number, in place."""
    if isinstance(table, torch.Tensor):
        table[at].fill_(value)
    else:
        table[at] = value
