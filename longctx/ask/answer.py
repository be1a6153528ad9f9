"""What answers questions on documents, wherever it runs: one protocol, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from longctx.errors import UserError
from longctx.reading import ReadDocument


@dataclass(frozen=True)
class PromptProgress:
    """Tokens of the prompt: `processed` of `total` are read, `cached` of them were before."""

    total: int
    cached: int
    processed: int


@dataclass(frozen=True)
class AskTimings:
    """Seconds. `read_s` ends with the first token of the answer, `total_s` with its last."""

    read_s: float
    total_s: float


_AT_ONCE_S = 0.1  # of an answer: less tells how pieces were sent, and no speed


@dataclass(frozen=True)
class AskedAnswer:
    """`finish_reason` is `stop` or `length`; counts are None where a server does not tell.

    Attributes:
        cached_tokens: of the prompt, what had been computed before this question.
        notes: what people should know of it, a line each.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    timings: AskTimings
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "answer": self.text,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "timings": {**asdict(self.timings), **self._speeds()},
        }

    def _speeds(self) -> dict[str, float | None]:
        return {"read_tokens_per_s": self.read_speed, "answer_tokens_per_s": self.answer_speed}

    @property
    def read_speed(self) -> float | None:
        """Of what was not reused."""
        if self.prompt_tokens is None or self.timings.read_s <= 0:
            return None
        return (self.prompt_tokens - (self.cached_tokens or 0)) / self.timings.read_s

    @property
    def answer_speed(self) -> float | None:
        """None also where all came at once, as short answers of a server do."""
        seconds = self.timings.total_s - self.timings.read_s
        if self.completion_tokens is None or self.completion_tokens < 2 or seconds < _AT_ONCE_S:
            return None
        return (self.completion_tokens - 1) / seconds


class Listener(Protocol):
    """Hears of a question while it is worked on."""

    def expects(self, tokens: int, seconds: float) -> None:
        """What is about to be read, and how long that may take: a first estimate."""

    def progress(self, progress: PromptProgress) -> None: ...
    def text(self, text: str) -> None: ...


class Answering(Protocol):
    """A model that can be asked, until it is closed."""

    @property
    def about(self) -> dict[str, Any]:
        """`model`, `method`, `answered_by`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What loading has to say."""

    @property
    def loaded(self) -> bool:
        """Whether `load` has nothing to do."""

    def check(self, documents: Sequence[ReadDocument], question: str) -> object:
        """Refuse what cannot fit, where that is known here, before `load`.

        Raises:
            UserError: it is longer than the context.
        """

    def load(self) -> None: ...

    def ask(
        self, documents: Sequence[ReadDocument], question: str, listener: Listener
    ) -> AskedAnswer:
        """
        Raises:
            UserError: it cannot be answered, and why.
        """

    def close(self) -> None: ...


def too_long(
    documents: Sequence[ReadDocument],
    prompt_tokens: int,
    max_tokens: int,
    context: int,
    who: str,
    remedy: str,
    at_least: bool = False,
) -> UserError:
    """By how much the documents are too long, and how much of them would fit.

    Args:
        who: what has the context, as `smollm2 under dca`.
        remedy: beside leaving text out.
        at_least: the tokens were not counted, and are this many or more.
    """
    over = prompt_tokens + max_tokens - context
    room = max(0, context - max_tokens)
    share = min(1.0, room / max(prompt_tokens, 1))
    characters = sum(len(document.text) for document in documents)
    what = documents[0].name if len(documents) == 1 else f"{len(documents)} documents"
    about = "at least " if at_least else ""
    return UserError(
        f"FILE {what}: too long: {about}{prompt_tokens:,} tokens with the question, and "
        f"{max_tokens:,} for the answer, are {about}{over:,} more than the {context:,} of {who}: "
        f"{'at most' if at_least else 'about'} {share:.0%} of the text "
        f"({int(characters * share):,} of {characters:,} characters) would fit: leave some out, "
        f"{remedy}"
    )
