"""A model's chat template, rendered in a process that is ended where it comes to no end.

The template is code that came with the weights: a loop in it, or a text that doubles, costs one
request, and neither the server's threads nor its memory. Renders one conversation after the other:
each takes milliseconds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from longctx.chat import template
from longctx.errors import UserError
from longctx.killable.process import START_SECONDS, EndedError, KillableProcess, TooSlowError


class TemplateLimits(NamedTuple):
    """What one rendering may cost, beside what its texts need by themselves."""

    seconds: float = 5.0
    speed: float = 2e6  # bytes that give a second more
    memory: int = 512 << 20
    copies: int = 24  # of the conversation's JSON, in bytes
    longer: int = 4  # times may its characters become
    extra: int = 4 << 20  # characters of the template's own


LIMITS = TemplateLimits()


class TemplateLimitError(UserError):
    """The template was ended, or could not be begun.

    Attributes:
        what: of it, as the end of a sentence.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"messages: this model's chat template {what}: shorten the conversation, or have "
            "another template served"
        )


class TemplateProcess:
    """Renders for one tokenizer, from any thread. Started when it is first needed."""

    def __init__(self, tokenizer: Any, limits: TemplateLimits = LIMITS) -> None:
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        self._limits = limits
        self._setup = {"chat_template": tokenizer.chat_template, "special_tokens_map": special}
        self._process: KillableProcess | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> TemplateProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def warm(self) -> None:
        """Start it; returns at once."""

        def start() -> None:
            with self._lock, suppress(UserError):
                self._started()

        threading.Thread(target=start, name="longctx-template", daemon=True).start()

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The template's text.

        Raises:
            TemplateLimitError: it takes too long, or too much memory.
            template.SyntaxProblem: it is no template.
            ValueError: what the template itself refuses, in its words.
        """
        given = template.arguments(messages, tools, add_generation_prompt, options)
        line = json.dumps(given)
        limits = self._limits
        seconds = limits.seconds + len(line) / limits.speed
        with self._lock:
            try:
                told = self._started().ask(line, seconds)
            except (TooSlowError, EndedError) as error:
                self._end()
                what = f"does not come to an end within {seconds:.0f} seconds"
                raise TemplateLimitError(what) from error
            if told.get("spent"):
                self._end()
        if told.get("spent"):
            raise TemplateLimitError("takes more memory than its texts need")
        if told.get("line") is not None:
            raise template.SyntaxProblem(
                f"line {told['line']}: {' '.join(told['refused'].split())}"
            )
        if "refused" in told:
            raise ValueError(told["refused"])
        text: str = told["text"]
        return text

    def close(self) -> None:
        """End it, also in the middle of its work. Harmless when repeated."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self._end()

    # -- with the lock ----------------------------------------------------------------------------

    def _started(self) -> KillableProcess:
        if self._process is not None:
            return self._process
        if self._closed:
            raise TemplateLimitError("is no longer rendered: the server is shutting down")
        try:
            self._process = KillableProcess("longctx.chat.worker")
        except EndedError as error:
            raise TemplateLimitError(f"cannot be rendered: {error}") from error
        try:
            setup = json.dumps({**self._setup, **self._limits._asdict()})
            self._process.ask(setup, START_SECONDS)
        except (TooSlowError, EndedError) as error:
            self._end()
            raise TemplateLimitError("cannot be rendered: its process does not start") from error
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()
