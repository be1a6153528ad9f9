"""/v1/documents: texts that are read once, kept, and named in later requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from longctx.documents.live import LiveDocument
from longctx.engine import ContextLengthError, InsufficientMemoryError
from longctx.errors import UserError
from longctx.reading import ReadDocument, read_document
from longctx.serve.answers import ignored_header, read
from longctx.serve.documents_asked import of_document
from longctx.serve.errors import ApiError, bad, from_engine
from longctx.serve.first_estimate import ExpectedTime
from longctx.serve.multipart import FormPart, parts_of
from longctx.serve.schema import Body
from longctx.serve.service import Service
from longctx.serve.sse import ClientGoneError

_FILE, _TEXT, _NAME = "file", "text", "name"


Given = tuple[str, ReadDocument, dict[str, str]]


class DocumentRequest(Body):
    text: Annotated[str, Field(min_length=1)]
    name: str | None = Field(None, description="What the model reads as its name.")


def add_document_routes(
    app: FastAPI,
    service: Service,
    answers: Callable[..., dict[int | str, dict[str, Any]]],
    takes: Callable[..., dict[str, Any]],
) -> None:
    """
    Args:
        answers: describes a route's errors.
        takes: describes a route's body.
    """
    described = takes(DocumentRequest, generates=False)
    form = {"type": "object", "properties": {_FILE: {"type": "string", "format": "binary"}}}
    content = described["openapi_extra"]["requestBody"]["content"]
    content["multipart/form-data"] = {"schema": {**form, "required": [_FILE]}}

    @app.post("/v1/documents", tags=["documents"], **described)
    async def add_document(request: Request) -> Response:
        """Keep a text, and have the model read it: JSON, or a form with a file."""
        return await _add(request, service)

    @app.post("/v1/documents/preview", tags=["documents"], **described)
    async def preview_document(request: Request) -> dict[str, Any]:
        """What a document would be: its size against what fits. Nothing is kept or computed."""
        return await _preview(request, service)

    @app.get("/v1/documents", tags=["documents"], responses=answers(400, 503))
    async def list_documents() -> dict[str, Any]:
        """All that are kept, the one that was used last first."""
        documents = service.documents

        def told() -> list[dict[str, Any]]:
            return [documents.told(live) for live in documents.all()]

        return {"object": "list", "data": await service.workers.run(0, told)}

    @app.get("/v1/documents/{id}", tags=["documents"], responses=answers(400, 404, 503))
    async def document(id: str) -> dict[str, Any]:
        """One, and how far the model has read it."""
        return await _asked(service, lambda: service.documents.told(service.documents.get(id)))

    @app.get("/v1/documents/{id}/content", tags=["documents"], responses=answers(400, 404, 503))
    async def document_content(id: str) -> Response:
        """Its text."""
        text = await _asked(service, lambda: service.documents.text(id))
        return PlainTextResponse(text, headers={"X-Content-Type-Options": "nosniff"})

    @app.delete("/v1/documents/{id}", tags=["documents"], responses=answers(400, 404, 503))
    async def delete_document(id: str) -> dict[str, Any]:
        """Keep it no longer; what is being computed of it ends."""
        await _asked(service, lambda: service.documents.remove(id))
        return {"id": id, "object": "document.deleted", "deleted": True}


async def _asked(service: Service, function: Callable[[], Any]) -> Any:
    try:
        return await service.workers.run(0, function)
    except UserError as error:
        raise of_document(error, "id") from error


async def _given(request: Request, service: Service) -> Given:
    """Name and document, and headers of the answer."""
    if request.headers.get("content-type", "").lower().startswith("application/json"):
        body = await read(request, service, DocumentRequest)
        name, size = body.name or "document", request.state.size
        found = await service.workers.run(size, _of_json, name, body.text)
        return name, found, ignored_header(body)
    name, found = await _of_form(request, service)
    return name, found, {}


async def _preview(request: Request, service: Service) -> dict[str, Any]:
    documents = service.documents
    name, found, _ = await _given(request, service)

    most = min(service.engine.max_context, service.engine.fitting_tokens) - 1

    def counted() -> tuple[int, ExpectedTime | None]:
        service.check_text([found.text], _TEXT)
        tokens = documents.count(name, found.text)
        return tokens, service.expected(tokens) if tokens <= most else None

    tokens, expected = await service.workers.run(request.state.size, counted)
    return {
        "object": "document.preview",
        "name": name,
        "characters": len(found.text),
        "tokens": tokens,
        "max_tokens": most,
        "tokens_per_second": service.registry.speed,
        "seconds": None if expected is None else round(expected.seconds, 2),
        "seconds_estimated": expected is not None and expected.estimated,
        "notes": list(found.notes),
    }


async def _add(request: Request, service: Service) -> Response:
    documents = service.documents
    name, found, headers = await _given(request, service)

    def add() -> LiveDocument:
        service.check_length([found.text], 1, _TEXT)
        return documents.add(name, found.text)

    try:
        live = await service.workers.run(request.state.size, add)
    except (ContextLengthError, InsufficientMemoryError) as error:
        raise from_engine(error, param=_TEXT) from error
    except UserError as error:
        raise of_document(error, _TEXT) from error
    request.state.log.update(document=live.record.id)
    return JSONResponse(documents.told(live), headers=headers)


def _of_json(name: str, text: str) -> ReadDocument:
    """JSON can hold what no text does: half of a surrogate pair."""
    try:
        return read_document(text.encode(), name[:80], "text/plain; charset=utf-8")
    except UnicodeEncodeError as error:
        raise bad(_TEXT, f"text: character {error.start} is half of a surrogate pair.") from None
    except UserError as error:
        raise ApiError(400, f"{error}.", code="unreadable_document", param=_TEXT) from error


async def _of_form(request: Request, service: Service) -> tuple[str, ReadDocument]:
    try:
        raw = await request.body()
    except ClientDisconnect as error:
        raise ClientGoneError from error
    request.state.size = len(raw)
    kind = request.headers.get("content-type", "")

    def take() -> tuple[str, ReadDocument]:
        found: dict[str, FormPart] = {}
        for part in parts_of(raw, kind):
            if part.name in found:
                raise bad(part.name[:80], f"{part.name[:80]}: is there twice: send one document.")
            found[part.name] = part
        given = found.get(_FILE) or found.get(_TEXT)
        if given is None:
            raise bad(_FILE, "file: is missing: send a form with a part of that name.")
        told = bytes(found[_NAME].data).decode("utf-8", "replace") if _NAME in found else None
        name = told or given.filename or "document"
        try:
            return name, read_document(bytes(given.data), name[:80], given.media_type)
        except UserError as error:
            raise ApiError(400, f"{error}.", code="unreadable_document", param=_FILE) from error

    return await service.workers.read_file(take)
