"""The serving engine: many requests, one model, continuous batching, keys read in place.

with Engine(model, tokenizer, "yarn+dca").start() as engine:
    for event in engine.submit(EngineRequest(ids, max_new_tokens=64)):
        ...
"""

from longctx.engine.engine import Engine, Stats
from longctx.engine.errors import (
    ConstraintError,
    ContextLengthError,
    EngineBrokenError,
    EngineClosedError,
    InsufficientMemoryError,
    NonFiniteLogitsError,
    QueueFullError,
)
from longctx.engine.handle import Answer, Generation
from longctx.engine.request import (
    Delta,
    EngineRequest,
    Event,
    Failed,
    Finished,
    Progress,
    Sampling,
    TokenLogprob,
    Usage,
)

__all__ = [
    "Answer",
    "ConstraintError",
    "ContextLengthError",
    "Delta",
    "Engine",
    "EngineBrokenError",
    "EngineClosedError",
    "EngineRequest",
    "Event",
    "Failed",
    "Finished",
    "Generation",
    "InsufficientMemoryError",
    "NonFiniteLogitsError",
    "Progress",
    "QueueFullError",
    "Sampling",
    "Stats",
    "TokenLogprob",
    "Usage",
]
