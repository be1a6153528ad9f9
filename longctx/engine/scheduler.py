"""Which tokens of which requests go into the next forward, and who is admitted.

Every decoding request takes one token, and those that are guessed to follow it; with
`prompts_first` it waits until no prompt is left, so that more of them decode together. The rest of
the step's token budget goes to prompts: half of it to the oldest, so that none starves, the other
half to those with least left to do, so that a short request never waits for a long one; what one
half leaves over the other takes. A request is admitted when its keys and values so far fit the
memory; they grow with its answer. Where memory is short, kept prefixes go, as far as that helps;
then the youngest request gives its memory up, and is computed again later. Knows no model and no
clock.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

from longctx.engine.buffer import Segment
from longctx.engine.errors import InsufficientMemoryError
from longctx.engine.kv import KvPool, SequenceKv
from longctx.engine.memory import MAX_SCORED, MIN_PREFILL, step_rows
from longctx.engine.prefix import Node, PrefixTree
from longctx.engine.sequence import RequestState

_log = logging.getLogger(__name__)

# Younger requests that may overtake one that waits for memory; then it holds the queue.
MAX_OVERTAKING = 8
# Of a long queue only so many that do not fit are looked at in a step.
MAX_BLOCKED = 16
# A prompt waits for a running one to compute so many tokens that both have, rather than
# compute them a second time.
WORTH_WAITING = 16
# In an arena an answer grows by so many tokens while they are free: few runs, not one a block.
AHEAD = 256


class Chunk(NamedTuple):
    """The next `length` uncomputed tokens of a sequence."""

    sequence: RequestState
    length: int

    @property
    def start(self) -> int:
        return self.sequence.computed

    @property
    def stop(self) -> int:
        return self.sequence.computed + self.length

    @property
    def scored(self) -> range:
        """Positions whose logits tell the log-probability of the token behind them."""
        request = self.sequence.request
        if not request.prompt_logprobs or self.start >= self.sequence.prompt_length:
            return range(0)
        return range(max(self.start, request.prompt_logprobs_from - 1), self.stop)

    @property
    def draws(self) -> bool:
        """Whether the last row's logits give the next token."""
        return self.length == self.sequence.remaining and self.sequence.request.max_new_tokens > 0


class Scheduler:
    """Queue, running requests and kept prefixes over one pool of memory.

    Attributes:
        running: in order of their first admission.
        refused: what turned out not to fit even alone, as memory is held elsewhere; with
            the reason. The stepper takes them out.
        preempted: how often a request gave its memory up.
    """

    def __init__(
        self, pool: KvPool, *, chunk_budget: int, max_running: int, prompts_first: bool = False
    ) -> None:
        self.pool = pool
        self.prefixes = PrefixTree(pool)
        self.waiting: deque[RequestState] = deque()
        self.running: list[RequestState] = []
        self.refused: list[tuple[RequestState, InsufficientMemoryError]] = []
        self.preempted = 0
        self.chunk_budget = chunk_budget
        self.max_running = max_running
        self._prompts_first = prompts_first
        self._turns = 0

    def next_batch(self) -> list[Chunk]:
        """Chunks of the next step, all of which have room; empty where nothing is running."""
        return self._with_room(self._shares())

    def _shares(self) -> list[Chunk]:
        batch = [
            Chunk(sequence, sequence.remaining) for sequence in self.running if sequence.decoding
        ]
        prefills = [sequence for sequence in self.running if not sequence.decoding]
        if not prefills:
            return batch
        if self._prompts_first:
            batch = []
        taken = sum(chunk.length for chunk in batch)
        left = max(self.chunk_budget - taken, min(MIN_PREFILL, self.chunk_budget))
        rows = self._scored_rows()
        shares = dict.fromkeys(prefills, 0)

        def give(sequence: RequestState, most: int) -> None:
            nonlocal left, rows
            had = shares[sequence]
            wanted = sequence.remaining - had
            if sequence.request.prompt_logprobs:
                unscored = max(0, sequence.request.prompt_logprobs_from - 1 - sequence.computed)
                if sequence.computed < sequence.prompt_length:
                    wanted = min(wanted, sequence.prompt_length - sequence.computed - had)
                    wanted = min(wanted, max(0, unscored - had) + rows)
            share = min(wanted, most, left)
            shares[sequence] += share
            left -= share
            if sequence.request.prompt_logprobs and sequence.computed < sequence.prompt_length:
                rows -= max(0, had + share - unscored) - max(0, had - unscored)

        give(prefills[0], -(-left // 2))
        for sequence in sorted(prefills, key=lambda s: s.remaining):  # stable: oldest first
            give(sequence, left)
        return batch + [Chunk(sequence, share) for sequence, share in shares.items() if share]

    def _scored_rows(self) -> int:
        """Rows of logits that a step has for scored prompts, beside those that draw."""
        drawing = sum(
            1 + len(sequence.guessed)
            for sequence in self.running
            if sequence.request.max_new_tokens > 0 and not sequence.request.prompt_logprobs
        )
        return max(MIN_PREFILL, min(MAX_SCORED, step_rows(self.max_running) - drawing))

    # -- growth -----------------------------------------------------------------------------------

    def _with_room(self, batch: list[Chunk]) -> list[Chunk]:
        """Make room for every chunk, the oldest request's first; without those that lose theirs.

        Nobody gives anything up for a guess: it is not made then.
        """
        found = {chunk.sequence: chunk for chunk in batch}
        for chunk in sorted(batch, key=lambda chunk: chunk.sequence.turn):
            sequence, kv, guesses = chunk.sequence, chunk.sequence.kv, len(chunk.sequence.guessed)
            if guesses and kv is not None and kv.missing(chunk.stop) > self.pool.free_blocks:
                chunk = found[sequence] = Chunk(sequence, chunk.length - guesses)
                sequence.guessed = []
            while sequence.kv is not None and not self._grow(sequence.kv, chunk.stop):
                victim = self.running[-1]
                if victim is sequence and len(self.running) == 1:
                    self._refuse(sequence)
                    break
                self._preempt(victim)
        return [chunk for chunk in found.values() if chunk.sequence.kv is not None]

    def _grow(self, kv: SequenceKv, stop: int) -> bool:
        """Room for positions below `stop`; False, and nothing given up, where there is none."""
        missing = kv.missing(stop)
        if not missing:
            return True
        if not self.prefixes.make_room(missing):
            return False
        if self.pool.arena and kv.missing(stop + AHEAD) <= self.pool.free_blocks:
            stop += AHEAD
        kv.reserve(stop)
        return True

    def _preempt(self, sequence: RequestState) -> None:
        """Back to the head of the queue. What it computed is kept while there is room."""
        self.remove(sequence, retain=True)
        sequence.preempted()
        sequence.passed_over = MAX_OVERTAKING  # nobody overtakes it
        place = sum(other.turn < sequence.turn for other in self.waiting if other.turn >= 0)
        self.waiting.insert(place, sequence)
        self.preempted += 1

    def _refuse(self, sequence: RequestState) -> None:
        self.remove(sequence, retain=True)
        size = self.pool.bytes_per_token
        room = max(0, self.pool.free_blocks + self.pool.idle_blocks) * self.pool.block
        error = InsufficientMemoryError(len(sequence.tokens) + 1, size, room * size)
        self.refused.append((sequence, error))

    # -- admission --------------------------------------------------------------------------------

    def admit(self) -> list[RequestState]:
        """Move from the queue to the running what fits; the newly admitted.

        A request that does not fit yet is overtaken by smaller ones, but not for ever. It takes
        nothing from what is kept.
        """
        admitted: list[RequestState] = []
        blocked: list[RequestState] = []
        for sequence in list(self.waiting):
            if len(self.running) >= self.max_running or len(blocked) == MAX_BLOCKED:
                break
            if self.worth_waiting(sequence):
                continue
            if not self._admit_one(sequence):
                if sequence.passed_over >= MAX_OVERTAKING:
                    break
                blocked.append(sequence)
                continue
            for other in blocked:
                other.passed_over += 1
            self.waiting.remove(sequence)
            self._run(sequence)
            admitted.append(sequence)
            if any(other.passed_over >= MAX_OVERTAKING for other in blocked):
                break
        return admitted

    def _run(self, sequence: RequestState) -> None:
        """Among the running, where it was if it ran before."""
        if sequence.turn < 0:
            sequence.turn = self._turns
            self._turns += 1
        place = sum(other.turn < sequence.turn for other in self.running)
        self.running.insert(place, sequence)

    def _admit_one(self, sequence: RequestState) -> bool:
        source, node, cached = self.find_prefix(sequence)
        ready = min(len(sequence.tokens) + 1, sequence.total)
        kv = None
        with self.pool.holding(source, cached):
            _, origin = self.pool.split(source, cached)
            # Those that run grow by a block each before this one's first token is there.
            if self.prefixes.make_room(self.pool.blocks_of(ready - origin) + len(self.running)):
                try:
                    kv = SequenceKv(self.pool, source, cached, sequence.total, ready)
                except Exception as error:
                    _log.warning("a prefix could not be copied (%s), it is computed again", error)
            elif self.running:
                return False
        if kv is None:
            # Alone it fits, as was checked at submission, if nothing at all is kept for it.
            cached, node = 0, None
            if not self.prefixes.make_room(self.pool.blocks_of(ready)):
                if not self.running:
                    self._refuse(sequence)
                return False
            kv = SequenceKv(self.pool, [], 0, sequence.total, ready)
        sequence.admitted(kv, cached)
        self.prefixes.touch(node)
        return True

    def find_prefix(self, sequence: RequestState) -> tuple[list[Segment], Node | None, int]:
        """The longest prefix that is stored, of a finished or a running request."""
        most = sequence.shareable
        if not most:
            return [], None, 0
        found = self.prefixes.match(sequence.bucket, sequence.known_N[:most])
        cached, running = found.length, None
        for other in self._sharers(sequence):
            stored = min(sequence.common_with(other, other.prompt_N), other.computed, most)
            if stored > cached:
                cached, running = stored, other
        if running is not None and running.kv is not None:
            return running.kv.segments(running.computed), None, cached
        return found.segments, found.node, cached

    def worth_waiting(self, sequence: RequestState) -> bool:
        """Whether a running request is about to compute a good part of what this one needs."""
        most = sequence.shareable
        ahead = max(
            (
                min(sequence.common_with(other, other.prompt_N), most)
                for other in self._sharers(sequence)
                if most and not other.decoding
            ),
            default=0,
        )
        if ahead < WORTH_WAITING:
            return False
        _, _, stored = self.find_prefix(sequence)
        return ahead - stored >= WORTH_WAITING

    def _sharers(self, sequence: RequestState) -> list[RequestState]:
        return [
            other
            for other in self.running
            if other.bucket == sequence.bucket and other.request.share_prefix
        ]

    # -- the end ----------------------------------------------------------------------------------

    def remove(self, sequence: RequestState, *, retain: bool) -> None:
        """Take a sequence out, wherever it is, and free or keep its memory."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        sequence.sampler.rest()
        kv, sequence.kv = sequence.kv, None
        if kv is None:
            return
        try:
            if retain and sequence.request.share_prefix and sequence.computed:
                tokens_N = sequence.array(sequence.computed)
                self.prefixes.insert(sequence.bucket, tokens_N, kv.segments(sequence.computed))
        except Exception as error:  # most likely no memory; the request itself is complete
            _log.warning("a prefix could not be kept (%s)", error)
        finally:
            kv.release()
