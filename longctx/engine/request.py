"""What a client asks of the engine, and the events it gets back.

Plain data, checked once at construction; knows neither models nor tokenizers. Text never appears in
a request's repr: logs may print it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from longctx.errors import UserError
from longctx.grammar.forms import Grammar

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. The default is greedy.

    Attributes:
        temperature: 0 is greedy; the filters below have no effect then.
        top_k: 0 keeps all.
        top_p, min_p: nucleus; share of the likeliest token's probability. 1 and 0 keep all.
        repetition_penalty: divides positive and multiplies negative logits of every token seen, the
            prompt's included. 1 is off.
        presence_penalty, frequency_penalty: subtracted from the logits of the answer's tokens, once
            and per occurrence.
        logit_bias: added to the logits of these token ids, before all else.
        seed: None draws a fresh one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, math.inf)
        _check("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 0.0, math.inf, open_low=True)
        _check("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check("top_k", self.top_k, 0, math.inf)
        for _, bias in self.logit_bias:
            _check("logit_bias", bias, -100.0, 100.0)

    @property
    def penalises(self) -> bool:
        return self.repetition_penalty != 1.0 or bool(
            self.presence_penalty or self.frequency_penalty
        )


def _check(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    inside = low < value <= high if open_low else low <= value <= high
    if not inside or math.isinf(value):  # NaN is never inside
        above = "above" if open_low else "at least"
        upper = f" and at most {high:g}" if high != math.inf else ""
        raise UserError(f"{name}={value!r} must be {above} {low:g}{upper}")


@dataclass(frozen=True)
class EngineRequest:
    """One prompt and what to do with it.

    Attributes:
        prompt_ids: the templated prompt; at least one token.
        max_new_tokens: at most so many; 0 computes the prompt, for its logprobs or to keep it.
        stop: strings that end the answer and are not part of it.
        min_new_tokens: before so many tokens no eos id, stop id or stop string ends the answer; not
            with json_schema, whose answers end where they are complete.
        stop_ids: token ids that end the answer, beside the engine's own eos ids.
        ignore_eos: go on behind the engine's eos ids, for measurements.
        logprobs: report the log-probability of every token.
        top_logprobs: and of so many likeliest ones.
        prompt_logprobs: report the log-probability of every prompt token but the first, and the
            token that the model thought likeliest there.
        prompt_top_logprobs: and of so many likeliest ones at each of them.
        prompt_logprobs_from: of those from this index on only; what stands before the one before
            it may come from a cached prefix.
        json_schema: answer in JSON of this schema ({} for any JSON object), or in another grammar
            (`longctx.grammar.forms`); needs llguidance.
        request_length: what YaRN's temperature is taken from; None is the prompt's own length.
        share_prefix: reuse, and leave for reuse, the keys and values of equal leading tokens.
    """

    prompt_ids: Sequence[int] = field(repr=False)
    max_new_tokens: int = 256
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = field(default=(), repr=False)
    min_new_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    prompt_top_logprobs: int = 0
    prompt_logprobs_from: int = 1
    json_schema: dict[str, Any] | Grammar | None = field(default=None, repr=False)
    request_length: int | None = None
    share_prefix: bool = True

    def __post_init__(self) -> None:
        if not len(self.prompt_ids):
            raise UserError("prompt_ids is empty: give at least one token")
        if self.max_new_tokens < 0:
            raise UserError(f"max_new_tokens={self.max_new_tokens} must be at least 0")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise UserError(
                f"min_new_tokens={self.min_new_tokens} must be at least 0 and at most "
                f"max_new_tokens={self.max_new_tokens}"
            )
        if self.min_new_tokens and self.json_schema is not None:
            raise UserError(
                f"min_new_tokens={self.min_new_tokens} with json_schema: such an answer ends where "
                "it is complete: leave one of them out"
            )
        if not 1 <= self.prompt_logprobs_from <= max(1, len(self.prompt_ids) - 1):
            raise UserError(
                f"prompt_logprobs_from={self.prompt_logprobs_from} must be at least 1 and an index "
                f"of the prompt's {len(self.prompt_ids)} tokens"
            )
        if self.top_logprobs < 0 or (self.top_logprobs and not self.logprobs):
            raise UserError(
                f"top_logprobs={self.top_logprobs} needs logprobs=True and a count of at least 0"
            )
        if self.prompt_top_logprobs < 0 or (self.prompt_top_logprobs and not self.prompt_logprobs):
            raise UserError(
                f"prompt_top_logprobs={self.prompt_top_logprobs} needs prompt_logprobs=True and a "
                "count of at least 0"
            )
        if any(not text for text in self.stop):
            raise UserError("stop holds an empty string, which is found everywhere: leave it out")
        if self.request_length is not None and self.request_length < 1:
            raise UserError(f"request_length={self.request_length} must be at least 1 token")


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability under the model itself, before penalties and temperature."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """What a request cost.

    Attributes:
        cached_tokens: of the prompt, that were not computed.
        admitted_s, first_token_s, total_s: seconds since submission.
        compute_s: its share of the steps that it was part of, by tokens; seconds.
        accepted_tokens: of the answer, that were guessed before they were drawn.
        rejected_tokens: guessed beside them, and no part of the answer.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    admitted_s: float
    first_token_s: float | None
    total_s: float
    compute_s: float = 0.0
    accepted_tokens: int = 0
    rejected_tokens: int = 0


@dataclass(frozen=True)
class Progress:
    """The prompt so far: `processed` of `total` tokens are in the cache, `cached` were before."""

    total: int
    cached: int
    processed: int


@dataclass(frozen=True)
class Delta:
    """New tokens, and the text that is certain by now: it may lag behind, for the middle of a
    character or what may become a stop string."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end. `stop` is the string or token id that ended the answer, if one did; `prompt_top` the
    likeliest tokens at each scored one of the prompt, where they were asked for."""

    reason: FinishReason
    usage: Usage
    stop: str | int | None = None
    prompt_logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    prompt_likeliest: tuple[int, ...] | None = field(default=None, repr=False)
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Failed:
    """The end, by an error that concerns this request alone."""

    error: Exception


Event = Progress | Delta | Finished | Failed
