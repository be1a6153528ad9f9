"""What an engine is told beside its model: each default once. Engine and server read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSettings:
    """As `longctx.engine.Engine` explains them. None stands where a rule decides."""

    kernel: str = "auto"
    chunk_budget: int = 512
    kv_budget_bytes: int | None = None
    max_context: int | None = None
    max_running: int = 64
    max_waiting: int = 256
    # A trailing shared piece below this is copied: cheaper than its own kernel call ever after.
    share_from: int = 512
    prompts_first: bool = False
    speculate: str = "auto"


def most_guesses(speculate: str) -> int | None:
    """Of one request in a step; 0: none, None: as many as prove right.

    Raises:
        ValueError: what may be said.
    """
    if speculate in ("auto", "off"):
        return None if speculate == "auto" else 0
    if not speculate.isdecimal() or not int(speculate):
        raise ValueError("use auto, off, or the most tokens to guess at a time, at least 1")
    return int(speculate)
