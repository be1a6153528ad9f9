"""What a model is to the harness: two methods. And an arm: a target under one method.

A scripted fake, the local model and a remote endpoint all satisfy `Target`; nothing else in this
package may know which one it talks to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from longctx.chat.encoder import Conversation


class ContextOverflowError(Exception):
    """The target cannot take a prompt this long. A finding about the target, not a failed cell."""


class TargetLostError(Exception):
    """The target will not answer again by itself. The cell has failed, and the run ends here."""


@dataclass(frozen=True)
class Truth:
    """What only a simulated model may look at: the answer, and where in the prompt it stands.

    `depth` is None where evidence lies all over the text: simulated models take the worst place.
    """

    expected: Sequence[str]
    depth: float | None


@dataclass(frozen=True)
class Request:
    """Greedy decoding, always: temperature 0, repetition penalty 1.

    `request_length` is the cell's nominal length, so that all depths share one temperature.
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
    """

    text: str
    finish_reason: str
    ttft_s: float
    total_s: float
    peak_mem_bytes: int | None = None
    cached_tokens: int = 0
    prompt_tokens: int | None = None


class Target(Protocol):
    def generate(self, request: Request) -> Completion: ...

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        """Natural log-probability of each of ids[1:], given what stands before it."""
        ...


@dataclass(frozen=True)
class Arm:
    """One method to measure. `open` makes the target ready and undoes it when the block ends.

    A target whose `concurrency` is above 1 is asked by that many threads at once.
    """

    method: str
    scheme: Mapping[str, Any]
    open: Callable[[], AbstractContextManager[Target]]
    backend: str = ""
    proof: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 1
