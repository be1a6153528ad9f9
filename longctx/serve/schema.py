"""Bodies of requests, checked field by field. Fields that are not known are kept apart, by name.

What depends on the model (context, tools of its template) is not checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from longctx.serve import unbuilt
from longctx.serve.errors import ApiError
from longctx.serve.unbuilt import Unread

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
# Beyond any model; an integer of thousands of digits can be parsed, but not printed in an error.
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


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
    __pydantic_extra__: dict[str, Unread]
    refused: ClassVar[unbuilt.Table] = unbuilt.NONE

    def ignored(self) -> list[str]:
        """Fields that this server does not know, those of objects as `object.field`."""
        return sorted(
            name
            for name, value in self._unknown()
            if name not in _WITHOUT_EFFECT
            and not unbuilt.asks_for_nothing(self.refused, name, value)
        )

    def check(self) -> None:
        """Raises: ApiError for a field that would change the answer, and is not built."""
        unbuilt.refuse(self.refused, self._unknown())

    def _unknown(self) -> Iterator[tuple[str, Any]]:
        yield from (self.model_extra or {}).items()
        for name, value in self:
            if isinstance(value, Body):
                yield from ((f"{name}.{inner}", given) for inner, given in value._unknown())


B = TypeVar("B", bound=Body)
_MOST_BIASES = 1024


def _biases(given: dict[str, Any]) -> dict[str, Any]:
    def refuse(said: str) -> None:
        raise PydanticCustomError("logit_bias", said)

    if len(given) > _MOST_BIASES:
        refuse(f"{len(given)} token ids given, at most {_MOST_BIASES} are taken")
    for token, bias in given.items():
        if not re.fullmatch(r"\d{1,9}", token, re.ASCII):
            refuse('token ids are whole numbers, as in {"198": -100}')
        number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not number or not -100 <= bias <= 100:
            refuse("biases are numbers from -100 to 100")
    return given


class StreamOptions(Body):
    include_usage: bool | None = False
    include_progress: bool | None = Field(False, description="Events with `prompt_progress`.")


class JsonSchema(Body):
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    json_: dict[str, Any] | str | None = Field(None, alias="json")
    choice: Texts | None = None
    regex: str | None = None
    json_object: bool | None = None


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
    stop_token_ids: TokenIds | None = Field(None, description="They end the answer, as eos does.")
    min_tokens: Count | None = Field(None, description="Nothing ends the answer before.")
    logit_bias: Annotated[dict[str, Any], AfterValidator(_biases)] | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_choice: Texts | None = None
    guided_regex: str | None = None
    structured_outputs: StructuredOutputs | None = None
    n: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = 1
    ignore_eos: bool | None = False

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(token), float(bias)) for token, bias in (self.logit_bias or {}).items())

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


class ChatRequest(Generate):
    refused: ClassVar[unbuilt.Table] = unbuilt.CHAT
    messages: Objects = Field(min_length=1)
    document_ids: Texts | None = Field(None, description="Of /v1/documents; read before all else.")
    max_completion_tokens: Count | None = None
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: Objects | None = Field(None, description="As tools, in the form before them.")
    function_call: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = False
    logprobs: bool | None = False
    top_logprobs: Count | None = None


class CompletionRequest(Generate):
    refused: ClassVar[unbuilt.Table] = unbuilt.COMPLETIONS
    prompt: str | Texts | TokenIds | Prompts
    echo: bool | None = False
    logprobs: Count | None = None
    add_special_tokens: bool | None = True


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: Objects | None = None
    tools: Objects | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: TokenIds


def parse(kind: type[B], raw: bytes) -> B:
    """The body, or an error that names the first field that is wrong."""
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        raise _refused(error) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None
    body.check()
    return body


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
