"""A conversation of a request as what the engine needs: ids, the grammar of the answer, its ends.

What chat completions and responses have in common before anything is generated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from longctx.chat.forced import ForcedCall, ForcedCallParser, forced_call
from longctx.chat.tools import CLOSE, Piece, ToolCallParser
from longctx.engine import EngineRequest
from longctx.errors import UserError
from longctx.grammar.compiler import LAYOUT
from longctx.grammar.forms import repeated
from longctx.serve.constraints import Held, wish_of
from longctx.serve.documents_asked import place, placed_ids
from longctx.serve.documents_usage import DocumentsAsked
from longctx.serve.errors import bad, of_conversation
from longctx.serve.schema import ChatRequest
from longctx.serve.service import Service, too_many

Parser = ToolCallParser | ForcedCallParser


@dataclass(frozen=True)
class AskedChat:
    """Ready to be asked.

    Attributes:
        held: what the answer is held to, and in `held_param` the field that says so.
        parser: of each answer's text; None where it is text alone.
        unused: fields without effect here, for the header.
    """

    body: ChatRequest
    ids: list[int]
    held: Held | None
    held_param: str
    parser: Callable[[], Parser] | None
    stop: tuple[str, ...]
    unused: tuple[str, ...]
    documents: DocumentsAsked | None = None

    @property
    def max_tokens(self) -> int | None:
        return most_tokens(self.body)

    def requests(self, service: Service, n: int) -> list[EngineRequest]:
        """One an answer."""
        body = self.body
        made = [
            service.request(
                body,
                self.ids,
                index,
                max_tokens=self.max_tokens,
                default=service.settings.default_max_tokens,
                held=self.held,
                logprobs=(body.top_logprobs or 0) if body.logprobs else None,
                stop=self.stop,
            )
            for index in range(n)
        ]
        if self.documents is None:
            return made
        return [replace(each, request_length=self.documents.request_length) for each in made]


def most_tokens(body: ChatRequest) -> int | None:
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


async def prepare(service: Service, body: ChatRequest, size: int) -> AskedChat:
    """Check and encode.

    Args:
        size: of the body, in bytes.

    Raises:
        ApiError.
    """
    service.check_conversation(body.messages, body.tools)
    limits, options = service.settings.limits, body.chat_template_kwargs or {}
    if body.top_logprobs is not None and not body.logprobs:
        raise bad("top_logprobs", "top_logprobs needs logprobs: true.")
    if body.top_logprobs is not None and body.top_logprobs > limits.max_top_logprobs:
        raise too_many("top_logprobs", body.top_logprobs, limits.max_top_logprobs)
    if body.continue_final_message and body.add_generation_prompt:
        raise bad(
            "continue_final_message",
            "continue_final_message and add_generation_prompt: an answer either goes on or begins: "
            "give one of them.",
        )
    renderer = service.renderer
    placed = None if not body.document_ids else await place(service, body.document_ids)
    wish = wish_of(body, limits.max_schema)

    def render() -> tuple[list[int], ForcedCall | None]:
        # A model that was not trained for tools would write calls without an end.
        several = body.parallel_tool_calls is True
        forced = forced_call(body.tools, body.tool_choice, parallel=several)
        ids = renderer.encode(
            body.messages if placed is None else placed.placement.messages(body.messages),
            inserted=None if placed is None else placed.placement.inserted,
            tools=body.tools,
            tool_choice=body.tool_choice,
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final=bool(body.continue_final_message),
            options=options,
            check=lambda texts: service.check_length(texts, most_tokens(body), "messages"),
        )
        return ids, forced

    try:
        ids, forced = await service.workers.run(size, render)
    except UserError as error:
        raise of_conversation(error) from error
    asked = None
    if placed is not None:
        ids, asked = placed_ids(service, placed, ids)
    if forced is not None and wish is not None:
        raise bad(
            wish.param,
            f"{wish.param} cannot hold for an answer that must be a tool call: leave one out.",
        )
    unused = tuple(f"chat_template_kwargs.{name}" for name in renderer.unused_options(options))
    if forced is not None:
        calls = repeated(
            forced.schema, forced.closing, forced.opening, forced.most, LAYOUT, "tools"
        )
        return AskedChat(body, ids, calls, "tools", ForcedCallParser, (), unused, asked)
    tools = bool(body.tools) and body.tool_choice != "none"
    held, param = (None, "response_format") if wish is None else (wish.held, wish.param)
    # A closing tag ends the answer where one call is all that it may be.
    stop = (CLOSE,) if tools and body.parallel_tool_calls is False else ()
    parser = ToolCallParser if tools else None
    return AskedChat(body, ids, held, param, parser, stop, unused, asked)


def pieces_of(parser: Parser, text: str, *, last: bool) -> list[Piece]:
    """What is certain now, and at the end what was held back."""
    pieces = parser.feed(text) if text else []
    return [*pieces, *parser.close()] if last else pieces
