"""Fields that other servers know and this one does not, where leaving them out changes the answer.

Each has values that ask for nothing; with any other a request is refused. Fields that are in no
table here are accepted, and named in a header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from longctx.serve.errors import ApiError


class Unread:
    """A value that is hardly ever made: a field may hold millions of lists. What may ask for
    nothing is kept (null, flags, 0 and 1, empty ones), and of all others that they are there."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kept: list[Any] = [
            core_schema.literal_schema([None, False, True, 0, 1, ""]),
            core_schema.list_schema(max_length=0),
            core_schema.dict_schema(max_length=0),
        ]
        return core_schema.with_default_schema(
            core_schema.union_schema(kept, mode="left_to_right"),
            default=_GIVEN,
            on_error="default",
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {}


_GIVEN = object()
_EMPTY: tuple[Any, ...] = ("", [], {})

_SEVERAL = "ask for several answers with n, or leave it out"
_FILTERS = "use temperature, top_p, top_k, min_p and the penalties, or leave it out"
_GRAMMARS = "use a JSON schema, guided_choice or guided_regex, or leave it out"
_TEXT = "texts alone are served: leave it out"
_OUT = "leave it out"

Table = Mapping[str, tuple[tuple[Any, ...], str]]

# Name: the values beside null that ask for nothing, and what to do instead.
_EVERYWHERE: Table = {
    "best_of": ((1,), _SEVERAL),
    "use_beam_search": ((False,), _SEVERAL),
    "length_penalty": ((1,), _SEVERAL),
    "early_stopping": ((False,), _SEVERAL),
    **dict.fromkeys(("typical_p", "tfs", "tfs_z", "repeat_penalty"), ((1,), _FILTERS)),
    **dict.fromkeys(
        ("top_a", "mirostat", "mirostat_mode", "dry_multiplier", "xtc_probability"),
        ((0,), _FILTERS),
    ),
    **dict.fromkeys(("dynatemp_range", "epsilon_cutoff", "eta_cutoff"), ((0,), _FILTERS)),
    **dict.fromkeys(("bad_words", "allowed_token_ids"), (_EMPTY, "use logit_bias")),
    "logits_processors": (_EMPTY, "use logit_bias"),
    "include_stop_str_in_output": ((False,), _OUT),
    "skip_special_tokens": ((True,), "use /v1/completions with logprobs, or leave it out"),
    "truncate_prompt_tokens": ((), "shorten the prompt"),
    "prompt_logprobs": ((False,), "use /v1/completions with echo and logprobs, or leave it out"),
    **dict.fromkeys(
        ("guided_grammar", "guided_whitespace_pattern", "structural_tag", "grammar", "json_schema"),
        (_EMPTY, _GRAMMARS),
    ),
    **dict.fromkeys(
        ("ebnf", "regex", "structured_outputs.grammar", "structured_outputs.structural_tag"),
        (_EMPTY, _GRAMMARS),
    ),
    "structured_outputs.whitespace_pattern": (_EMPTY, _GRAMMARS),
}
_CHAT: Table = {
    "echo": ((False,), "use /v1/completions, or leave it out"),
    "add_special_tokens": ((False,), "the template places them: leave it out"),
    "chat_template": ((), "templates come with the model: leave it out"),
    "documents": (_EMPTY, "post them to /v1/documents, and name them in document_ids"),
    "audio": (_EMPTY, _TEXT),
    "web_search_options": ((), "there is no search here: leave it out"),
}
_COMPLETIONS: Table = {
    "suffix": (_EMPTY, "put it into the prompt as the model was trained, or leave it out"),
}
CHAT = {**_EVERYWHERE, **_CHAT}
COMPLETIONS = {**_EVERYWHERE, **_COMPLETIONS}
RESPONSES: Table = {
    **{name: CHAT[name] for name in CHAT if "." not in name},
    "background": ((False,), "stream it, and ask /v1/requests/{id} how far it is"),
    "conversation": ((), "use previous_response_id"),
    "prompt": ((), "put its text into instructions and input"),
    "context_management": (_EMPTY, _OUT),
}
NONE: Table = {}


def asks_for_nothing(table: Table, name: str, value: Any) -> bool:
    """Whether a field of the table has one of its neutral values."""
    return name in table and (value is None or value in table[name][0])


def refuse(table: Table, given: Iterable[tuple[str, Any]]) -> None:
    """Raises: ApiError for the first field that is not built and asks for something."""
    for name, value in given:
        if name in table and not asks_for_nothing(table, name, value):
            raise ApiError(
                400,
                f"{name} is not supported: {table[name][1]}.",
                code="unsupported_parameter",
                param=name,
            )
