"""A line of results.jsonl, controls.jsonl and perplexity.jsonl, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from longctx.eval.runfolder.schema_parts import (
    NO_SENTENCES,
    Field,
    Option,
    PassScheme,
    RecordScheme,
    ScorerName,
)
from longctx.eval.scoring import Match, Status
from longctx.eval.texts.text import Boundary

_BOUNDARY = "what needles and cuts stand at the end of: line, word, character"


class RecipeJson(TypedDict):
    """What a prompt is a function of: equal recipes give equal bytes."""

    length: Annotated[int, Field("the prompt with room for its answer", "tokens")]
    depth: Annotated[float | None, Field("where the needle was to stand", "percent")]
    seed: Annotated[int, Field("of the run")]
    repeat: Annotated[
        int,
        Field(
            "number of the text: a window of the haystack with its needle. The repeat where depths "
            "share a text; else 1000000 (repeat + 1) + 1000 depth"
        ),
    ]
    answer_tokens: Annotated[int, Field("room for the answer", "tokens")]
    answer_prefix: Annotated[str, Field("what the answer begins with, before it is generated")]
    system: Annotated[str | None, Field("the system message; null: none")]
    exact: Annotated[bool, Field("--exact: the length to the token, cut within sentences")]
    allow_repeat: Annotated[bool, Field("whether a short text may be repeated")]
    haystack_sha256: Annotated[str, Field("hash of the text")]
    tokenizer_sha256: Annotated[str, Field("hash of the tokenizer")]
    template_sha256: Annotated[str, Field("hash of the chat template as it is applied")]
    task: Annotated[str, Field("a name of `longctx tasks`")]
    language: Annotated[str, Field("of needle and question")]
    wording_sha256: Annotated[str, Field("hash of the task's words")]
    options: NotRequired[
        Annotated[dict[Option, Any], Field("of the task, by name", when="where a task has any")]
    ]
    boundary: NotRequired[Annotated[Boundary, Field(_BOUNDARY, when=NO_SENTENCES)]]


class RecordText(TypedDict):
    """Where the text of a prompt came from."""

    id: Annotated[str, Field("the text's name")]
    sha256: Annotated[str, Field("hash of the text")]
    offset: Annotated[int, Field("where in the text the prompt's part begins", "characters")]


class Rescored(TypedDict):
    """The verdict before `longctx rescore`."""

    status: Annotated[Status, Field("the state of then")]
    score: Annotated[float | None, Field("the score of then", "0-1")]
    ts: Annotated[str, Field("when it was judged again", "ISO 8601, UTC")]


_SCORES = (
    "by every scorer: `whole`, `ruler`; null where the state is not scored. Older files have it "
    "worked out when they are read"
)

_RESCORED = "where `longctx rescore` changed the verdict"


class NeedleRecord(TypedDict):
    """One line of results.jsonl: a cell that was asked. Of lines with one key the last counts."""

    schema: Annotated[int, Field("version of these files: 1")]
    key: Annotated[
        str,
        Field("hash of recipe, scheme (without m), model, dtype, kernel and decoding"),
    ]
    scheme: Annotated[RecordScheme, Field("how positions were encoded")]
    task: Annotated[str, Field("a name of `longctx tasks`")]
    language: Annotated[str, Field("of needle and question")]
    length: Annotated[int, Field("the prompt with room for its answer", "tokens")]
    prompt_tokens: Annotated[int, Field("the prompt as it was asked", "tokens")]
    slack: Annotated[int, Field("what prompt and answer leave of the length", "tokens")]
    depth: Annotated[
        float | None,
        Field("where the needle was to stand; null: evidence all over the text", "percent"),
    ]
    depth_actual: Annotated[float | None, Field("where it came to stand", "percent")]
    needle_span: Annotated[
        list[int] | None, Field("first token of the needle and the one behind it", "tokens")
    ]
    evidence_spans: NotRequired[
        Annotated[
            list[list[int]],
            Field("the same of all that the answer needs", "tokens", "older records lack it"),
        ]
    ]
    distance_to_question: Annotated[
        int | None, Field("from the needle's end to the question", "tokens")
    ]
    seed: Annotated[int, Field("of the run")]
    repeat: Annotated[int, Field("from 0, of the cell")]
    haystack: Annotated[RecordText, Field("where the text came from")]
    question: Annotated[str, Field("as it was asked")]
    expected: Annotated[list[str], Field("what the answer must hold")]
    match: Annotated[
        Match,
        Field("`all`: the share that is found counts; `part`: one suffices", older="all"),
    ]
    prompt_sha256: Annotated[str, Field("hash of the prompt's token ids")]
    recipe: Annotated[
        dict[str, Any],
        Field("what the prompt is made from: `longctx reconstruct`", fields=RecipeJson),
    ]
    score: Annotated[
        float | None, Field("by the run's scorer; null where the state is not scored", "0-1")
    ]
    scores: Annotated[dict[ScorerName, float] | None, Field(_SCORES, "0-1", older=None)]
    status: Annotated[
        Status,
        Field(
            "ok, miss, partial, truncated_output (cut off, and scored by what it has); overflow, "
            "error (not scored)"
        ),
    ]
    response: Annotated[str | None, Field("the answer; null: there was none")]
    finish_reason: Annotated[str | None, Field("stop, length, or an endpoint's own word")]
    error: Annotated[str | None, Field("what an error or an overflow said")]
    ttft_s: Annotated[float | None, Field("until the first token of the answer", "seconds")]
    cached_tokens: Annotated[
        int | None,
        Field("of the prompt, that an earlier prompt had computed", "tokens", older=None),
    ]
    server_prompt_tokens: Annotated[
        int | None, Field("the prompt by an endpoint's own count", "tokens", older=None)
    ]
    peak_mem_bytes: Annotated[int | None, Field("the most that a GPU held; null: none", "bytes")]
    compute_s: Annotated[
        float | None,
        Field(
            "the cell's share of steps that were computed for several requests together; null: it "
            "had the machine to itself",
            "seconds",
            older=None,
        ),
    ]
    total_s: Annotated[
        float, Field("from asking to the answer, waiting for others included", "seconds")
    ]
    backend: Annotated[str, Field("what computed")]
    ts: Annotated[str, Field("when it was answered", "ISO 8601, UTC")]
    rescored_from: NotRequired[Annotated[Rescored, Field("the verdict before", when=_RESCORED)]]


class ControlRecord(TypedDict):
    """One line of controls.jsonl: a question without its needle, which nobody can answer."""

    schema: Annotated[int, Field("version of these files: 1")]
    key: Annotated[str, Field("hash of the control and the key of its cell")]
    control: Annotated[str, Field("closed-book")]
    scheme: Annotated[RecordScheme, Field("as in results.jsonl")]
    length: Annotated[int, Field("the shortest of the run", "tokens")]
    depth: Annotated[None, Field("null: there is no needle")]
    repeat: Annotated[int, Field("0")]
    prompt_tokens: Annotated[int, Field("the prompt as it was asked", "tokens")]
    expected: Annotated[list[str], Field("what the needle would have said")]
    match: Annotated[Match, Field("as in results.jsonl", older="all")]
    response: Annotated[str | None, Field("the answer; null: there was none")]
    finish_reason: Annotated[str | None, Field("as in results.jsonl")]
    score: Annotated[float | None, Field("above 0, the map measures something else", "0-1")]
    scores: Annotated[
        dict[ScorerName, float] | None, Field("as in results.jsonl", "0-1", older=None)
    ]
    status: Annotated[Status, Field("as in results.jsonl")]
    error: Annotated[str | None, Field("what an error said")]
    total_s: Annotated[float, Field("from asking to the answer", "seconds")]
    ts: Annotated[str, Field("when it was answered", "ISO 8601, UTC")]
    rescored_from: NotRequired[Annotated[Rescored, Field("the verdict before", when=_RESCORED)]]


class RecordDocument(TypedDict):
    """The document of a pass."""

    id: Annotated[str, Field("its name")]
    sha256: Annotated[str, Field("hash of its text")]


class PerplexityRecord(TypedDict):
    """One line of perplexity.jsonl: a document read once. Of lines with one key the last counts."""

    schema: Annotated[int, Field("version of these files: 1")]
    key: Annotated[str, Field("hash of document, pass, scheme (without m), model and tokenizer")]
    task: Annotated[str, Field("perplexity")]
    scheme: Annotated[PassScheme, Field("how positions were encoded")]
    document: Annotated[RecordDocument, Field("what was read")]
    tokens: Annotated[int, Field("how much of it", "tokens")]
    window: Annotated[int, Field("how much at once", "tokens")]
    stride: Annotated[int | None, Field("from window to window; null: there is one", "tokens")]
    status: Annotated[Literal["ok", "error"], Field("ok or error")]
    error: Annotated[str | None, Field("what an error said")]
    nll: Annotated[
        list[float] | None, Field("loss of every token that has one before it, in order", "nats")
    ]
    bytes: Annotated[list[int], Field("text of each of these tokens", "bytes")]
    total_s: Annotated[float, Field("of the pass", "seconds")]
    backend: Annotated[str, Field("what computed")]
    ts: Annotated[str, Field("when it was done", "ISO 8601, UTC")]
