"""What may come next because it stood in the text before: guesses that one step checks.

An answer about a document quotes it. Where the last tokens occurred before, those that followed
them are guessed; the step computes them behind the last token, and as many are right as the model
would have drawn. The answer is the same with and without: only the number of steps changes. Knows
no model and draws nothing.

Source: prompt lookup decoding (Saxena 2023): n-grams of the prompt as the drafts of speculative
decoding (Leviathan, Kalman and Matias 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A guess needs so many last tokens that stood there before; of several places the one with the
# longest match is taken, up to so many tokens, and of these the last.
LEAST_MATCH, LONGEST_MATCH = 3, 16
# Guesses of one request in a step, where nobody says how many: at first, and at most.
FIRST, MOST = 4, 16
# Of all requests in a step: their logits are part of the memory plan.
MOST_IN_STEP = 64
# Where nobody says how many, with more answers growing at once nothing is guessed: a step's cost is
# that of its tokens then, and a wrong guess costs more than a right one saves. Two guesses cost 0.4
# of a token of one answer alone, 0.5 of four, 1.1 of sixteen (a model of 135M parameters on a CPU).
MOST_TOGETHER = 8
# Where guesses are wholly wrong so often in a row, a request goes without for so many tokens,
# doubled each time.
_PATIENCE, _PAUSE, _LONGEST_PAUSE = 2, 8, 256


class Speculator:
    """One request's guesses.

    Args:
        prompt: token ids.
        total: tokens that prompt and answer may reach.
        most: guesses in a step; None: up to `MOST`, as many as proved right of late, and none for a
            while where they were wrong.
    """

    def __init__(self, prompt: Sequence[int], total: int, most: int | None = None) -> None:
        self._tokens = np.empty(total, dtype=np.int64)
        self._tokens[: len(prompt)] = prompt
        self._count = len(prompt)
        self._adapts = most is None
        self._most = MOST if most is None else most
        self._width = FIRST if self._adapts else self._most
        self._wrong = 0  # proposals in a row of which nothing was right
        self._pause = _PAUSE
        self._silent = 0  # tokens still to go without

    def note(self, token: int) -> None:
        """A token was drawn."""
        self._tokens[self._count] = token
        self._count += 1
        self._silent -= self._silent > 0

    def propose(self, room: int, together: int = 1) -> list[int]:
        """Up to `room` tokens that may come next; empty where nothing is likely enough.

        Args:
            together: requests whose answers grow in this step, itself included.
        """
        # The last token that fits is drawn, not guessed.
        width = min(self._width, room, len(self._tokens) - self._count - 1)
        if width < 1 or self._silent or (self._adapts and together > MOST_TOGETHER):
            return []
        place = self._place()
        if place is None:
            return []
        # Where the text ends it has begun to repeat itself, and goes on so.
        at = place + np.arange(width) % (self._count - place)
        found: list[int] = self._tokens[at].tolist()
        return found

    def checked(self, proposed: int, accepted: int) -> None:
        """So many of the proposed tokens were right."""
        if not self._adapts or not proposed:
            return
        if accepted:
            self._wrong, self._pause = 0, _PAUSE
            more = 2 * self._width if accepted == proposed else accepted + 1
            self._width = min(more, self._most)
            return
        self._width = FIRST
        self._wrong += 1
        if self._wrong >= _PATIENCE:
            self._silent, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)

    def _place(self) -> int | None:
        """Behind the latest of the longest earlier matches of the last tokens."""
        tokens, count = self._tokens, self._count
        found = np.flatnonzero(tokens[: count - 1] == tokens[count - 1])
        matched = 1
        while len(found) and matched < LONGEST_MATCH:
            before = found[found >= matched]
            before = before[tokens[before - matched] == tokens[count - 1 - matched]]
            if not len(before):
                break
            found, matched = before, matched + 1
        if not len(found) or matched < LEAST_MATCH:
            return None
        return int(found[-1]) + 1
