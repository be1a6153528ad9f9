"""How long a prompt may take, before any was measured: small steps, and what the model computes.

A few tokens are timed alone. Of a long prompt every token costs as much, and its attention to all
before it: that is added in the proportion of multiplications. An estimate: large steps are faster
than small ones, and attention is slower than its multiplications say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from longctx.engine import Engine, EngineRequest
from longctx.models.source import shape_of

# Tokens of a step; where that is fast, a larger one says more.
_SMALL, _LARGE = 32, 512
_FAST_S = 0.1
_PATIENCE_S = 120.0


class ExpectedTime(NamedTuple):
    """Of reading a prompt. `estimated`: by its arithmetic, as none was measured before."""

    seconds: float
    estimated: bool


class FirstEstimate:
    """Of one engine, measured when it is first asked for.

    Args:
        config: of the model.
        run: gets a request through the engine where no thread of its own does.
    """

    def __init__(
        self, engine: Engine, config: Any, run: Callable[[], object] | None = None
    ) -> None:
        self._engine, self._shape, self._run = engine, shape_of(config), run
        self._speed: float | None = None  # multiplications a second

    def seconds(self, tokens: int, reused: int = 0) -> float | None:
        """For a prompt of which the first ones are computed; None where it cannot be measured.

        The first call takes as long as a few small steps.
        """
        if tokens <= reused:
            return 0.0
        if self._speed is None:
            self._speed = self._measured()
        if self._speed is None:
            return None
        return (self._work(tokens) - self._work(reused)) / self._speed

    def _measured(self) -> float | None:
        seconds, tokens = self._seconds_of(_SMALL), _SMALL
        most = min(self._engine.fitting_tokens, self._engine.max_context)
        if seconds is not None and seconds < _FAST_S and most > 2 * _LARGE:
            seconds, tokens = self._seconds_of(_LARGE), _LARGE
        return None if seconds is None else self._work(tokens) / max(seconds, 1e-6)

    def _seconds_of(self, tokens: int) -> float | None:
        """Of one step: the faster of two, as the first one warms up; None where others ask at the
        same time, who would be measured too."""
        found = []
        ids = [(7 * at + 11) % min(self._engine.vocabulary, 256) for at in range(tokens)]
        for _ in range(2):
            stats = self._engine.stats()
            if stats.running or stats.waiting:
                return None
            try:
                request = EngineRequest(ids, max_new_tokens=1, share_prefix=False)
                handle = self._engine.submit(request)
                if self._run is not None:
                    self._run()
                found.append(handle.result(_PATIENCE_S).usage.compute_s)
            except Exception:  # whatever it is, a prompt will tell
                return None
        return min(found)

    def _work(self, tokens: int) -> float:
        """Multiplications of a prompt: the layers' matrices, and attention to what is before."""
        shape = self._shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        matrices = shape.hidden * (2 * queries + 2 * keys + 3 * shape.intermediate)
        return shape.layers * (tokens * matrices + tokens * tokens * queries)
