"""vLLM's asynchronous engine, started, and the figures that it tells of itself.

vLLM is imported inside functions: everything else of this package runs without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Figures:
    """What vLLM's scheduler has told last."""

    def __init__(self) -> None:
        self.running, self.usage, self.steps = 0, 0.0, 0

    def factory(self) -> Any:
        """What vLLM calls to make a logger of its statistics."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        figures = self

        class Recorder(StatLoggerBase):
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(
                self,
                scheduler_stats: Any,
                iteration_stats: Any,
                mm_cache_stats: Any = None,
                engine_idx: int = 0,
            ) -> None:
                figures.steps += 1
                if scheduler_stats is not None:
                    figures.running = scheduler_stats.num_running_reqs
                    figures.usage = scheduler_stats.kv_cache_usage

            def log_engine_initialized(self) -> None:
                pass

        return Recorder


async def start(made: Any, figures: Figures) -> Any:
    """In the loop that its answers are read in."""
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(made, stat_loggers=[figures.factory()])


def tokens(ids: Sequence[int]) -> Any:
    """A prompt as vLLM's engine takes it from its own server."""
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(ids))
