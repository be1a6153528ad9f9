"""Operations that a GPU would be asked for: what computes or copies, and no views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from fake_cuda import real
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# Not computed: views, and memory that is asked for.
FREE = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "transpose", "permute", "slice"),
    *("select", "unbind", "as_strided", "unsqueeze", "expand", "empty", "empty_like", "new_empty"),
    *("alias", "narrow"),
}
SOMETIMES = {"reshape", "flatten", "to"}  # free as long as they copy nothing


class Counted(TorchDispatchMode):
    """Attributes: names: of the operations that compute or copy, on a tensor of any device."""

    _entered: ClassVar[list[Counted]] = []

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __enter__(self) -> Any:
        self._entered.append(self)
        return super().__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        self._entered.pop()

    @classmethod
    @contextmanager
    def as_one(cls, name: str) -> Iterator[None]:
        """What stands for one operation of a package's, and computes by many of torch's."""
        for counted in cls._entered:
            counted.names.append(name)
        with _disable_current_modes():
            yield

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        given = [_storage(x) for x in args if isinstance(x, torch.Tensor)]
        copies = name in SOMETIMES and _storage(out) not in given
        if copies or name not in FREE | SOMETIMES:
            self.names.append(name)
        return out


def _storage(x: torch.Tensor) -> int:
    storage: Any = real(x).untyped_storage()
    found: int = storage._cdata
    return found
