"""Keys and values that lie outside of the engine: read out of a request, put in as a prefix.

`read` copies what a running request has computed; `bring_in` makes a prefix of what was stored, for
a request that waits and has it in common. Both are for the engine's thread, between steps. Knows no
file: what is stored comes through `StoredPrefix`.

Shape legend: N layers, K key/value heads, L tokens, D head dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from longctx.engine.buffer import Segment, spans
from longctx.engine.prefix import Tokens
from longctx.engine.request import EngineRequest
from longctx.engine.scheduler import WORTH_WAITING, Scheduler
from longctx.engine.sequence import RequestState

_log = logging.getLogger(__name__)

# Of a long queue only so many are looked at in a step.
_MOST_LOOKED_AT = 16
# Tokens that are looked at first: most prompts differ from most documents within these.
_FIRST = 128


class KeptPiece(NamedTuple):
    """Keys [N, K, L, D] and values [N, K, L, D] of the tokens at start, start + 1, ..."""

    start: int
    keys_NKLD: torch.Tensor
    values_NKLD: torch.Tensor


class StoredPrefix(Protocol):
    """Tokens from position 0 on whose keys and values can be had; nothing of it changes.

    Attributes:
        bucket: what the temperature was taken at, as `Engine.bucket` gives it.
    """

    bucket: int
    tokens_N: Tokens

    def pieces(self, stop: int) -> Iterator[KeptPiece]:
        """Of the tokens [0, stop), in order.

        Raises:
            Exception: they are damaged, or gone.
        """


def read(scheduler: Scheduler, request: EngineRequest, start: int, stop: int) -> KeptPiece | None:
    """A copy, on the host, of what a running request has of the tokens [start, stop).

    None where it does not run, or has not computed all of them.
    """
    sequence = next((each for each in scheduler.running if each.request is request), None)
    if sequence is None or sequence.kv is None or sequence.computed < stop:
        return None
    held = [
        (buffer, max(start, first), last)
        for buffer, first, last in spans(sequence.kv.segments(stop), stop)
        if last > start
    ]
    layers = []
    for layer in range(scheduler.pool.layers):
        parts = [buffer.read(layer, first, last) for buffer, first, last in held]
        layers.append(tuple(torch.cat(both, dim=2)[0].cpu() for both in zip(*parts, strict=True)))
    keys, values = zip(*layers, strict=True)
    return KeptPiece(start, torch.stack(keys), torch.stack(values))


@torch.inference_mode()
def bring_in(
    scheduler: Scheduler, offered: Sequence[StoredPrefix], devices: Sequence[torch.device]
) -> list[StoredPrefix]:
    """Make prefixes of what is stored, where a request that waits would else compute it.

    Args:
        devices: of each layer.

    Returns:
        what could not be read, and should be offered no longer: those requests are computed.
    """
    failed: list[StoredPrefix] = []
    if len(scheduler.running) >= scheduler.max_running:
        return failed
    for sequence in list(scheduler.waiting)[:_MOST_LOOKED_AT]:
        stored, common = _longest(sequence, [each for each in offered if each not in failed])
        if stored is None or not _is_worth_it(scheduler, sequence, common):
            continue
        try:
            _put(scheduler, stored, common, devices)
        except Exception as error:
            _log.warning("what is stored of a prompt cannot be used (%s): computed again", error)
            failed.append(stored)
    return failed


def _longest(
    sequence: RequestState, offered: Sequence[StoredPrefix]
) -> tuple[StoredPrefix | None, int]:
    best, longest = None, 0
    for stored in offered:
        first = min(_FIRST, len(stored.tokens_N), sequence.prompt_length)
        if stored.bucket != sequence.bucket or (
            (sequence.prompt_N[:first] != stored.tokens_N[:first]).any()
        ):
            continue
        common = min(sequence.common_with(stored, stored.tokens_N), sequence.shareable)
        if common > longest:
            best, longest = stored, common
    return best, longest


def _is_worth_it(scheduler: Scheduler, sequence: RequestState, common: int) -> bool:
    """It is not there, nobody is computing it, and the request could be admitted with it."""
    if sequence.cancelled or scheduler.worth_waiting(sequence):
        return False
    _, _, there = scheduler.find_prefix(sequence)
    if common - there < WORTH_WAITING:
        return False
    pool = scheduler.pool
    needed = pool.blocks_of(len(sequence.tokens) + 1) + len(scheduler.running)
    return needed <= pool.free_blocks + pool.idle_blocks


def _put(
    scheduler: Scheduler, stored: StoredPrefix, tokens: int, devices: Sequence[torch.device]
) -> None:
    """Nothing is there twice: each piece goes from where it lies into its place."""
    pool = scheduler.pool
    if not scheduler.prefixes.make_room(pool.blocks_of(tokens)):
        return
    buffer = pool.allocate(0, tokens)
    try:
        at = 0
        for start, keys_NKLD, values_NKLD in stored.pieces(tokens):
            if start != at:
                raise ValueError(f"a piece begins at token {start}, not {at}")
            for layer, device in enumerate(devices):
                buffer.write(layer, at, keys_NKLD[layer].to(device), values_NKLD[layer].to(device))
            at += keys_NKLD.shape[2]
        if at != tokens:
            raise ValueError(f"{at} tokens are stored, not {tokens}")
        kept = Segment(buffer, tokens)
        scheduler.prefixes.insert(stored.bucket, stored.tokens_N[:tokens], [kept])
    finally:
        buffer.release()  # what the prefix has of it stays
