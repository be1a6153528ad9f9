"""What a model is to the harness: a session under one method, and two questions.

A scripted fake, the local model and a remote endpoint are all a `Session`; nothing else in this
package may know which one it talks to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from longctx.chat.encoder import Conversation
from longctx.eval.threads import as_completed


class ContextOverflowError(Exception):
    """The target cannot take a prompt this long. A finding about the target, not a failed cell."""


class TargetLostError(Exception):
    """The target will not answer again by itself. The cell has failed, and the run ends here."""


@dataclass(frozen=True)
class Truth:
    """What only a simulated model may look at: the answer, and where in the prompt it stands.

    `depth` is None where evidence lies all over the text: simulated models take the worst place.
    `text` names the window of the haystack with its needle, which several prompts may share.
    """

    expected: Sequence[str]
    depth: float | None
    text: str = ""


@dataclass(frozen=True)
class Request:
    """Greedy decoding, always: temperature 0, repetition penalty 1.

    `request_length` is what a temperature is taken at, the same for all depths of a length.
    `conversation` is for targets that take messages and encode them themselves. Without a `truth`
    the answer is not in the prompt, or nobody knows it.
    """

    ids: Sequence[int]
    max_new_tokens: int
    request_length: int
    conversation: Conversation | None = None
    truth: Truth | None = None


@dataclass(frozen=True)
class Completion:
    """An answer. Its `finish_reason` is `stop`, `length`, or what an endpoint calls its own.

    `cached_tokens` of the prompt were not computed: an earlier prompt began with them.
    `prompt_tokens` is the target's own count, None where it sees the same ids as we do.
    `compute_s` is its share of what was computed for several requests together, None where the
    answer had the machine to itself.
    """

    text: str
    finish_reason: str
    ttft_s: float
    total_s: float
    peak_mem_bytes: int | None = None
    cached_tokens: int = 0
    prompt_tokens: int | None = None
    compute_s: float | None = None


Outcome = Completion | Exception
# The length that a method's temperature is taken at, for a method and a prompt's length.
TemperatureAt = Callable[[str, int], int]


def exactly(method: str, length: int) -> int:
    """The prompt's own length."""
    return length


# YaRN's temperature m of a method for a prompt's length; None for a method that has none.
Temperature = Callable[[str, int], float | None]


def no_temperature(method: str, length: int) -> float | None:
    return None


def with_temperature(scheme: Mapping[str, Any], m: float | None) -> Any:
    """The scheme as a record has it: with `m` where the method has a temperature."""
    return dict(scheme) if m is None else {**scheme, "m": round(m, 9)}


class Session(ABC):
    """One model under one method. Ask it inside `with`, which makes it ready and undoes that.

    Attributes:
        method: its name in keys, records and pictures.
        scheme: every number of the method.
        backend: what computes, for the record.
        proof: what shows that the method is at work.
        concurrency: requests that it takes at once.
    """

    def __init__(
        self,
        method: str,
        scheme: Mapping[str, Any],
        backend: str = "",
        proof: Mapping[str, Any] | None = None,
        concurrency: int = 1,
    ) -> None:
        self.method, self.scheme, self.backend = method, scheme, backend
        self.proof = {} if proof is None else proof
        self.concurrency = concurrency

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    @abstractmethod
    def generate(self, request: Request) -> Completion:
        """Answer one request.

        Raises:
            ContextOverflowError: the model cannot take a prompt this long.
            TargetLostError: it will not answer again by itself.
        """

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        """Natural log-probability of each of ids[1:], given what stands before it."""
        raise NotImplementedError(f"{self.backend} gives no log-probabilities of a prompt")

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """Answer all, in the order of the answers; a request is taken when there is room for it.

        What a request fails with is its outcome, and costs no other.
        """

        def ask(request: Request) -> Outcome:
            try:
                return self.generate(request)
            except Exception as error:
                return error

        yield from as_completed(ask, requests, self.concurrency)
