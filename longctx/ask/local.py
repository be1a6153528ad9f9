"""A model of this process, as `longctx serve` would load it, asked without HTTP.

The same rules settle method, dtype, context and memory, and the same encoder makes the ids. YaRN's
temperature, where it goes by the prompt's length, has room for other questions here. Steps run in
the caller's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from longctx.ask import prompt
from longctx.ask.answer import AskedAnswer, AskTimings, Listener, PromptProgress, too_long
from longctx.chat.process import TemplateProcess
from longctx.chat.renderer import ChatRenderer
from longctx.engine import (
    Delta,
    Engine,
    EngineRequest,
    Event,
    Failed,
    Finished,
    InsufficientMemoryError,
    Progress,
    Sampling,
)
from longctx.errors import UserError
from longctx.options.ask import AskOptions
from longctx.reading import ReadDocument
from longctx.serve.bounds import LengthBound
from longctx.serve.loading import PreparedServer, prepare
from longctx.serve.service import defaults_of
from longctx.serve.settings import ServeSettings

# Characters up to which tokens are counted where they are too many: more take minutes.
_COUNTED = 4_000_000


@dataclass(frozen=True)
class LocalSession:
    """A loaded model, and what encodes for it."""

    engine: Engine
    renderer: ChatRenderer
    defaults: Sampling
    notes: tuple[str, ...]

    def close(self) -> None:
        self.engine.close()


def settings_of(options: AskOptions, model: str) -> ServeSettings:
    return ServeSettings(
        model,
        method=options.method,
        context=options.context,
        dtype=options.dtype,
        quantize=options.quantize,
        device_map=options.device_map,
    )


def local_session(prepared: PreparedServer, renderer: ChatRenderer) -> LocalSession:
    """The one place where weights are loaded and keys and values get their memory.

    Raises:
        UserError: they cannot be loaded, or the context that was asked for does not fit.
    """
    loaded = prepared.load()
    assert isinstance(loaded.engine, Engine)
    return LocalSession(
        loaded.engine, renderer, defaults_of(loaded.generation_config), loaded.notes
    )


class LocalAnswering:
    """
    Raises:
        UserError: what is wrong with the model or its options. No weights are loaded yet.
    """

    def __init__(self, options: AskOptions, model: str) -> None:
        self._options = options
        self._prepared = prepare(settings_of(options, model))
        tokenizer = self._prepared.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"MODEL {model}: its tokenizer has no chat template, so it answers no questions: "
                "name an instruct model"
            )
        self._templates = TemplateProcess(tokenizer)
        self._renderer = ChatRenderer(tokenizer, self._templates)
        self._bound = LengthBound(tokenizer)
        self._session: LocalSession | None = None
        self._base: tuple[Sequence[ReadDocument], int] | None = None

    @property
    def about(self) -> dict[str, Any]:
        prepared = self._prepared
        return {
            "model": prepared.settings.model,
            "method": prepared.scheme.method,
            "dtype": prepared.chosen.name,
            "context": self._context,
            "answered_by": "this process",
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What loading has to say."""
        note = self._prepared.chosen.note
        loaded = () if self._session is None else self._session.notes
        return (*([note] if note else []), *loaded)

    @property
    def loaded(self) -> bool:
        return self._session is not None

    @property
    def _context(self) -> int:
        session = self._session
        return self._prepared.context if session is None else session.engine.max_context

    def check(self, documents: Sequence[ReadDocument], question: str) -> list[int]:
        """The prompt's ids; asked before `load`, nothing is loaded for what cannot fit.

        Raises:
            UserError: it is longer than the context.
        """
        if sum(len(document.text) for document in documents) > _COUNTED:
            least = sum(self._bound.tokens(document.text) for document in documents)
            if least + self._options.max_tokens > self._context:
                raise self._too_long(documents, least, self._context, at_least=True)
        ids = self._encode(documents, question)
        if len(ids) + self._options.max_tokens > self._context:
            raise self._too_long(documents, len(ids), self._context)
        return ids

    def load(self) -> None:
        if self._session is None:
            self._session = local_session(self._prepared, self._renderer)

    def ask(
        self, documents: Sequence[ReadDocument], question: str, listener: Listener
    ) -> AskedAnswer:
        self.load()
        session, options = self._session, self._options
        assert session is not None
        ids = self.check(documents, question)
        request = EngineRequest(
            ids,
            max_new_tokens=options.max_tokens,
            sampling=replace(session.defaults, temperature=options.temperature),
            request_length=prompt.temperature_length(self._shortest(documents), len(ids)),
        )
        texts: list[str] = []

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                listener.progress(PromptProgress(event.total, event.cached, event.processed))
            elif isinstance(event, Delta) and event.text:
                texts.append(event.text)
                listener.text(event.text)
            ends.append(event)

        ends: list[Event] = []
        try:
            handle = session.engine.submit(request, listener=hear)
        except InsufficientMemoryError:
            raise self._too_long(documents, len(ids), session.engine.fitting_tokens) from None
        try:
            while not handle.done:
                session.engine.step()
        except KeyboardInterrupt:
            handle.cancel()
            session.engine.run_until_idle()
            raise
        return _answer("".join(texts), ends[-1])

    def close(self) -> None:
        self._templates.close()
        if self._session is not None:
            self._session.close()

    def _encode(self, documents: Sequence[ReadDocument], question: str) -> list[int]:
        given: list[dict[str, Any]] = [*prompt.messages(documents, question, self._options.system)]
        return self._renderer.encode(given)

    def _shortest(self, documents: Sequence[ReadDocument]) -> int:
        """Tokens of the shortest prompt with these documents."""
        if self._base is None or self._base[0] is not documents:
            self._base = (documents, len(self._encode(documents, "?")))
        return self._base[1]

    def _too_long(
        self,
        documents: Sequence[ReadDocument],
        tokens: int,
        context: int,
        at_least: bool = False,
    ) -> UserError:
        prepared = self._prepared
        method, model = prepared.scheme.method, prepared.settings.model
        remedy = "or lower --max-tokens"
        if prepared.settings.context is None and context == prepared.context and not at_least:
            wanted = -(-(tokens + self._options.max_tokens) // 1024)
            remedy += f", or try --context {wanted}K (beyond what {method} is known to be good for)"
        return too_long(
            documents,
            tokens,
            self._options.max_tokens,
            context,
            f"{model} under {method}",
            remedy,
            at_least,
        )


def _answer(text: str, end: Event) -> AskedAnswer:
    """
    Raises:
        Exception: what the request failed with.
    """
    if isinstance(end, Failed):
        raise end.error
    assert isinstance(end, Finished)
    usage = end.usage
    read = usage.total_s if usage.first_token_s is None else usage.first_token_s
    return AskedAnswer(
        text,
        "stop" if end.reason == "stop" else "length",
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        AskTimings(read, usage.total_s),
    )
