"""Bodies of requests, checked field by field. Fields that are not known are kept apart, by name.

What depends on the model (context, tools of its template) is not checked here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from longctx.serve.errors import ApiError

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
# Beyond any model; an integer of thousands of digits can be parsed, but not printed in an error.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Unread:
    """A value that is never made: only its name counts. A field may hold millions of lists."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(
            core_schema.none_schema(), default=None, on_error="default"
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {}


class _FirstError:
    """A list ends at its first wrong item: a million wrong ones would be a million errors, made
    while no other thread can run. (pydantic's own mark cannot stand in a union.)"""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        assert schema["type"] == "list"
        return core_schema.list_schema(schema.get("items_schema"), fail_fast=True)


Texts = Annotated[list[str], _FirstError]
TokenIds = Annotated[list[TokenId], _FirstError]
Prompts = Annotated[list[TokenIds], _FirstError]
Objects = Annotated[list[dict[str, Any]], _FirstError]


# Harmless to leave out: they change nothing of an answer.
_WITHOUT_EFFECT = {
    *("user", "metadata", "store", "safety_identifier", "prompt_cache_key"),
    *("response_format.json_schema.description", "stream_options.include_obfuscation"),
}


class Body(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())
    __pydantic_extra__: dict[str, _Unread]

    def ignored(self) -> list[str]:
        """Fields that this server does not know, those of objects as `object.field`."""
        return sorted(name for name in self._unknown() if name not in _WITHOUT_EFFECT)

    def _unknown(self) -> Iterator[str]:
        yield from self.model_extra or ()
        for name, value in self:
            if isinstance(value, Body):
                yield from (f"{name}.{inner}" for inner in value._unknown())


B = TypeVar("B", bound=Body)


class StreamOptions(Body):
    include_usage: bool | None = False
    include_progress: bool | None = Field(False, description="Events with `prompt_progress`.")


class Generate(Body):
    """What chat and completions have in common. Null is the model's or the server's default."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_progress: bool | None = Field(False, description="As include_progress.")
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        None, description="-1 and 0 keep all."
    )
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Texts | None = None
    n: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = 1
    ignore_eos: bool | None = False

    @property
    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(found)

    @property
    def wants_progress(self) -> bool:
        return bool(
            self.return_progress or (self.stream_options and self.stream_options.include_progress)
        )

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class JsonSchema(Body):
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Generate):
    messages: Objects = Field(min_length=1)
    max_completion_tokens: Count | None = None
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = False
    top_logprobs: Count | None = None


class CompletionRequest(Generate):
    prompt: str | Texts | TokenIds | Prompts
    echo: bool | None = False
    logprobs: Count | None = None
    suffix: str | None = None


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: Objects | None = None
    tools: Objects | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: TokenIds


def parse(kind: type[B], raw: bytes) -> B:
    """The body, or an error that names the first field that is wrong."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _refused(error) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None


def _refused(error: ValidationError) -> ApiError:
    errors = error.errors(include_url=False, include_context=False)
    # Of a field that may be several things: the reading that went furthest.
    same = [each for each in errors if each["loc"][:1] == errors[0]["loc"][:1]]
    first = max(same, key=lambda each: [part for part in each["loc"] if isinstance(part, int)])
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first['msg']}.", code="invalid_json")
    # Names of union members are pydantic's, not the client's.
    place = [str(part) for part in first["loc"] if not _is_union_tag(part)]
    given = first.get("input")
    shown = ""
    if isinstance(given, str | int | float | bool) and first["type"] != "missing":
        given = given[:80] if isinstance(given, str) else given
        shown = f" (got {json.dumps(given, ensure_ascii=False)[:80]})"
    param = ".".join(place) or None
    where = f"{param}: " if param else ""
    return ApiError(400, f"{where}{first['msg']}{shown}.", code="invalid_value", param=param)


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "constrained-int"))
