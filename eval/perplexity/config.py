"""What a perplexity run is told: every setting and its default. The command line reads this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from longctx.errors import UserError

Metric = Literal["prefix", "window", "position", "rolling"]
Bos = Literal["auto", "always", "never"]
METRICS: tuple[Metric, ...] = get_args(Metric)
BOS: tuple[Bos, ...] = get_args(Bos)

_DEFAULT_STEP = 256  # the stride of the DCA paper's tables, and the width of a position bin


@dataclass(frozen=True)
class PerplexityConfig:
    """What is measured. Lengths in tokens, the beginning-of-sequence token counted."""

    lengths: tuple[int, ...] = (2048, 4096, 8192)
    metric: Metric = "prefix"
    stride: int | None = None
    window: int | None = None
    documents: int = 8
    bos: Bos = "auto"
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("metric", METRICS), ("bos", BOS)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name} {getattr(self, name)}: use one of {', '.join(known)}")
        if self.documents < 1:
            raise UserError(f"--documents {self.documents}: must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: must be at least 1, or left out")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must not be negative")
        if self.shortest < 4:
            raise UserError(f"--lengths {self.shortest}: too short to predict in: give 4 or more")
        for name, metric in (("stride", "window"), ("window", "position")):
            value = getattr(self, name)
            if value is not None and self.metric != metric:
                raise UserError(
                    f"--{name} {value}: --metric {self.metric} does not read it: leave it out, or "
                    f"ask for --metric {metric}"
                )
            if value is not None and not 1 <= value <= self.shortest - 2:
                raise UserError(
                    f"--{name} {value}: must lie between 1 and the shortest length less 2, "
                    f"{self.shortest - 2}: change it, or --lengths"
                )

    @property
    def shortest(self) -> int:
        return min(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def view(self) -> dict[str, Any]:
        """Which tokens a figure at length L is about; run.json keeps it."""
        step = min(_DEFAULT_STEP, self.shortest // 2)
        return {
            "metric": self.metric,
            "stride": (self.stride or step) if self.metric == "window" else None,
            "window": (self.window or step) if self.metric == "position" else None,
        }
