"""From logits to tokens: one batch, each row by its own rules and its own random numbers.

What a row draws depends on its logits, its settings and its seed alone, never on its neighbours.
Knows no model and no text.

Shape legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from longctx.engine.constraint import Constraint
from longctx.engine.errors import NonFiniteLogitsError
from longctx.engine.request import Sampling, TokenLogprob

# Stands for a token where there is none: what is read back tells both in one transfer.
_NO_TOKEN = -1


class Drawn(NamedTuple):
    token: int
    logprob: TokenLogprob | None


class RowSampler:
    """One request's settings, penalties and random numbers.

    Args:
        prompt: for the repetition penalty.
        top_logprobs: None reports nothing, n >= 0 the drawn token and the n likeliest.
        banned: token ids that are not drawn before `banned_for` others were.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        *,
        top_logprobs: int | None = None,
        constraint: Constraint | None = None,
        banned: Iterable[int] = (),
        banned_for: int = 0,
    ) -> None:
        self.sampling = sampling
        self._banned = torch.tensor(sorted(banned) if banned_for else [], dtype=torch.int64)
        self._banned_for = banned_for if len(self._banned) else 0
        ids, biases = zip(*sampling.logit_bias, strict=True) if sampling.logit_bias else ((), ())
        self._bias_ids = torch.tensor(ids, dtype=torch.int64)
        self._biases = torch.tensor(biases, dtype=torch.float32)
        self.top_logprobs = top_logprobs
        self.constraint = constraint
        # On the CPU whatever the model's device: one seed, one answer.
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self._counts: dict[int, int] = {}

    @property
    def adjusts(self) -> bool:
        return (
            self.constraint is not None
            or self.sampling.penalises
            or self._banned_for > 0
            or bool(self.sampling.logit_bias)
        )

    def note(self, token: int) -> None:
        """A token was drawn."""
        self._banned_for -= self._banned_for > 0
        if self.sampling.penalises:
            self._seen.add(token)
            self._counts[token] = self._counts.get(token, 0) + 1

    def adjust(self, logits_V: torch.Tensor) -> None:
        """Biases, penalties and grammar, in place."""
        sampling, device = self.sampling, logits_V.device
        if sampling.logit_bias:
            logits_V.index_add_(0, self._bias_ids.to(device), self._biases.to(device))
        if self._banned_for:
            logits_V[self._banned.to(device)] = -torch.inf
        if sampling.repetition_penalty != 1.0 and self._seen:
            ids = torch.tensor(sorted(self._seen), device=logits_V.device)
            seen = logits_V[ids]
            penalty = sampling.repetition_penalty
            logits_V[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            ids = torch.tensor(list(self._counts), device=logits_V.device)
            counts = torch.tensor(
                list(self._counts.values()), device=logits_V.device, dtype=logits_V.dtype
            )
            logits_V[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if self.constraint is not None:
            self.constraint.mask(logits_V)

    def noise(self, size: int) -> torch.Tensor:
        """Exponential variates: argmax of p / noise draws from p."""
        return torch.empty(size).exponential_(generator=self._generator)


def draw(logits_RV: torch.Tensor, samplers: Sequence[RowSampler]) -> list[Drawn | Exception]:
    """The next token of every row; an exception where a row's own rules failed, or
    where its logits are not finite.

    Args:
        logits_RV: float32, with -inf where the tokenizer has no token. Overwritten.
    """
    failures: dict[int, Exception] = {}
    wanted = [row for row, sampler in enumerate(samplers) if sampler.top_logprobs is not None]
    logprobs_RV = torch.log_softmax(logits_RV[wanted], -1) if wanted else logits_RV[:0]
    finite_R = finite_rows(logits_RV)
    for row, sampler in enumerate(samplers):
        if sampler.adjusts:
            try:
                sampler.adjust(logits_RV[row])
            except Exception as error:
                failures[row] = error
    tokens_R = logits_RV.argmax(-1)
    random = [row for row, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
    if random:
        settings = [samplers[row].sampling for row in random]
        probs_RV = filtered(logits_RV[random], settings)
        noise_RV = torch.stack([samplers[row].noise(logits_RV.shape[1]) for row in random])
        tokens_R[random] = (probs_RV / noise_RV.to(probs_RV.device)).argmax(-1)
    tokens = tokens_R.where(finite_R, _NO_TOKEN).tolist()
    failures |= {
        row: NonFiniteLogitsError() for row, token in enumerate(tokens) if token == _NO_TOKEN
    }
    reports = {
        row: _report(logprobs_V, tokens[row], samplers[row].top_logprobs or 0)
        for row, logprobs_V in zip(wanted, logprobs_RV, strict=True)
        if row not in failures
    }
    return [failures.get(row) or Drawn(token, reports.get(row)) for row, token in enumerate(tokens)]


def finite_rows(logits_RV: torch.Tensor) -> torch.Tensor:
    """Rows that can be drawn from: no NaN and no +inf in them, and one that is more than -inf.

    The largest tells all three: a NaN is larger than everything to `amax`.
    """
    return logits_RV.amax(-1).isfinite()


def filtered(logits_RV: torch.Tensor, settings: Sequence[Sampling]) -> torch.Tensor:
    """Probabilities after temperature, top_k, top_p and min_p; not normalised again.

    The order is that of the common engines: temperature first, then the filters. The likeliest
    token always stays.
    """

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits_RV.device, dtype=logits_RV.dtype)[:, None]

    vocabulary = logits_RV.shape[1]
    # Against the largest logit, so that a tiny temperature cannot overflow; nor is it 0 in float32.
    shifted_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    coldest = torch.finfo(logits_RV.dtype).tiny
    temperature_R1 = column([max(s.temperature, coldest) for s in settings])
    probs_RV = torch.softmax(shifted_RV / temperature_R1, -1)
    # Only the rows that ask for it: a neighbour's filter must not touch a row's last bits.
    sort = [row for row, s in enumerate(settings) if 0 < s.top_k < vocabulary or s.top_p < 1]
    if sort:
        sorted_RV, order_RV = probs_RV[sort].sort(dim=-1, descending=True, stable=True)
        rank_1V = torch.arange(vocabulary, device=logits_RV.device)[None]
        keep_k = column([settings[row].top_k or vocabulary for row in sort])
        kept_RV = torch.where(rank_1V < keep_k, sorted_RV, 0.0)
        kept_RV = kept_RV / kept_RV.sum(-1, keepdim=True)
        before_RV = kept_RV.cumsum(-1) - kept_RV
        top_p = column([s.top_p if s.top_p < 1 else torch.inf for s in (settings[r] for r in sort)])
        kept_RV = kept_RV.masked_fill((before_RV >= top_p) & (rank_1V > 0), 0.0)
        probs_RV[sort] = torch.zeros_like(kept_RV).scatter_(-1, order_RV, kept_RV)
    if any(s.min_p > 0 for s in settings):
        floor_R1 = probs_RV.amax(-1, keepdim=True) * column([s.min_p for s in settings])
        probs_RV = torch.where(probs_RV < floor_R1, 0.0, probs_RV)
    return probs_RV


def _report(logprobs_V: torch.Tensor, token: int, count: int) -> TokenLogprob:
    top: tuple[tuple[int, float], ...] = ()
    if count:
        values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs_V[token]), top)
