"""How long a sweep will take and how much memory its longest prompt needs. Arithmetic only.

A prompt costs work: linear layers times tokens, attention times tokens squared, and the answer,
whose tokens each cost as much as many prompt tokens because they read all weights and keys. Seconds
are work times a rate that somebody measured on this machine (a probe, or finished cells).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from longctx.eval.config import show_length
from longctx.eval.grid import Cell

# One decoded token against one prefilled token: 65 and 71 measured on a CPU at 2K and 8K.
_DECODE_FACTOR = 65
# Answers stop at the end-of-turn token long before their budget; failing ones do not.
_ANSWER_SHARE = 0.5


class Shape(Protocol):
    """The part of a model's sizes that counts here."""

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def layer_parameters(self) -> int: ...
    def kv_bytes(self, tokens: int, bytes_per_value: int) -> int: ...


def work(shape: Shape, length: int, answer_tokens: int) -> float:
    """Floating-point operations of one cell, or their equivalent in time."""
    linear = 2.0 * shape.layers * shape.layer_parameters
    attention = 2.0 * shape.layers * shape.heads * shape.head_dim * length
    return (linear + attention) * (length + _DECODE_FACTOR * _ANSWER_SHARE * answer_tokens)


@dataclass(frozen=True)
class Plan:
    """What is about to be done, in figures."""

    cells: int
    done: int
    to_do: int
    prompts: int
    tokens: int
    longest: int
    seconds: float | None
    seconds_from: str
    kv_bytes: int

    def __str__(self) -> str:
        time = "time unknown" if self.seconds is None else f"about {show_seconds(self.seconds)}"
        return (
            f"{self.cells} cells: {self.done} done, {self.to_do} to do · {self.prompts} prompts, "
            f"{self.tokens:,} tokens · {time} ({self.seconds_from}) · "
            f"KV cache {show_bytes(self.kv_bytes)} at {show_length(self.longest)}"
        )


def plan(
    *,
    everything: Iterable[Cell],
    pending: Iterable[Cell],
    shape: Shape,
    answer_tokens: int,
    bytes_per_value: int,
    rate: float | None,
    rate_from: str,
) -> Plan:
    """`rate` is seconds per unit of work()."""
    cells, to_do = list(everything), list(pending)
    longest = max(cell.length for cell in cells)
    total = sum(work(shape, cell.length, answer_tokens) for cell in to_do)
    return Plan(
        cells=len(cells),
        done=len(cells) - len(to_do),
        to_do=len(to_do),
        prompts=len({(cell.length, cell.depth, cell.repeat) for cell in to_do}),
        tokens=sum(cell.length for cell in to_do),
        longest=longest,
        seconds=None if rate is None else rate * total,
        seconds_from=rate_from,
        kv_bytes=shape.kv_bytes(longest, bytes_per_value),
    )


def rate_of(records: Iterable[Mapping[str, Any]], shape: Shape, answer_tokens: int) -> float | None:
    """Seconds per unit of work over finished cells; None without any."""
    timed = [(record["total_s"], record["length"]) for record in records if record.get("ttft_s")]
    spent = sum(seconds for seconds, _ in timed)
    done = sum(work(shape, length, answer_tokens) for _, length in timed)
    return spent / done if spent else None


def show_seconds(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(1, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
