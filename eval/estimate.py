"""How long a sweep will take and how much memory its longest prompt needs. Arithmetic only.

A prompt costs work: linear layers times tokens, attention times tokens squared, and the answer,
whose tokens each cost as much as many prompt tokens because they read all weights and keys. Tokens
that a prompt takes from the one before it cost nothing. Seconds are work times a rate that was
measured on this machine (by a probe, or by finished cells).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from longctx.eval.format import show_bytes, show_length, show_seconds
from longctx.eval.needle.config import Texts
from longctx.eval.needle.grid import Cell, columns

# One decoded token against one prefilled token: 65 and 71 measured on a CPU at 2K and 8K.
_DECODE_FACTOR = 65
# Answers stop at the end-of-turn token long before their budget; failing ones do not.
_ANSWER_SHARE = 0.5


class ModelSizes(Protocol):
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


def work(shape: ModelSizes, length: int, answer_tokens: int, cached: int = 0) -> float:
    """Floating-point operations of one cell, or their equivalent in time.

    Of its `length` tokens the first `cached` are there already.
    """
    linear = 2.0 * shape.layers * shape.layer_parameters
    pair = 2.0 * shape.layers * shape.heads * shape.head_dim
    prefill = linear * (length - cached) + pair * (length**2 - cached**2)
    decode = (linear + pair * length) * _DECODE_FACTOR * _ANSWER_SHARE * answer_tokens
    return prefill + decode


def expected_work(
    pending: Iterable[Cell], shape: ModelSizes, answer_tokens: int, prefix_sharing: bool
) -> dict[Cell, float]:
    """The work of each cell. With sharing, a prompt goes on from the needle of the one before:
    where texts are shared as well as their prefill."""
    found = {}
    for _, column in columns(pending):
        shared = 0.0
        for cell in column:
            found[cell] = work(shape, cell.length, answer_tokens, int(shared * cell.length))
            if prefix_sharing:
                shared = (cell.depth or 0.0) / 100
    return found


@dataclass(frozen=True)
class NeedlePlan:
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
    # The work of a text for every cell, over that of texts which depths share; None where they do,
    # and where no prefill is shared anyway.
    own_texts_cost: float | None = None
    # With the second look at every length; None where there is none.
    most_cells: int | None = None

    def __str__(self) -> str:
        time = "time unknown"
        if self.seconds is not None:
            time = f"about {show_seconds(self.seconds)} ({self.seconds_from})"
        memory = f" · KV cache {show_bytes(self.kv_bytes)} at {show_length(self.longest)}"
        memory = memory if self.kv_bytes else ""
        cost = self.own_texts_cost
        texts = "" if cost is None else f" · a text each: {cost:.2f} x the work of --shared-texts"
        more = ""
        if self.most_cells is not None and self.most_cells > self.cells:
            more = f", up to {self.most_cells} if a length is close"
        return (
            f"{self.cells} cells{more}: {self.done} done, {self.to_do} to do · "
            f"{self.prompts} prompts, {self.tokens:,} tokens · {time}{memory}{texts}"
        )


def plan(
    *,
    everything: Iterable[Cell],
    pending: Iterable[Cell],
    shape: ModelSizes,
    answer_tokens: int,
    prefix_sharing: bool,
    texts: Texts,
    bytes_per_value: int,
    rate: float | None,
    rate_from: str,
    most_cells: int | None = None,
) -> NeedlePlan:
    """`rate` is seconds per unit of work()."""
    cells, to_do = list(everything), list(pending)
    longest = max(cell.length for cell in cells)

    def work_with(shared: bool) -> float:
        return sum(expected_work(to_do, shape, answer_tokens, shared).values())

    total = work_with(prefix_sharing and texts == "shared")
    cost = None
    if texts == "own" and prefix_sharing and to_do and cells[0].depth is not None:
        cost = total / work_with(True)
    return NeedlePlan(
        cells=len(cells),
        done=len(cells) - len(to_do),
        to_do=len(to_do),
        prompts=len({(cell.length, cell.depth, cell.repeat) for cell in to_do}),
        tokens=sum(cell.length for cell in to_do),
        longest=longest,
        seconds=None if rate is None else rate * total,
        seconds_from=rate_from,
        kv_bytes=shape.kv_bytes(longest, bytes_per_value),
        own_texts_cost=cost,
        most_cells=most_cells,
    )


def rate_of(
    records: Iterable[Mapping[str, Any]], shape: ModelSizes, answer_tokens: int
) -> float | None:
    """Seconds per unit of work over finished cells; None without any."""
    timed = [record for record in records if record.get("ttft_s")]
    spent = sum(seconds_of(record) for record in timed)
    done = sum(work_done(record, shape, answer_tokens) for record in timed)
    return spent / done if spent else None


def seconds_of(record: Mapping[str, Any]) -> float:
    """What a cell cost: its share where it was computed together with others."""
    own = record.get("compute_s")
    return float(record["total_s"] if own is None else own)


def work_done(record: Mapping[str, Any], shape: ModelSizes, answer_tokens: int) -> float:
    """The work of a finished cell: what it took from the cell before is not in it."""
    return work(shape, record["length"], answer_tokens, record.get("cached_tokens") or 0)
