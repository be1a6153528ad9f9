"""Penalties of tokens that were seen: what they need to know lies where the logits do.

One mark a token id says whether it was seen, and one number what its occurrences in the answer
cost. Both are made of the prompt once, at the first draw, and a drawn token changes one entry.
Knows no random numbers.

Shape legend: R rows, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from longctx.engine import arrays
from longctx.engine.arrays import Array
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
        seen = np.asarray(prompt if self.repetition != 1 else (), dtype=np.int64)
        self._prompt = np.unique(seen)
        self._counts: dict[int, int] = {}
        self._seen_V: Array | None = None
        self._cost_V: Array | None = None
        self._addresses: tuple[int, int] | None = None

    @property
    def counts(self) -> bool:
        """Whether occurrences in the answer cost anything."""
        return bool(self._presence or self._frequency)

    def note(self, token: int) -> None:
        """A token was drawn."""
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._seen_V is not None:
            arrays.put(self._seen_V, token, True)
        if self._cost_V is not None:
            arrays.put(self._cost_V, token, self._cost(token))

    def drop(self) -> None:
        """Give the memory of the marks back: they are made again where they are needed."""
        self._seen_V = self._cost_V = self._addresses = None

    def seen(self, vocabulary: int, device: torch.device) -> Array:
        """Bool [V]; to be read only."""
        if self._seen_V is None:
            seen_V = np.zeros(vocabulary, dtype=np.bool_)
            seen_V[self._prompt] = True
            seen_V[list(self._counts)] = True
            self._seen_V = arrays.placed(seen_V, device)
        return self._seen_V

    def cost(self, vocabulary: int, device: torch.device) -> Array:
        """Float32 [V], subtracted; to be read only."""
        if self._cost_V is None:
            cost_V = np.zeros(vocabulary, dtype=np.float32)
            cost_V[list(self._counts)] = [self._cost(token) for token in self._counts]
            self._cost_V = arrays.placed(cost_V, device)
        return self._cost_V

    def addresses(self, vocabulary: int) -> tuple[int, int]:
        """Where `seen` and `cost` lie on the host; 0 for one that is not needed."""
        if self._addresses is None:
            host = torch.device("cpu")
            seen_V = self.seen(vocabulary, host) if self.repetition != 1 else None
            cost_V = self.cost(vocabulary, host) if self.counts else None
            seen, cost = (
                0 if table is None else arrays.tensor(table).data_ptr()
                for table in (seen_V, cost_V)
            )
            self._addresses = seen, cost
        return self._addresses

    def put_on(self, logits_V: torch.Tensor) -> None:
        """All of them, in place."""
        size, device = len(logits_V), logits_V.device
        if self.repetition != 1:
            factor_V = _factor(arrays.tensor(self.seen(size, device)), self.repetition - 1)
            pick = torch.minimum if self.repetition > 1 else torch.maximum
            pick(logits_V / factor_V, logits_V * factor_V, out=logits_V)
        if self.counts:
            logits_V -= arrays.tensor(self.cost(size, device))

    def _cost(self, token: int) -> float:
        return self._presence + self._frequency * self._counts[token]


def penalise(
    values_RK: Array, ids_RK: Array, rows: Sequence[Penalties | None], logits_RV: torch.Tensor
) -> Array:
    """Candidates' logits less their penalties, all of which lower; a few calls for all rows.

    Args:
        logits_RV: that they are of.
    """
    vocabulary, device = logits_RV.shape[1], logits_RV.device
    if any(row and row.repetition != 1 for row in rows):
        seen = [
            row.seen(vocabulary, device) if row and row.repetition != 1 else None for row in rows
        ]
        more = np.array([[row.repetition - 1 if row else 0.0] for row in rows], np.float32)
        factor_RK = _factor(arrays.looked_up(seen, ids_RK), arrays.placed(more, device))
        lesser = arrays.library(values_RK).minimum
        values_RK = lesser(values_RK / factor_RK, values_RK * factor_RK)
    if any(row and row.counts for row in rows):
        costs = [row.cost(vocabulary, device) if row and row.counts else None for row in rows]
        values_RK = values_RK - arrays.looked_up(costs, ids_RK)
    return values_RK


def _factor(seen: Array, more: Array | float) -> Array:
    """1, or 1 + `more` where a token was seen.

    Above 1 it divides positive logits and multiplies negative ones, which is whichever is less;
    below 1 whichever is more.
    """
    return arrays.cast(seen, "float32") * more + 1
