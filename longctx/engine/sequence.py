"""One request inside the engine: its tokens, how far they are computed, and its outlet.

State only; the scheduler moves it, the engine fills it. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from longctx.engine.constraint import Constraint
from longctx.engine.detokenize import Detokenizer
from longctx.engine.kv import SequenceKv
from longctx.engine.prefix import Tokens, common_prefix
from longctx.engine.request import EngineRequest, Event, Usage
from longctx.engine.sampling import RowSampler
from longctx.engine.speculation import Speculator


class RequestState:
    """A request in flight.

    Attributes:
        tokens: prompt and answer.
        guessed: what may follow them, computed with the next step's token and kept if it was right.
        computed: leading tokens whose keys and values are stored.
        cached: of the prompt, taken over from an earlier request.
        turn: its place among all that were ever admitted; below 0 before that.
        bucket: what YaRN's temperature is taken at; prefixes are shared within one bucket only.
        logit_scale: m^2, fixed for the life of the request.
        passed_over: how many younger requests were admitted while this one waited for memory.
        compute_s: its share of the steps so far.
        cancelled: set by any thread, looked at between steps.
    """

    def __init__(
        self,
        request: EngineRequest,
        *,
        bucket: int,
        logit_scale: float,
        sampler: RowSampler,
        detokenizer: Detokenizer,
        constraint: Constraint | None,
        emit: Callable[[Event], None],
        speculator: Speculator | None = None,
    ) -> None:
        self.request = request
        self.prompt_N: Tokens = np.asarray(request.prompt_ids, dtype=np.int64)
        self.tokens: list[int] = self.prompt_N.tolist()
        self.bucket = bucket
        self.logit_scale = logit_scale
        self.sampler = sampler
        self.detokenizer = detokenizer
        self.constraint = constraint
        self.emit = emit
        self.speculator = speculator
        self.guessed: list[int] = []
        self.accepted = self.rejected = 0
        self.computed = 0
        self.cached = 0
        self.turn = -1
        self.kv: SequenceKv | None = None
        self.prompt_logprobs: list[float] = []
        self.prompt_likeliest: list[int] = []
        self.prompt_top: list[tuple[tuple[int, float], ...]] = []
        self.passed_over = 0
        self.cancelled = False
        self.compute_s = 0.0
        self._resumes_at = 0  # tokens it had when its memory was taken
        self._common: dict[object, int] = {}
        self._submitted = time.perf_counter()
        self._admitted: float | None = None
        self._first_token: float | None = None

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_N)

    @property
    def shareable(self) -> int:
        """Leading tokens that another request may have computed, or this one before.

        The last token is always computed, for its logits; so is what scored tokens are seen from.
        """
        if not self.request.share_prefix:
            return 0
        scored_from = self.request.prompt_logprobs_from - 1
        whole = len(self.tokens) - 1
        return min(whole, scored_from) if self.request.prompt_logprobs else whole

    @property
    def total(self) -> int:
        """Tokens it may reach."""
        return self.prompt_length + self.request.max_new_tokens

    @property
    def remaining(self) -> int:
        """Tokens to be computed with the next one's draw, the guessed ones included."""
        return len(self.tokens) + len(self.guessed) - self.computed

    @property
    def decoding(self) -> bool:
        return self.computed >= max(self.prompt_length, self._resumes_at)

    @property
    def known_N(self) -> Tokens:
        """Prompt and answer so far."""
        return self.prompt_N if not self.answer_length else self.array(len(self.tokens))

    def array(self, count: int) -> Tokens:
        """The first `count` tokens."""
        return np.asarray(self.tokens[:count], dtype=np.int64)

    @property
    def answer_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    def common_with(self, other: object, tokens_N: Tokens) -> int:
        """Leading tokens of the prompt that `other` has too; compared once, as neither changes."""
        found = self._common.get(other)
        if found is None:
            found = self._common[other] = common_prefix(self.prompt_N, tokens_N)
        return found

    def admitted(self, kv: SequenceKv, cached: int) -> None:
        self.kv, self.computed = kv, cached
        self._common.clear()
        if self._admitted is None:
            self._admitted, self.cached = time.perf_counter(), cached

    def preempted(self) -> None:
        """Its keys are gone; what was drawn stays, and the scores of a prompt come again."""
        self.computed, self._resumes_at, self.guessed = 0, len(self.tokens), []
        for scores in (self.prompt_logprobs, self.prompt_likeliest, self.prompt_top):
            scores.clear()

    def append(self, token: int) -> None:
        if self._first_token is None:
            self._first_token = time.perf_counter()
        self.tokens.append(token)
        if self.speculator is not None:
            self.speculator.note(token)

    def following(self, start: int, stop: int) -> list[int]:
        """Tokens at these positions, the guessed ones included."""
        known = self.tokens[start:stop]
        return known + self.guessed[: stop - start - len(known)]

    def guess(self, room: int, together: int) -> None:
        """Guess anew, up to `room` tokens, where answers of so many requests grow."""
        self.guessed = []
        if self.speculator is None or not self.decoding or self.remaining != 1:
            return
        if self.sampler.foreseeable:
            self.guessed = self.speculator.propose(room, together)

    def usage(self) -> Usage:
        began, now = self._submitted, time.perf_counter()
        return Usage(
            prompt_tokens=self.prompt_length,
            cached_tokens=self.cached,
            completion_tokens=self.answer_length,
            admitted_s=(self._admitted or now) - began,
            first_token_s=None if self._first_token is None else self._first_token - began,
            total_s=now - began,
            compute_s=self.compute_s,
            accepted_tokens=self.accepted,
            rejected_tokens=self.rejected,
        )
