"""A submitted request as its client holds it: events out, cancellation in. Thread-safe."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from longctx.engine.request import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    TokenLogprob,
    Usage,
)


@dataclass(frozen=True)
class Answer:
    """A finished request, whole."""

    text: str = field(repr=False)
    token_ids: tuple[int, ...] = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    stop: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    prompt_logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    prompt_likeliest: tuple[int, ...] | None = field(default=None, repr=False)
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] | None = field(default=None, repr=False)


class Generation:
    """Iterate over events, or wait for result(). The last event is Finished or Failed.

    Args:
        cancel: called by cancel(), at most once.
        listener: gets every event instead of the iterator, in the engine's thread.
    """

    def __init__(
        self, cancel: Callable[[], None], listener: Callable[[Event], None] | None = None
    ) -> None:
        self._cancel = cancel
        self._listener = listener
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancelled = False
        self._ended = False
        self._complete = False

    def emit(self, event: Event) -> None:
        """For the engine alone."""
        self._complete = isinstance(event, Finished | Failed)
        if self._listener is not None:
            self._listener(event)
        else:
            self._events.put(event)

    @property
    def done(self) -> bool:
        """Whether the last event is there, so that result() would not wait."""
        return self._complete

    def cancel(self) -> None:
        """Ask for the end; it comes within one step, as Finished with reason "cancelled"."""
        if not self._cancelled:
            self._cancelled = True
            self._cancel()

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """Events as they come.

        Raises:
            TimeoutError: none came for `timeout` seconds.
        """
        while not self._ended:
            try:
                event = self._events.get(timeout=timeout)
            except queue.Empty as error:
                raise TimeoutError(
                    f"no event for {timeout} s: is the engine started, or stepped?"
                ) from error
            self._ended = isinstance(event, Finished | Failed)
            yield event

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the end.

        Raises:
            Exception: what the request failed with.
            TimeoutError: no event came for `timeout` seconds.
        """
        text: list[str] = []
        token_ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        for event in self.events(timeout):
            if isinstance(event, Delta):
                text.append(event.text)
                token_ids.extend(event.token_ids)
                logprobs.extend(event.logprobs)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Finished):
                return Answer(
                    "".join(text),
                    tuple(token_ids),
                    event.reason,
                    event.usage,
                    event.stop,
                    tuple(logprobs),
                    event.prompt_logprobs,
                    event.prompt_likeliest,
                    event.prompt_top,
                )
        raise RuntimeError("the events of this request were read already: ask for result() once")
