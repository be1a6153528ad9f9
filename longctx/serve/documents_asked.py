"""The documents that a chat or a response names, as part of its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from longctx.chat.documents import HEAD_ROOM
from longctx.documents.documents import PlacedDocuments
from longctx.documents.live import DocumentDamagedError, NoDocumentError
from longctx.engine import Engine
from longctx.errors import UserError
from longctx.serve.documents_usage import DocumentsAsked
from longctx.serve.errors import ApiError, bad
from longctx.serve.service import Service

MOST_DOCUMENTS = 64  # of one prompt


async def place(service: Service, ids: Sequence[str]) -> PlacedDocuments:
    """Raises: ApiError."""
    if len(ids) > MOST_DOCUMENTS:
        raise bad("document_ids", f"document_ids: {len(ids)} given, at most {MOST_DOCUMENTS}.")
    try:
        return await service.workers.run(0, service.documents.place, ids)
    except UserError as error:
        raise of_document(error, "document_ids") from error


def placed_ids(
    service: Service, placed: PlacedDocuments, ids: list[int]
) -> tuple[list[int], DocumentsAsked]:
    """The whole prompt, of the conversation's ids with stand-ins."""
    found = placed.placement.placed(ids)
    tokens, engine = found.ends[-1], service.engine
    if not isinstance(engine, Engine):  # takes the temperature from the prompt's own length
        return found.ids, DocumentsAsked(tokens, None, None)
    room = tokens + HEAD_ROOM
    length, why = max(len(found.ids), room), None
    if len(placed.live) > 1:
        why = "several_documents"
    elif engine.bucket(length) != engine.bucket(room):
        why = "temperature_bucket"
    return found.ids, DocumentsAsked(tokens, length, why)


def of_document(error: UserError, param: str) -> ApiError:
    """What is wrong with a document that is asked for."""
    if isinstance(error, NoDocumentError):
        return ApiError(404, _sentence(error), code="document_not_found", param=param)
    if isinstance(error, DocumentDamagedError):
        return ApiError(410, _sentence(error), code="document_damaged", param=param)
    return bad(param, _sentence(error))


def _sentence(error: UserError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
