"""Penalties of tokens that were seen: what they need to know lies where the logits do.

One mark a token id says whether it was seen, and one number what its occurrences in the answer
cost. Both are made of the prompt once, at the first draw, and a drawn token changes one entry.
Knows no random numbers.

Shape legend: R rows, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longctx.attention.upload import upload
from longctx.engine.request import Sampling


class Penalties:
    """Of one answer.

    Args:
        prompt: seen, for the repetition penalty.

    Attributes:
        repetition: 1 where it is off.
        lowers: whether no logit can rise.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self.lowers = self.repetition >= 1 and self._presence >= 0 and self._frequency >= 0
        self._prompt = torch.tensor(sorted(set(prompt)) if self.repetition != 1 else [])
        self._counts: dict[int, int] = {}
        self._seen_V: torch.Tensor | None = None
        self._cost_V: torch.Tensor | None = None

    @property
    def counts(self) -> bool:
        """Whether occurrences in the answer cost anything."""
        return bool(self._presence or self._frequency)

    def note(self, token: int) -> None:
        """A token was drawn."""
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._seen_V is not None:
            self._seen_V[token].fill_(True)
        if self._cost_V is not None:
            self._cost_V[token].fill_(self._cost(token))

    def seen(self, vocabulary: int, device: torch.device) -> torch.Tensor:
        """Bool [V]; to be read only."""
        if self._seen_V is None:
            self._seen_V = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            ids = torch.cat([self._prompt.long(), torch.tensor(list(self._counts)).long()])
            self._seen_V.index_fill_(0, upload(ids, device), True)
        return self._seen_V

    def cost(self, vocabulary: int, device: torch.device) -> torch.Tensor:
        """Float32 [V], subtracted; to be read only."""
        if self._cost_V is None:
            self._cost_V = torch.zeros(vocabulary, device=device)
            for token in self._counts:
                self._cost_V[token].fill_(self._cost(token))
        return self._cost_V

    def put_on(self, logits_V: torch.Tensor) -> None:
        """All of them, in place."""
        if self.repetition != 1:
            factor_V = _factor(self.seen(len(logits_V), logits_V.device), self.repetition - 1)
            pick = torch.minimum if self.repetition > 1 else torch.maximum
            pick(logits_V / factor_V, logits_V * factor_V, out=logits_V)
        if self.counts:
            logits_V -= self.cost(len(logits_V), logits_V.device)

    def _cost(self, token: int) -> float:
        return self._presence + self._frequency * self._counts[token]


def penalise(
    values_RK: torch.Tensor,
    ids_RK: torch.Tensor,
    rows: Sequence[Penalties | None],
    vocabulary: int,
) -> torch.Tensor:
    """Candidates' logits less their penalties, all of which lower; a few calls for all rows."""
    device = values_RK.device
    if any(row and row.repetition != 1 for row in rows):
        none_V = torch.zeros(1, dtype=torch.bool, device=device).expand(vocabulary)
        seen = [row.seen(vocabulary, device) if row else none_V for row in rows]
        seen_RK = torch.stack(seen).gather(1, ids_RK)
        more = torch.tensor([[row.repetition - 1 if row else 0.0] for row in rows])
        factor_RK = _factor(seen_RK, upload(more, device))
        values_RK = torch.minimum(values_RK / factor_RK, values_RK * factor_RK)
    if any(row and row.counts for row in rows):
        zero_V = torch.zeros(1, device=device).expand(vocabulary)
        costs = [row.cost(vocabulary, device) if row and row.counts else zero_V for row in rows]
        values_RK = values_RK - torch.stack(costs).gather(1, ids_RK)
    return values_RK


def _factor(seen: torch.Tensor, more: torch.Tensor | float) -> torch.Tensor:
    """1, or 1 + `more` where a token was seen.

    Above 1 it divides positive logits and multiplies negative ones, which is whichever is less;
    below 1 whichever is more.
    """
    return seen.float() * more + 1
