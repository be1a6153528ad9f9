"""A model of this process, as `longctx serve` would load it, asked without HTTP.

The same rules settle method, dtype, context and memory, the same encoder makes the ids, and the
same store keeps what was computed of documents. Steps run in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from longctx.ask import prompt
from longctx.ask.answer import AskedAnswer, AskTimings, Listener, PromptProgress, too_long
from longctx.ask.keeping import FoundStore, open_store
from longctx.chat.documents import HEAD_ROOM, part_of
from longctx.chat.process import TemplateProcess
from longctx.chat.renderer import ChatRenderer
from longctx.documents.asked import AskedDocument
from longctx.documents.keys import DocumentKeys
from longctx.documents.keys_file import CHUNK
from longctx.documents.prompt import StandIns, prefix_of
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
from longctx.engine.prefix import Tokens
from longctx.errors import UserError
from longctx.options.ask import AskOptions
from longctx.reading import ReadDocument
from longctx.serve.bounds import LengthBound
from longctx.serve.first_estimate import FirstEstimate
from longctx.serve.loading import PreparedServer, prepare
from longctx.serve.service import defaults_of
from longctx.serve.settings import ServeSettings

# Characters up to which tokens are counted where they are too many: more take minutes.
_COUNTED = 4_000_000
# Tokens from which on the time to read them is estimated before: that takes as long as some do.
_WORTH_AN_ESTIMATE = 2048


def settings_of(options: AskOptions, model: str) -> ServeSettings:
    return ServeSettings(
        model,
        method=options.method,
        context=options.context,
        dtype=options.dtype,
        quantize=options.quantize,
        kv_dtype=options.kv_dtype,
        device_map=options.device_map,
    )


@dataclass(frozen=True)
class LocalSession:
    """A loaded model, and what keeps keys for it."""

    engine: Engine
    keys: DocumentKeys
    defaults: Sampling
    notes: tuple[str, ...]

    def close(self) -> None:
        self.engine.close()


def local_session(prepared: PreparedServer) -> LocalSession:
    """The one place where weights are loaded and keys and values get their memory.

    Raises:
        UserError: they cannot be loaded, or the context that was asked for does not fit.
    """
    loaded = prepared.load()
    assert isinstance(loaded.engine, Engine)
    keys, defaults = DocumentKeys(loaded.facts), defaults_of(loaded.generation_config)
    return LocalSession(loaded.engine, keys, defaults, loaded.notes)


@dataclass
class _Composed:
    """The documents of the questions, as one.

    Attributes:
        given: what they were made of.
        part_N: their own ids; prefix_N: what every prompt begins with.
        asked: where they are kept.
    """

    given: Sequence[ReadDocument]
    name: str
    text: str
    part_N: Tokens
    prefix_N: Tokens
    asked: AskedDocument | None = None


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
        self._composed: _Composed | None = None
        self._found: FoundStore | None = None
        self._asked = False  # what was read of a prompt may be there the second time

    @property
    def about(self) -> dict[str, Any]:
        prepared = self._prepared
        return {
            "model": prepared.settings.model,
            "method": prepared.scheme.method,
            "dtype": prepared.chosen.name,
            "quantize": self._options.quantize,
            "kv_dtype": prepared.kv_dtype,
            "context": self._context,
            "answered_by": "this process",
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What loading has to say."""
        note = self._prepared.chosen.note
        loaded = () if self._session is None else self._session.notes
        store = None if self._found is None else self._found.note
        return (*([note] if note else []), *loaded, *([store] if store else []))

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
            self._session = local_session(self._prepared)
            composed = self._composed
            if composed is not None and len(composed.prefix_N) >= CHUNK:
                self._found = open_store(self._options)

    def ask(
        self, documents: Sequence[ReadDocument], question: str, listener: Listener
    ) -> AskedAnswer:
        composed = self._compose(documents)
        self.load()
        session, options = self._session, self._options
        assert session is not None
        ids = self.check(documents, question)
        request = EngineRequest(
            ids,
            max_new_tokens=options.max_tokens,
            sampling=replace(session.defaults, temperature=options.temperature),
            # As of a server's `document_ids`: with room for other questions.
            request_length=max(len(ids), len(composed.prefix_N) + HEAD_ROOM),
        )
        try:
            session.engine.check(request)
        except InsufficientMemoryError:
            raise self._too_long(documents, len(ids), session.engine.fitting_tokens) from None
        kept = self._kept(session, composed)
        had = 0 if kept is None else kept.stored_tokens
        texts: list[str] = []

        def hear(event: Event) -> None:
            if isinstance(event, Progress):
                if kept is not None:
                    kept.keep(request, event.processed)
                listener.progress(PromptProgress(event.total, event.cached, event.processed))
            elif isinstance(event, Delta) and event.text:
                texts.append(event.text)
                listener.text(event.text)
            ends.append(event)

        ends: list[Event] = []
        if (left := len(ids) - had) >= _WORTH_AN_ESTIMATE and not self._asked:
            first = FirstEstimate(
                session.engine, self._prepared.config, session.engine.run_until_idle
            )
            if (seconds := first.seconds(len(ids), had)) is not None:
                listener.expects(left, seconds)
        self._asked = True
        handle = session.engine.submit(request, listener=hear)
        try:
            while not handle.done:
                session.engine.step()
        except KeyboardInterrupt:
            handle.cancel()
            session.engine.run_until_idle()
            if kept is not None:
                kept.withdraw()
            raise
        answer = _answer("".join(texts), ends[-1])
        return replace(answer, notes=() if kept is None else self._told(kept, had))

    def close(self) -> None:
        self._templates.close()
        if self._session is not None:
            self._session.close()
        if self._found is not None and self._found.store is not None:
            self._found.store.close()

    def _encode(self, documents: Sequence[ReadDocument], question: str) -> list[int]:
        composed = self._compose(documents)
        place = StandIns([composed.part_N])
        given = place.messages(prompt.turns(question, self._options.system))
        return place.placed(self._renderer.encode(given, inserted=place.inserted)).ids

    def _compose(self, documents: Sequence[ReadDocument]) -> _Composed:
        if self._composed is None or self._composed.given is not documents:
            name, text = prompt.one_document(documents)
            part_N = np.asarray(self._renderer.encode_text(part_of(name, text)), dtype=np.int64)
            prefix_N = np.asarray(prefix_of(self._renderer, part_N), dtype=np.int64)
            self._composed = _Composed(documents, name, text, part_N, prefix_N)
        return self._composed

    def _kept(self, session: LocalSession, composed: _Composed) -> AskedDocument | None:
        """Where the documents are kept, what is stored of them on its way to the engine; None where
        nothing is kept. What is shorter than a chunk is read as fast as it is found."""
        store = None if self._found is None else self._found.store
        if store is None or len(composed.prefix_N) < CHUNK:
            return None
        if composed.asked is None:
            composed.asked = AskedDocument(
                session.engine,
                session.keys,
                store,
                composed.name,
                composed.text,
                composed.prefix_N,
            )
        composed.asked.offer()
        return composed.asked

    def _told(self, kept: AskedDocument, had: int) -> tuple[str, ...]:
        assert self._found is not None and self._found.store is not None
        store = self._found.store
        if store.reads_only:
            return ()
        if kept.reason is not None:
            return (f"not kept for later questions: {kept.reason}",)
        if kept.stored_tokens == had:
            return ()
        return (f"kept for later questions in {store.directory}: longctx documents list",)

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
