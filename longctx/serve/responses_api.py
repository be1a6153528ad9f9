"""/v1/responses: the API of items, over the same conversations as chat completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from longctx.chat.tools import ContentPiece, Piece, ToolCallStart
from longctx.engine import Delta, Finished
from longctx.serve.answers import answer, read
from longctx.serve.conversation import AskedChat, pieces_of, prepare
from longctx.serve.errors import ApiError, bad
from longctx.serve.jobs import Heard, Job
from longctx.serve.response_store import ResponseStore, StoredResponse
from longctx.serve.responses_items import NAMES, Item, ResponsesRequest, as_chat, renamed
from longctx.serve.service import Service
from longctx.serve.sse import unless_gone
from longctx.serve.tokens import TokenText, chat_logprobs

Event = dict[str, Any]


async def responses(request: Request, service: Service) -> Response:
    """Create one."""
    service.ready()
    body = await read(request, service, ResponsesRequest)
    service.check_model(body.model)
    if (body.n or 1) != 1:
        raise bad(
            "n", "n: a response is one answer: ask again for another, or use chat completions."
        )
    items, before = _conversation(service.responses, body)
    if body.document_ids is None and (earlier := body.previous_response_id) is not None:
        body.document_ids = stored(service, earlier).response.get("document_ids") or None
    try:
        preparing = prepare(service, as_chat(body, items), request.state.size + before)
        asked = await unless_gone(request.receive, preparing)
    except ApiError as error:
        raise renamed(error) from error
    job = Job(
        f"resp_{secrets.token_hex(24)}",
        "response",
        [len(asked.ids)],
        1,
        request.state.request_id,
        documents=asked.documents,
    )
    text = service.text if body.wants_logprobs else None
    shape = ResponsesShape(job, service.name, body, items, asked, text, service.responses)
    return await answer(
        request,
        service,
        body,
        job,
        lambda: asked.requests(service, 1),
        shape,
        param="input",
        schema_param=NAMES.get(asked.held_param, asked.held_param),
        unused=asked.unused,
    )


def stored(service: Service, id: str) -> StoredResponse:
    """Raises: ApiError 404."""
    found = service.responses.get(id)
    if found is None:
        raise _gone(id, 404, "response_not_found", "id")
    return found


def _conversation(store: ResponseStore, body: ResponsesRequest) -> tuple[list[Item], int]:
    """Earlier items and those of the body, and the characters of the earlier ones. References are
    looked up among these."""
    items: list[Item] = []
    size = 0
    if body.previous_response_id is not None:
        found = store.get(body.previous_response_id)
        if found is None:
            raise _gone(
                body.previous_response_id,
                400,
                "previous_response_not_found",
                "previous_response_id",
            )
        items += found.items
        size = found.size
    known = {item.get("id"): item for item in items}
    for index, item in enumerate(body.items()):
        if item.get("type") == "item_reference":
            if item.get("id") not in known:
                raise bad(
                    "input", f"input[{index}].id: no earlier item has it: pass the item itself."
                )
        else:
            items.append(item)
    return items, size


def _gone(id: str, status: int, code: str, param: str) -> ApiError:
    return ApiError(
        status,
        f"There is no response {id[:80]!r} here: it was deleted, not stored, or has made way for "
        "newer ones. Pass the whole conversation as input.",
        code=code,
        param=param,
    )


class ResponsesShape:
    """A response, its items and its events.

    Args:
        items: of the conversation so far.
        text: of tokens, where log-probabilities were asked for.
        store: keeps the response, where the client does not forbid it.
    """

    def __init__(
        self,
        job: Job,
        model: str,
        body: ResponsesRequest,
        items: Sequence[Item],
        asked: AskedChat,
        text: TokenText | None,
        store: ResponseStore,
    ) -> None:
        self._job, self._model, self._body, self._items = job, model, body, items
        self._text, self._store = text, store
        self._parser = asked.parser() if asked.parser else None
        self._output: list[Item] = []
        self._open = False  # whether the last item is still growing
        self._pending: list[Event] = []  # log-probabilities of no text yet
        self._status = "in_progress"
        self._why: dict[str, str] | None = None
        self._count = 0

    # -- events -----------------------------------------------------------------------------------

    def progress(self, progress: dict[str, Any]) -> Sequence[Event]:
        begun = self._begin()
        return [*begun, self._event("response.prompt_progress", prompt_progress=progress)]

    def chunks(self, heard: Heard) -> Sequence[Event]:
        event, found = heard.event, self._begin()
        if isinstance(event, Delta):
            if self._text is not None:
                self._pending += chat_logprobs(self._text, event.logprobs)
            for piece in self._pieces(event.text, last=False):
                found += self._add(piece)
        elif isinstance(event, Finished):
            for piece in self._pieces("", last=True):
                found += self._add(piece)
            cut = event.reason != "stop"
            self._status = "incomplete" if cut else "completed"
            self._why = {"reason": "max_output_tokens"} if cut else None
            if not self._output and not cut:
                found += self._add(ContentPiece(""))
            found += self._close(self._status)
        return found

    def last(self, usage: dict[str, Any], wanted: bool) -> Sequence[Event]:
        return [self._event(f"response.{self._status}", response=self.whole(usage))]

    def failed(self, error: ApiError) -> Sequence[Event]:
        self._status = "failed"
        told = {"code": error.code, "message": str(error)}
        param = NAMES.get(error.param or "", error.param)
        return [
            *self._begin(),
            self._event("error", **told, param=param),
            self._event("response.failed", response={**self._response(None), "error": told}),
        ]

    def _begin(self) -> list[Event]:
        if self._count:
            return []
        names = ("response.created", "response.in_progress")
        return [self._event(name, response=self._response(None)) for name in names]

    def _event(self, kind: str, **fields: Any) -> Event:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **fields}

    def _pieces(self, text: str, *, last: bool) -> Sequence[Piece]:
        if self._parser is None:
            return [ContentPiece(text)] if text else []
        return pieces_of(self._parser, text, last=last)

    # -- items ------------------------------------------------------------------------------------

    def _add(self, piece: Piece) -> list[Event]:
        if isinstance(piece, ToolCallStart):
            call = {"type": "function_call", "id": _new("fc"), "call_id": piece.id}
            return self._start({**call, "name": piece.name, "arguments": ""})
        found: list[Event] = []
        if not isinstance(piece, ContentPiece):
            self._output[-1]["arguments"] += piece.text
            return [self._of_item("response.function_call_arguments.delta", delta=piece.text)]
        if not self._open or self._output[-1]["type"] != "message":
            message = {"type": "message", "id": _new("msg"), "role": "assistant", "content": []}
            found += self._start(message)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._output[-1]["content"].append(part)
            found.append(self._of_part("response.content_part.added", part=dict(part)))
        part, logprobs = self._output[-1]["content"][0], self._pending
        part["text"] += piece.text
        part["logprobs"] = [*part["logprobs"], *logprobs]
        self._pending = []
        if piece.text:
            delta = self._of_part("response.output_text.delta", delta=piece.text)
            found.append({**delta, "logprobs": logprobs})
        return found

    def _start(self, item: Item) -> list[Event]:
        found = self._close("completed")
        self._output.append({**item, "status": "in_progress"})
        self._open = True
        shown = {**self._output[-1]}
        if "content" in shown:
            shown["content"] = []
        added = self._event(
            "response.output_item.added", output_index=len(self._output) - 1, item=shown
        )
        return [*found, added]

    def _close(self, status: str) -> list[Event]:
        """The item that is open ends."""
        if not self._open:
            return []
        self._open = False
        item = self._output[-1]
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            done = self._of_part("response.output_text.done", text=part["text"])
            found = [
                {**done, "logprobs": part["logprobs"]},
                self._of_part("response.content_part.done", part=dict(part)),
            ]
        else:
            done = self._of_item(
                "response.function_call_arguments.done", arguments=item["arguments"]
            )
            found = [{**done, "name": item["name"]}]
        at = len(self._output) - 1
        return [*found, self._event("response.output_item.done", output_index=at, item={**item})]

    def _of_item(self, kind: str, **fields: Any) -> Event:
        at = len(self._output) - 1
        return self._event(kind, item_id=self._output[at]["id"], output_index=at, **fields)

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)

    # -- the response -----------------------------------------------------------------------------

    def whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The response; kept from now on."""
        made = self._response(
            {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            }
        )
        made["completed_at"] = int(time.time())
        if self._body.store is not False:
            self._store.put(made, [*self._items, *self._output])
        return made

    def _response(self, usage: dict[str, Any] | None) -> dict[str, Any]:
        body = self._body
        text = body.text.format if body.text and body.text.format else None
        form = {"type": "text"} if text is None else text.model_dump(by_alias=True)
        parallel = body.parallel_tool_calls
        return {
            "id": self._job.id,
            "object": "response",
            "created_at": int(self._job.created),
            "status": self._status,
            "error": None,
            "incomplete_details": self._why,
            "instructions": body.instructions,
            **({"document_ids": body.document_ids} if body.document_ids else {}),
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._model,
            "output": [] if usage is None else list(self._output),
            "parallel_tool_calls": True if parallel is None else parallel,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": form},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": None,
        }


def _new(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(24)}"
