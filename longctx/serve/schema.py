"""Bodies of requests, checked field by field. Fields that are not known are kept apart, by name.

What depends on the model (context, tools of its template) is not checked here.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longctx.serve.errors import ApiError

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]

# Harmless to leave out: they change nothing of an answer.
_WITHOUT_EFFECT = {"user", "metadata", "store", "safety_identifier", "prompt_cache_key"}


class Body(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def ignored(self) -> list[str]:
        """Fields that this server does not know."""
        extra = self.model_extra or {}
        return sorted(name for name in extra if name not in _WITHOUT_EFFECT)


B = TypeVar("B", bound=Body)


class StreamOptions(Body):
    include_usage: bool = False
    include_progress: bool = Field(False, description="Events with `prompt_progress`.")


class Generate(Body):
    """What chat and completions have in common. Null is the model's or the server's default."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_progress: bool | None = Field(False, description="As include_progress.")
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="-1 and 0 keep all.")
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Field(ge=1)] | None = 1
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
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None


class CompletionRequest(Generate):
    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    echo: bool | None = False
    logprobs: Annotated[int, Field(ge=0)] | None = None
    suffix: str | None = None


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[TokenId]


def parse(kind: type[B], raw: bytes) -> B:
    """The body, or an error that names the first field that is wrong."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _refused(error) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None


def _refused(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first['msg']}.", code="invalid_json")
    # Names of union members are pydantic's, not the client's.
    place = [str(part) for part in first["loc"] if not _is_union_tag(part)]
    given = first.get("input")
    shown = ""
    if isinstance(given, str | int | float | bool) and first["type"] != "missing":
        shown = f" (got {json.dumps(given, ensure_ascii=False)[:80]})"
    param = ".".join(place) or None
    where = f"{param}: " if param else ""
    return ApiError(400, f"{where}{first['msg']}{shown}.", code="invalid_value", param=param)


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "constrained-int"))
