"""Which tokens of which requests go into the next forward, and who is admitted.

Every decoding request takes one token, and those that are guessed to follow it; with
`prompts_first` it waits until no prompt is left, so that more of them decode together. The rest of
the step's token budget goes to prompts: half of it to the oldest, so that none starves, the other
half to those with least left to do, so that a short request never waits for a long one; what one
half leaves over the other takes. A request is admitted when its keys and values for prompt and
answer fit the memory: it can then never run out. Knows no model and no clock.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

import numpy as np

from longctx.engine.kv import KvPool, Segment, SequenceKv
from longctx.engine.prefix import Prefix, PrefixStore
from longctx.engine.sequence import RequestState

_log = logging.getLogger(__name__)

# Prompts get so many tokens of a step even where decoding fills the budget.
MIN_PREFILL = 16
# Younger requests that may overtake one that waits for memory; then it holds the queue.
MAX_OVERTAKING = 8
# Of a long queue only so many that do not fit are looked at in a step.
MAX_BLOCKED = 16
# A prompt waits for a running one to compute so many tokens that both have, rather than
# compute them a second time.
WORTH_WAITING = 16
# Logits of a whole chunk are large: 256 x 152K float32 are 156 MB.
MAX_SCORED = 256


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
        if not request.prompt_logprobs or self.sequence.decoding:
            return range(0)
        return range(max(self.start, request.prompt_logprobs_from - 1), self.stop)

    @property
    def draws(self) -> bool:
        """Whether the last row's logits give the next token."""
        return self.length == self.sequence.remaining and self.sequence.request.max_new_tokens > 0


class Scheduler:
    """Queue, running requests and retained prefixes over one pool of memory."""

    def __init__(
        self, pool: KvPool, *, chunk_budget: int, max_running: int, prompts_first: bool = False
    ) -> None:
        self.pool = pool
        self.prefixes = PrefixStore()
        self.waiting: deque[RequestState] = deque()
        self.running: list[RequestState] = []  # in order of admission
        self.chunk_budget = chunk_budget
        self.max_running = max_running
        self._prompts_first = prompts_first

    def next_batch(self) -> list[Chunk]:
        """Chunks of the next step; empty where nothing is running."""
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
        shares = dict.fromkeys(prefills, 0)

        def give(sequence: RequestState, most: int) -> None:
            nonlocal left
            wanted = sequence.remaining - shares[sequence]
            if sequence.request.prompt_logprobs:
                unscored = max(0, sequence.request.prompt_logprobs_from - 1 - sequence.computed)
                wanted = min(wanted, unscored + MAX_SCORED - shares[sequence])
            share = min(wanted, most, left)
            shares[sequence] += share
            left -= share

        give(prefills[0], -(-left // 2))
        for sequence in sorted(prefills, key=lambda s: s.remaining):  # stable: oldest first
            give(sequence, left)
        return batch + [Chunk(sequence, share) for sequence, share in shares.items() if share]

    # -- admission ------------------------------------------------------------------------------

    def admit(self) -> list[RequestState]:
        """Move from the queue to the running what fits; the newly admitted.

        A request that does not fit yet is overtaken by smaller ones, but not for ever.
        """
        admitted: list[RequestState] = []
        blocked: list[RequestState] = []
        for sequence in list(self.waiting):
            if len(self.running) >= self.max_running or len(blocked) == MAX_BLOCKED:
                break
            if self._worth_waiting(sequence):
                continue
            if not self._admit_one(sequence):
                if sequence.passed_over >= MAX_OVERTAKING:
                    break
                blocked.append(sequence)
                continue
            for other in blocked:
                other.passed_over += 1
            self.waiting.remove(sequence)
            self.running.append(sequence)
            admitted.append(sequence)
            if any(other.passed_over >= MAX_OVERTAKING for other in blocked):
                break
        return admitted

    def _admit_one(self, sequence: RequestState) -> bool:
        source, entry, cached = self._find_prefix(sequence)
        kv = None
        if self._make_room(self._needs(sequence, source, cached), spared=entry):
            try:
                kv = SequenceKv(self.pool, source, cached, sequence.total)
            except Exception as error:
                _log.warning("a prefix could not be copied (%s), it is computed again", error)
        elif self.running:
            return False
        if kv is None:
            # Alone it fits, as was checked at submission, if nothing at all is kept for it.
            cached, entry = 0, None
            if not self._make_room(sequence.total, spared=None):
                return False
            kv = SequenceKv(self.pool, [], 0, sequence.total)
        sequence.admitted(kv, cached)
        if entry is not None:
            self.prefixes.touch(entry)
        return True

    def _needs(self, sequence: RequestState, source: list[Segment], cached: int) -> int:
        """Tokens of memory beside what is shared."""
        _, origin = self.pool.split(source, cached)
        return sequence.total - origin

    def _make_room(self, tokens: int, spared: Prefix | None) -> bool:
        while self.pool.free_tokens < tokens:
            if not self.prefixes.evict_oldest(spared):
                return False
        return True

    def _find_prefix(self, sequence: RequestState) -> tuple[list[Segment], Prefix | None, int]:
        """The longest prefix that is stored, of a finished or a running request."""
        most = sequence.shareable
        if not most:
            return [], None, 0
        entry, common = self.prefixes.match(sequence.bucket, sequence.common_with)
        cached = min(common, most)
        running = None
        for other in self._sharers(sequence):
            stored = min(sequence.common_with(other, other.prompt_N), other.computed, most)
            if stored > cached:
                cached, running = stored, other
        if running is not None and running.kv is not None:
            return running.kv.segments(running.computed), None, cached
        if entry is None or not cached:
            return [], None, 0
        return entry.segments, entry, cached

    def _worth_waiting(self, sequence: RequestState) -> bool:
        most = sequence.shareable
        if not most:
            return False
        _, _, stored = self._find_prefix(sequence)
        return any(
            min(sequence.common_with(other, other.prompt_N), most) - stored >= WORTH_WAITING
            for other in self._sharers(sequence)
            if not other.decoding
        )

    def _sharers(self, sequence: RequestState) -> list[RequestState]:
        return [
            other
            for other in self.running
            if other.bucket == sequence.bucket and other.request.share_prefix
        ]

    # -- the end --------------------------------------------------------------------------------

    def remove(self, sequence: RequestState, *, retain: bool) -> None:
        """Take a sequence out, wherever it is, and free or retain its memory."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        kv, sequence.kv = sequence.kv, None
        if kv is None:
            return
        if not retain or not sequence.request.share_prefix or not sequence.computed:
            kv.release()
            return
        tokens_N = np.asarray(sequence.tokens[: sequence.computed], dtype=np.int64)
        used = sequence.computed - kv.own.origin
        try:
            if kv.own.capacity > used + used // 4:
                kv.own.trim(used)
        except Exception as error:  # most likely no memory; the request itself is complete
            _log.warning("a prefix could not be kept (%s)", error)
            kv.release()
            return
        # The sequence's references become the entry's; segments() leaves out an unused own buffer.
        segments = kv.segments(sequence.computed)
        if all(segment.buffer is not kv.own for segment in segments):
            kv.own.release()
        self.prefixes.add(Prefix(tokens_N, sequence.bucket, segments))
