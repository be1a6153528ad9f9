"""What a server asks of an engine, whoever computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from longctx.engine.engine import Stats
from longctx.engine.handle import Generation
from longctx.engine.request import EngineRequest, Event


class ServingEngine(Protocol):
    """Requests in, events out; each member as `Engine` has it."""

    max_context: int

    @property
    def kernel_name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def kv_dtype(self) -> torch.dtype: ...
    @property
    def fitting_tokens(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def broken(self) -> Exception | None: ...
    @property
    def stalled_s(self) -> float: ...
    def submit(
        self, request: EngineRequest, listener: Callable[[Event], None] | None = None
    ) -> Generation: ...
    def stats(self) -> Stats: ...
    def start(self) -> Any: ...
    def close(self) -> None: ...
