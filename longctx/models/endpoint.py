"""A model behind an OpenAI-compatible server as the model of a needle run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from longctx.chat.encoder import ChatEncoder, Conversation, TemplateStyle
from longctx.errors import UserError
from longctx.eval.protocol import ContextOverflowError, Request, Session, TargetLostError
from longctx.models.base import LoadedModels, Model, TokensOnly, bare_scheme
from longctx.models.openai_client import METHOD, EndpointError, EndpointSession, api_key
from longctx.models.openai_wire import APIS, PATHS, Api
from longctx.models.source import load_tokenizer, locate

_QUESTION = "Answer with the single word ready."


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Whom to ask and how. `template` and `system` are those of the run's prompts."""

    model: str
    base_url: str
    tokenizer: str | None
    api: str
    timeout: float
    concurrency: int
    original_length: int | None
    template: TemplateStyle
    system: str | None


@dataclass(frozen=True, kw_only=True)
class EndpointModel(Model):
    base_url: str
    api: Api
    timeout: float
    settings: EndpointSettings

    def banner(self) -> list[str]:
        key = "with an API key" if api_key() else "without an API key"
        return [
            f"{self.base_url}{PATHS[self.api]}, {self.concurrency} at once, {key}",
            "method unverified: an endpoint does not show its position scheme",
        ]

    def session_record(self) -> dict[str, Any]:
        return {
            "concurrency": self.concurrency,
            "timeout_s": self.timeout,
            "tokenizer": self.settings.tokenizer,  # `reconstruct` looks there
        }

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        """Asks once, so that a wrong address, key or name is told before the run begins."""
        session = EndpointSession(
            self.base_url,
            self.name,
            self.api,
            self.schemes[METHOD],
            key=api_key(),
            timeout=self.timeout,
            concurrency=self.concurrency,
        )
        with session:
            session.proof = self._greet(session)
        return {METHOD: session}

    def _greet(self, session: EndpointSession) -> dict[str, Any]:
        conversation = Conversation(_QUESTION, self.settings.system)
        ids = ChatEncoder(self.tokenizer, self.settings.template).encode(conversation).ids
        try:
            answer = session.generate(Request(ids, 1, len(ids) + 1, conversation))
        except (EndpointError, TargetLostError, ContextOverflowError) as error:
            raise UserError(
                f"--base-url {self.base_url}: MODEL {self.name} does not answer ({error}): is the "
                "server up, does the URL end in /v1, is the name the server's, is a key needed "
                "(LONGCTX_API_KEY)?"
            ) from error
        left_out = sorted(session.dialect.left_out)
        told = ["unverified"]
        if left_out:
            told.append(f"the server refuses {', '.join(left_out)}: left out")
        if answer.prompt_tokens not in (None, len(ids)):
            told.append(
                f"the server counts {answer.prompt_tokens} prompt tokens where --tokenizer gives "
                f"{len(ids)}: its template or its vocabulary differs, lengths are off by as much"
            )
        return {
            "verified": None,
            "by": "; ".join(told),
            "left_out": left_out,
            "prompt_tokens": len(ids),
            "server_prompt_tokens": answer.prompt_tokens,
        }


def endpoint_model(settings: EndpointSettings) -> EndpointModel:
    """Check the arguments; the server is not called."""
    base_url = _checked_url(settings.base_url)
    if settings.api not in APIS:
        raise UserError(f"--api {settings.api}: not known: use {' or '.join(APIS)}")
    if settings.tokenizer is None:
        raise UserError(
            f"--base-url {base_url}: lengths are counted with the model's own tokenizer: give "
            "--tokenizer DIR or a hub id"
        )
    if settings.concurrency < 1:
        raise UserError(f"--concurrency {settings.concurrency}: must be at least 1")
    if not 0 < settings.timeout < math.inf:
        raise UserError(f"--timeout {settings.timeout:g}: must be a number of seconds above 0")
    if settings.api == "chat" and settings.template != "chat":
        raise UserError(
            f"--template {settings.template}: a chat endpoint has its own: use --api completions"
        )
    try:
        source = locate(settings.tokenizer, weights=False)
        tokenizer = load_tokenizer(source)
    except UserError as error:
        told = str(error).removeprefix(f"MODEL {settings.tokenizer}: ")
        raise UserError(f"--tokenizer {settings.tokenizer}: {told}") from error
    return EndpointModel(
        name=settings.model,
        kind="endpoint",
        fingerprint=f"endpoint:{settings.api}:{base_url}#{settings.model}",
        dtype="remote",
        kernel="remote",
        tokenizer=tokenizer,
        schemes={METHOD: bare_scheme(METHOD)},
        trained_length=settings.original_length,
        shape=TokensOnly(),
        concurrency=settings.concurrency,
        base_url=base_url,
        api=settings.api,
        timeout=settings.timeout,
        settings=settings,
    )


def _checked_url(text: str) -> str:
    told = "…" if "@" in text else text  # a password may stand before it
    bad = UserError(f"--base-url {told}: not an address: write http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(text)
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        raise bad from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise bad
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.hostname}"
        raise UserError(
            f"--base-url {shown}…: it holds credentials or a query, and it is kept in run.json: "
            "put the key into LONGCTX_API_KEY"
        )
    for path in PATHS.values():
        if parts.path.rstrip("/").endswith(path):
            raise UserError(f"--base-url {text}: leave {path} out")
    return text.rstrip("/")
