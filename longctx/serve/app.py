"""The routes: OpenAI's, the tokenizer's, and what operators ask.

/v1/chat/completions  /v1/completions  /v1/responses  /v1/documents  /v1/models  /v1/requests/{id}
/tokenize  /detokenize  /tokenizer_info  /health  /ready  /metrics
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from longctx import __version__
from longctx.errors import UserError
from longctx.serve import metrics
from longctx.serve.answers import ignored_header, read
from longctx.serve.chat_api import chat
from longctx.serve.completions_api import completions
from longctx.serve.documents_api import DocumentRequest, add_document_routes
from longctx.serve.errors import ApiError, of_conversation
from longctx.serve.faults import Faults
from longctx.serve.guard import Guard
from longctx.serve.page.page import page
from longctx.serve.responses_api import responses, stored
from longctx.serve.responses_items import ResponsesRequest
from longctx.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from longctx.serve.service import Service
from longctx.serve.sse import ClientGoneError, unless_gone
from longctx.serve.tokens import token_list

_BODIES: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    DocumentRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def create_app(service: Service) -> FastAPI:
    """The ASGI application; `service` is started and closed by the caller."""
    app = FastAPI(
        title="longctx",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # below: made once
    )
    _add_errors(app)

    @app.get("/health", tags=["operation"], responses=_answers())
    async def health() -> dict[str, str]:
        """Alive, whatever the model does."""
        return {"status": "ok"}

    @app.get("/", include_in_schema=False)
    async def reading_page() -> Response:
        """For people."""
        found = page()
        return Response(found.body, media_type="text/html", headers=found.headers)

    @app.get("/ready", tags=["operation"], responses=_answers(503))
    async def ready() -> dict[str, str]:
        """200 once the model answers, 503 while it is loaded or the server drains."""
        service.ready()
        return {"status": "ready", "model": service.name}

    @app.get("/metrics", tags=["operation"], responses=_answers(), response_class=Response)
    async def prometheus() -> Response:
        """Counters, gauges and histograms for Prometheus."""
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    @app.get("/v1/models", tags=["models"], responses=_answers())
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}", tags=["models"], responses=_answers(404))
    async def model(name: str) -> dict[str, Any]:
        """The model, its context and its position scheme."""
        service.check_model(name)
        return _model(service)

    @app.post("/v1/chat/completions", tags=["generation"], **_takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation under the model's own chat template."""
        return await chat(request, service)

    @app.post("/v1/completions", tags=["generation"], **_takes(CompletionRequest))
    async def text_completions(request: Request) -> Response:
        """Continue prompts as they are."""
        return await completions(request, service)

    @app.post("/v1/responses", tags=["generation"], **_takes(ResponsesRequest))
    async def create_response(request: Request) -> Response:
        """Answer items, from the beginning or from an earlier response on."""
        return await responses(request, service)

    @app.get("/v1/responses/{id}", tags=["generation"], responses=_answers(404))
    async def response(id: str) -> dict[str, Any]:
        """A response that is kept."""
        return stored(service, id).response

    @app.delete("/v1/responses/{id}", tags=["generation"], responses=_answers(404))
    async def delete_response(id: str) -> dict[str, Any]:
        """Keep it no longer; those that came after it stay."""
        stored(service, id)
        service.responses.delete(id)
        return {"id": id, "object": "response.deleted", "deleted": True}

    add_document_routes(app, service, _answers, _takes)

    @app.get("/v1/requests/{id}", tags=["generation"], responses=_answers(404))
    async def request_status(id: str) -> dict[str, Any]:
        """How far a request is. `id` is its own or its `x-request-id`."""
        job = service.registry.get(id)
        if job is None:
            raise ApiError(404, "There is no such request.", code="request_not_found", param="id")
        return job.to_dict()

    @app.post("/tokenize", tags=["tokens"], **_takes(TokenizeRequest, generates=False))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or of a conversation under the template."""
        body = await read(request, service, TokenizeRequest)
        size, run = request.state.size, service.workers.run
        ids = await unless_gone(request.receive, run(size, _token_ids, service, body))
        numbers = {"count": len(ids), "max_model_len": service.engine.max_context}
        raw = await run(size, token_list, numbers, ids)
        headers = ignored_header(body)
        return Response(raw, media_type="application/json", headers=headers)

    @app.post("/detokenize", tags=["tokens"], **_takes(DetokenizeRequest, generates=False))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        body = await read(request, service, DetokenizeRequest)
        service.check_model(body.model)
        size = request.state.size
        text = await service.workers.run(size, _text, service.tokenizer, body.tokens)
        return JSONResponse({"prompt": text}, headers=ignored_header(body))

    @app.get("/tokenizer_info", tags=["tokens"], responses=_answers(503))
    async def tokenizer_info() -> dict[str, Any]:
        """What a client without the tokenizer has to know of it."""
        tokenizer = service.tokenizer
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
        return {name: getattr(tokenizer, name, None) for name in names}

    @cache
    def document() -> bytes:
        """Once: it takes as long as hundreds of other answers."""
        return json.dumps(_openapi(app)).encode()

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        """All of this for programs."""
        return Response(document(), media_type="application/json")

    app.add_middleware(Faults)  # inside the guard: the last one added is the outermost
    app.add_middleware(Guard, settings=service.settings, done=service.metrics.answered)
    return app


def _token_ids(service: Service, body: TokenizeRequest) -> list[int]:
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(
            400, "Give prompt or messages, one of them.", code="invalid_value", param="prompt"
        )
    if body.messages is not None:
        service.check_conversation(body.messages, body.tools)
        try:
            return service.renderer.encode(
                body.messages,
                tools=body.tools,
                add_generation_prompt=body.add_generation_prompt,
                check=lambda texts: service.check_text(texts, "messages"),
                continue_final=body.continue_final_message,
                options=body.chat_template_kwargs,
            )
        except UserError as error:
            raise of_conversation(error) from error
    service.check_text([body.prompt or ""], "prompt")
    return service.token_ids(body.prompt or "", body.add_special_tokens, "prompt")


def _text(tokenizer: Any, ids: list[int]) -> str:
    if max(ids, default=0) >= len(tokenizer):
        raise ApiError(
            400,
            f"tokens: ids of this model are 0 to {len(tokenizer) - 1}.",
            code="invalid_value",
            param="tokens",
        )
    text: str = tokenizer.decode(ids)
    return text


def _model(service: Service) -> dict[str, Any]:
    about = dict(service.about)
    if service.state == "ready":
        about["max_model_len"] = service.engine.max_context
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "longctx",
        **about,
    }


# -- errors ---------------------------------------------------------------------------------------


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def of_api(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 404:
            message, code = f"There is nothing at {request.url.path[:80]}.", "not_found"
        elif error.status_code == 405:
            message = f"{request.url.path[:80]} does not take {request.method[:20]}."
            code = "method_not_allowed"
        else:
            message, code = str(error.detail), "http_error"
        return ApiError(error.status_code, message, code=code, headers=headers).response()

    @app.exception_handler(ClientGoneError)
    async def of_nobody(request: Request, error: ClientGoneError) -> Response:
        return Response(status_code=499)


# -- OpenAPI --------------------------------------------------------------------------------------


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors that a route may answer with; all have one shape."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        status: {"description": "An error in OpenAI's shape.", "content": content}
        for status in (*statuses, 401, 403)
    }


def _takes(kind: type[BaseModel], *, generates: bool = True) -> dict[str, Any]:
    """A route's body, which it reads by itself: large ones off the event loop."""
    statuses = (400, 404, 413, 415, 503, *((429, 500) if generates else ()))
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
        },
    }
    answers = _answers(*statuses)
    if generates:
        answers[200] = {
            "description": "The answer; with `stream`, server-sent events.",
            "content": {"application/json": {}, "text/event-stream": {}},
        }
    return {"openapi_extra": {"requestBody": body}, "responses": answers}


def _openapi(app: FastAPI) -> dict[str, Any]:
    from fastapi.openapi.utils import get_openapi

    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in _BODIES],
        ref_template="#/components/schemas/{model}",
    )
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    components["Error"] = _ERROR_SCHEMA
    components.pop("HTTPValidationError", None)
    components.pop("ValidationError", None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return document
