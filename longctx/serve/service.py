"""The model behind the routes: loaded in the background, then an engine until the server ends.

Knows requests' bodies and the engine; knows no HTTP beyond the errors it raises.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longctx.chat.process import TemplateProcess
from longctx.chat.renderer import ChatRenderer
from longctx.chat.tokens_process import LONG, TokenLimitError, TokensPool
from longctx.documents.documents import Documents
from longctx.documents.fingerprint import ModelFacts
from longctx.documents.store import default_directory
from longctx.engine import Engine, EngineRequest, Sampling, Stats
from longctx.engine.serving import ServingEngine
from longctx.errors import UserError
from longctx.serve.bounds import LengthBound
from longctx.serve.constraints import Held
from longctx.serve.errors import ApiError, bad, broken, too_long, unavailable
from longctx.serve.first_estimate import ExpectedTime, FirstEstimate
from longctx.serve.jobs import Job, Registry, Submitted
from longctx.serve.large_bodies import LargeBodies
from longctx.serve.metrics import Metrics
from longctx.serve.proofs import Proofs
from longctx.serve.response_store import ResponseStore
from longctx.serve.schema import CompletionRequest, Generate
from longctx.serve.settings import ServeSettings
from longctx.serve.shapes import check_characters, check_json
from longctx.serve.tokens import TokenText
from longctx.serve.workers import Workers

_log = logging.getLogger("longctx.serve")


@dataclass(frozen=True)
class Loaded:
    """What a loader gives: an engine that may not be started yet, and what the banner adds."""

    engine: ServingEngine
    tokenizer: Any
    generation_config: Any = None
    notes: tuple[str, ...] = ()
    facts: ModelFacts | None = None


class Service:
    """One model under one name.

    Args:
        load: makes the engine; called once, in a thread.
        about: what /v1/models adds.
    """

    def __init__(
        self,
        settings: ServeSettings,
        name: str,
        load: Callable[[], Loaded],
        *,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.name, self.about = settings, name, dict(about or {})
        self.created = int(time.time())
        self.registry = Registry()
        self.metrics = Metrics(self._stats)
        self.workers = Workers()
        self.proofs = Proofs(settings.limits, settings.schema_timeout)
        self.large_bodies = LargeBodies(settings.bodies)
        limits = settings.limits
        self.responses = ResponseStore(limits.max_responses, limits.responses_size)
        self.draining = False
        self.failure: Exception | None = None
        self.loaded = threading.Event()  # set when loading ended, well or not
        self._load = load
        self._found: Loaded | None = None
        self._templates: TemplateProcess | None = None
        self._long_texts: TokensPool | None = None
        self._renderer: ChatRenderer | UserError | None = None
        self._text: TokenText | None = None
        self._bound: LengthBound | None = None
        self._documents: Documents | None = None
        self._first_estimate: FirstEstimate | None = None
        self._defaults = Sampling()

    # -- life -------------------------------------------------------------------------------------

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Load in the background.

        Args:
            on_end: called in the loading thread when it has ended.
        """

        def run() -> None:
            try:
                self._take(self._load())
            except Exception as error:
                self.failure = error
                if not isinstance(error, UserError | MemoryError):
                    _log.exception("the model could not be loaded")
            finally:
                self.loaded.set()
                on_end()

        threading.Thread(target=run, name="longctx-load", daemon=True).start()

    def _take(self, found: Loaded) -> None:
        try:
            if getattr(found.tokenizer, "backend_tokenizer", None) is not None:
                self._long_texts = TokensPool(found.tokenizer, self.settings.tokens)
            if getattr(found.tokenizer, "chat_template", None):
                self._templates = TemplateProcess(found.tokenizer, self.settings.templates)
                self._templates.warm()
            self._renderer = ChatRenderer(found.tokenizer, self._templates, self._long_texts)
        except UserError as error:  # a base model: completions are served all the same
            self._renderer = error
        if isinstance(self._renderer, ChatRenderer):
            self._documents = documents_of(found, self._renderer, self.settings)
        if isinstance(found.engine, Engine) and found.facts is not None:
            self._first_estimate = FirstEstimate(found.engine, found.facts.config)
        self._text = TokenText(found.tokenizer)
        self._bound = LengthBound(found.tokenizer)
        self._defaults = defaults_of(found.generation_config)
        # What is there now stays. Looking through it again, whenever a large body makes many
        # objects, would hold up every thread.
        gc.collect()
        gc.freeze()
        self.proofs.begin(found.tokenizer, found.engine.vocabulary)
        self._found = found
        found.engine.start()

    def close(self) -> None:
        """Give the model back; what still runs fails with a 503."""
        self.proofs.close()
        self.large_bodies.close()
        for each in (self._documents, self._templates, self._long_texts):
            if each is not None:
                each.close()
        if self._found is not None:
            self._found.engine.close()

    def tidy(self) -> None:
        """Give back what large requests needed and no longer do. Returns at once; to be called now
        and then."""
        self.workers.tidy()
        self.large_bodies.tidy()
        if self._long_texts is not None:
            self._long_texts.tidy()

    @property
    def state(self) -> str:
        if self.draining:
            return "draining"
        if self.failure is not None:
            return "failed"
        if self.broken is not None:
            return "broken"
        return "loading" if self._found is None else "ready"

    def ready(self) -> Loaded:
        """Raises: ApiError 503 while there is nothing to ask."""
        if self.draining:
            raise unavailable("The server is shutting down.", "shutting_down")
        if self.failure is not None:
            raise unavailable("The model could not be loaded.", "model_failed", 60)
        if self._found is None:
            raise unavailable("The model is being loaded.", "model_loading")
        if self.broken is not None:
            raise broken()
        if (seconds := self.stalled_s) is not None:
            message = f"No step of the model has ended for {seconds:.0f} s."
            raise unavailable(message, "device_stalled", 60)
        return self._found

    @property
    def broken(self) -> Exception | None:
        """Why the engine will answer nothing any more, where that is so."""
        return None if self._found is None else self._found.engine.broken

    @property
    def stalled_s(self) -> float | None:
        """Since when no step has ended though one was asked, where that is too long."""
        seconds = 0.0 if self._found is None else self._found.engine.stalled_s
        settings = self.settings
        return seconds if seconds > min(settings.stalled_after, settings.step_timeout / 2) else None

    def end_stalled(self) -> None:
        """Where a step takes longer than any may: the device is lost, as far as can be told."""
        if self.broken is None and (self.stalled_s or 0.0) > self.settings.step_timeout:
            assert self._found is not None
            self._found.engine.give_up()

    # -- what routes need -------------------------------------------------------------------------

    @property
    def engine(self) -> ServingEngine:
        return self.ready().engine

    @property
    def tokenizer(self) -> Any:
        return self.ready().tokenizer

    @property
    def text(self) -> TokenText:
        self.ready()
        assert self._text is not None
        return self._text

    @property
    def renderer(self) -> ChatRenderer:
        self.ready()
        if isinstance(self._renderer, UserError):
            raise ApiError(400, str(self._renderer), code="no_chat_template", param="messages")
        assert self._renderer is not None
        return self._renderer

    def token_ids(self, text: str, add_special: bool, param: str) -> list[int]:
        """Of a text in which special tokens are what they spell.

        Raises: ApiError.
        """
        if self._long_texts is not None and len(text) >= LONG:
            try:
                return self._long_texts.ids(text, split=False, add_special=add_special)
            except TokenLimitError as error:
                raise bad(param, f"{param}: a text {error.what}: shorten it.") from error
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=add_special, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    @property
    def documents(self) -> Documents:
        """Raises: ApiError."""
        made, _ = self._documents, self.renderer  # which raises where there is none
        assert made is not None
        return made

    def expected(self, tokens: int) -> ExpectedTime | None:
        """Of a prompt: from those before it, else from a small step that is taken now."""
        if self.registry.speed is not None:
            return ExpectedTime(tokens / self.registry.speed, False)
        first = self._first_estimate
        seconds = None if first is None else first.seconds(tokens)
        return None if seconds is None else ExpectedTime(seconds, True)

    def check_model(self, wanted: str | None) -> None:
        if wanted is not None and wanted != self.name:
            raise ApiError(
                404,
                f"The model {wanted[:80]!r} is not served here: use {self.name!r}.",
                code="model_not_found",
                param="model",
            )

    def submitted(self, job: Job) -> Submitted:
        return Submitted(self.engine, self.registry, self.workers, self.proofs, job)

    def request(
        self,
        body: Generate,
        ids: list[int],
        index: int,
        *,
        max_tokens: int | None,
        default: int,
        held: Held | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        stop: tuple[str, ...] = (),
    ) -> EngineRequest:
        """One generation of a body.

        Args:
            index: which of the body's n answers; each has a seed of its own.
            max_tokens: None is the default, as far as the context goes.
            default: of the route.
            held: the grammar of the answer.
            logprobs: likeliest tokens to report, None for none at all.
            stop: beside the body's own.
        """
        limits = self.settings.limits
        check_stop(body.stops, limits.max_stop, limits.max_stop_length)
        if logprobs is not None and logprobs > limits.max_top_logprobs:
            param = "logprobs" if isinstance(body, CompletionRequest) else "top_logprobs"
            raise too_many(param, logprobs, limits.max_top_logprobs)
        if max_tokens is None:
            room = self.engine.max_context - len(ids)
            max_tokens = max(1, min(default, room))
        least = body.min_tokens or 0
        if least > max_tokens or (least and held is not None):
            why = (
                f"more than the {max_tokens} of the answer"
                if least > max_tokens
                else ("an answer in a schema ends where it is complete")
            )
            raise bad(
                "min_tokens", f"min_tokens: {least} asked for: {why}: lower it or leave it out."
            )
        vocabulary = self.engine.vocabulary
        if wrong := [token for token, _ in body.biases if token >= vocabulary]:
            most = vocabulary - 1
            raise bad(
                "logit_bias", f"logit_bias holds {wrong[0]}: ids of this model are 0 to {most}."
            )
        stop_ids = body.stop_token_ids or []
        if len(stop_ids) > limits.max_stop:
            raise too_many("stop_token_ids", len(stop_ids), limits.max_stop)
        return EngineRequest(
            ids,
            max_new_tokens=max_tokens,
            sampling=self._sampling(body, index),
            stop=(*body.stops, *stop),
            stop_ids=frozenset(stop_ids),
            min_new_tokens=least,
            ignore_eos=bool(body.ignore_eos),
            logprobs=logprobs is not None,
            top_logprobs=logprobs or 0,
            prompt_logprobs=prompt_logprobs,
            prompt_top_logprobs=(logprobs or 0) if prompt_logprobs else 0,
            json_schema=held,
        )

    def check_conversation(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
    ) -> None:
        """Before anything walks through them."""
        most = self.settings.limits.max_messages
        if len(messages) > most:
            raise too_many("messages", len(messages), most)
        if tools:
            check_json(tools, self.settings.limits.max_schema, "tools")

    def check_length(self, texts: Iterable[str], max_tokens: int | None, param: str) -> None:
        """Before a prompt is tokenised: refuse what cannot fit, whatever its tokens are.

        Raises: ApiError.
        """
        assert self._bound is not None
        prompt = sum(map(self._bound.tokens, texts))
        answer = 1 if max_tokens is None else max_tokens
        if prompt + answer > self.engine.max_context:
            raise too_long(self.engine.max_context, prompt, answer, param, exact=False)

    def check_text(self, texts: Iterable[str], param: str) -> None:
        """Of a text that is only tokenised: no context bounds it.

        Raises: ApiError.
        """
        check_characters(texts, self.settings.limits.max_tokenized, param)

    def _sampling(self, body: Generate, index: int) -> Sampling:
        base = self._defaults
        seed = None if body.seed is None else (body.seed + index) % 2**63

        def chosen(value: Any, default: Any) -> Any:
            return default if value is None else value

        return Sampling(
            temperature=chosen(body.temperature, base.temperature),
            top_k=max(0, chosen(body.top_k, base.top_k)),
            top_p=chosen(body.top_p, base.top_p),
            min_p=chosen(body.min_p, base.min_p),
            repetition_penalty=chosen(body.repetition_penalty, base.repetition_penalty),
            presence_penalty=chosen(body.presence_penalty, 0.0),
            frequency_penalty=chosen(body.frequency_penalty, 0.0),
            logit_bias=body.biases,
            seed=seed,
        )

    def _stats(self) -> Stats | None:
        return None if self._found is None else self._found.engine.stats()


def documents_of(loaded: Loaded, renderer: ChatRenderer, settings: ServeSettings) -> Documents:
    """Of a model that is loaded; the store is taken when it is first needed."""
    directory = settings.document_store or default_directory()
    return Documents(loaded.engine, renderer, loaded.facts, directory, settings.document_budget)


def defaults_of(generation_config: Any) -> Sampling:
    """What the model's makers sample with; greedy, penalised as they say, where they do not."""

    def of(name: str, default: float) -> float:
        value = getattr(generation_config, name, None)
        return default if value is None else value

    if not of("do_sample", False):
        return Sampling(repetition_penalty=of("repetition_penalty", 1.0))
    return Sampling(
        temperature=of("temperature", 1.0),
        top_k=int(of("top_k", 0)),
        top_p=of("top_p", 1.0),
        min_p=of("min_p", 0.0),
        repetition_penalty=of("repetition_penalty", 1.0),
    )


def check_stop(stops: tuple[str, ...], most: int, longest: int) -> None:
    if len(stops) > most:
        raise too_many("stop", len(stops), most)
    for text in stops:
        if not text or len(text) > longest:
            raise bad("stop", f"stop: strings of 1 to {longest} characters are taken.")


def too_many(param: str, got: int, most: int) -> ApiError:
    return bad(param, f"{param}: {got} asked for, at most {most}.")
