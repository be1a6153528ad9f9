"""What stands in the files of a run folder, field by field: types for code, words for readers.

    run.json            NeedleRunJson, PerplexityRunJson
    results.jsonl       NeedleRecord         controls.jsonl    ControlRecord
    perplexity.jsonl    PerplexityRecord
    summary.json        NeedleSummary        tasks.json        TasksTable
    perplexity.json     PerplexitySummary

A `NotRequired` field is not in every file, and its `Field` says when it is. `later` marks a field
that files of older versions lack, with what such a file is read as having. fields.py makes the
tables of docs/run-folder.md from here; a test compares them with what runs write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from longctx.eval.scoring import Match, Scorer, Status
from longctx.eval.texts.text import Boundary

REQUIRED: Final = object()


@dataclass(frozen=True)
class Field:
    """`when` a field that is not always there is; `older` is the value of files that lack it.
    `fields` are those of an object that code takes as it is."""

    words: str
    unit: str = ""
    when: str = ""
    older: Any = REQUIRED
    fields: type | None = None


@dataclass(frozen=True)
class Name:
    """What the keys of an object are, in dotted names."""

    word: str


Method = Annotated[str, Name("METHOD")]
Length = Annotated[str, Name("LENGTH")]
Depth = Annotated[str, Name("DEPTH")]
State = Annotated[str, Name("STATE")]
Task = Annotated[str, Name("TASK")]
Number = Annotated[str, Name("NUMBER")]
Package = Annotated[str, Name("PACKAGE")]
Option = Annotated[str, Name("OPTION")]
FileName = Annotated[str, Name("FILE")]
ScorerName = Annotated[str, Name("SCORER")]

States = dict[State, int]


class SchemeJson(TypedDict):
    """How positions are encoded, without what depends on a prompt."""

    method: Annotated[str, Field("name in flags, keys and pictures")]
    chunk_size: Annotated[int | None, Field("Dual Chunk Attention's C; null without it", "tokens")]
    local_size: Annotated[int | None, Field("Dual Chunk Attention's w; null without it", "tokens")]
    cap: Annotated[str | None, Field("how far positions between chunks reach; null without chunks")]
    L0: Annotated[
        int | None,
        Field("the length that YaRN's temperature is relative to; null: unknown", "tokens"),
    ]
    factor: Annotated[float | None, Field("extension factor of pi, ntk and YaRN; null without it")]


class RunScheme(SchemeJson):
    """A scheme of run.json."""

    sources: NotRequired[
        Annotated[dict[Number, str], Field("where each number came from", when="for local models")]
    ]


class RecordScheme(SchemeJson):
    """A scheme of a cell that was asked. `m` follows from the rest and is no part of the key."""

    request_length: Annotated[
        int,
        Field(
            "the length that YaRN's temperature is taken at: for `yarn+dca` the edge of its "
            "bucket, L0 * 2^(k/8), rounded up; else, and up to L0, the cell's length",
            "tokens",
        ),
    ]
    m: NotRequired[
        Annotated[
            float,
            Field(
                "YaRN's temperature at request_length, max(1, 0.1 ln(request_length / L0) + 1); "
                "logits are multiplied by its square",
                when="for `yarn+dca`; older records lack it",
            ),
        ]
    ]


class PassScheme(SchemeJson):
    """A scheme of a pass that was made."""

    request_length: Annotated[
        int | None,
        Field(
            "as in results.jsonl, of the window; null where losses do not depend on the length of "
            "the pass",
            "tokens",
        ),
    ]
    m: NotRequired[
        Annotated[float, Field("as in results.jsonl", when="for `yarn+dca`; older records lack it")]
    ]


_BOUNDARY = "what needles and cuts stand at the end of: line, word, character"
_NO_SENTENCES = "where the text is not in sentences"


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
    boundary: NotRequired[Annotated[Boundary, Field(_BOUNDARY, when=_NO_SENTENCES)]]


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


class Hardware(TypedDict):
    """The machine of a session."""

    machine: Annotated[str, Field("its architecture")]
    system: Annotated[str, Field("operating system and release")]
    cpu: Annotated[str, Field("its name")]
    cores: Annotated[int | None, Field("that the process may use")]
    memory_bytes: Annotated[int, Field("of the machine", "bytes")]


_PROBED = "for local models, but for `none`"
_ENDPOINT = "for endpoints"


class Proof(TypedDict):
    """What shows that the method is at work."""

    verified: Annotated[
        bool | None, Field("false: the effect drowns in rounding; null: it cannot be seen")
    ]
    by: NotRequired[Annotated[str, Field("in words", when="where nothing was measured")]]
    tokens: NotRequired[Annotated[int, Field("of the probe", "tokens", _PROBED)]]
    layer_change: NotRequired[
        Annotated[float, Field("how much the first layer changes", "share", _PROBED)]
    ]
    rounding: NotRequired[Annotated[float, Field("how much of it is rounding", "share", _PROBED)]]
    short_change: NotRequired[
        Annotated[float, Field("how much a short prompt changes", "share", _PROBED)]
    ]
    left_out: NotRequired[
        Annotated[list[str], Field("fields of a request that the server refuses", when=_ENDPOINT)]
    ]
    prompt_tokens: NotRequired[
        Annotated[int, Field("a greeting by --tokenizer's count", "tokens", _ENDPOINT)]
    ]
    server_prompt_tokens: NotRequired[
        Annotated[int | None, Field("the same by the server's", "tokens", _ENDPOINT)]
    ]


class ArmSession(TypedDict):
    """A method in a session."""

    backend: Annotated[str, Field("what computes")]
    proof: Annotated[dict[str, Any], Field("what shows that the method is at work", fields=Proof)]


_LOCAL = "for local models"


class SessionJson(TypedDict):
    """One start of the command in this folder."""

    started: Annotated[str, Field("when", "ISO 8601, UTC")]
    versions: Annotated[dict[Package, str], Field("of the packages that compute, and Python")]
    hardware: Annotated[Hardware, Field("the machine")]
    command: Annotated[str, Field("as it was typed")]
    pid: Annotated[int, Field("of the process")]
    device_map: NotRequired[Annotated[str, Field("--device-map", when=_LOCAL)]]
    dtype_note: NotRequired[
        Annotated[
            str | None,
            Field("why the dtype is not the model's own", when=f"{_LOCAL}; older files lack it"),
        ]
    ]
    prefill_chunk: NotRequired[
        Annotated[int, Field("tokens of one forward pass", "tokens", _LOCAL)]
    ]
    arms: NotRequired[
        Annotated[dict[Method, ArmSession], Field("by method", when="once something is asked")]
    ]


class NeedleSessionJson(SessionJson):
    """One start of `longctx needle` in this folder."""

    budget_minutes: NotRequired[
        Annotated[float | None, Field("--budget-minutes", "minutes", when="older files lack it")]
    ]
    preset: NotRequired[Annotated[str | None, Field("--preset", when="older files lack it")]]
    prefix_sharing: NotRequired[
        Annotated[
            bool,
            Field(
                "whether prompts go on from what others have computed",
                when=f"{_LOCAL}; older files lack it",
            ),
        ]
    ]
    ray_workers: NotRequired[Annotated[int | None, Field("--ray-workers", when="with --ray")]]
    concurrency: NotRequired[Annotated[int, Field("requests at once", when=_ENDPOINT)]]
    timeout_s: NotRequired[Annotated[float, Field("of a request", "seconds", _ENDPOINT)]]
    tokenizer: NotRequired[Annotated[str | None, Field("where it was found", when=_ENDPOINT)]]


class RunModel(TypedDict):
    """The model of a run."""

    name: Annotated[str, Field("as it was given")]
    type: Annotated[str, Field("its architecture; simulated; endpoint")]
    fingerprint: Annotated[str, Field("hash of its weights, or its address")]


class RunFiles(TypedDict):
    """What a text was read from."""

    files: Annotated[list[str], Field("where it came from; none: it was generated")]
    encodings: NotRequired[
        Annotated[
            dict[FileName, str], Field("what a file was read as", when="for files not in UTF-8")
        ]
    ]
    skipped: NotRequired[
        Annotated[
            dict[FileName, str], Field("why a file could not be read", when="where one could not")
        ]
    ]


class RunText(RunFiles):
    """The text of a run."""

    id: Annotated[str, Field("its name")]
    sha256: Annotated[str, Field("its hash")]
    tokens: Annotated[int, Field("by the model's tokenizer", "tokens")]


class NeedleGrid(TypedDict):
    """What is to be asked; may grow from session to session."""

    methods: Annotated[list[str], Field("in the order of tables and pictures")]
    lengths: Annotated[list[int], Field("ascending", "tokens")]
    depths: Annotated[
        list[float | None], Field("ascending; null: evidence all over the text", "percent")
    ]
    repeats: Annotated[int, Field("of each cell; with a stopping rule the most")]
    spread: NotRequired[
        Annotated[
            bool,
            Field(
                "true: a repeat is one sample at one of the depths in turn, each with a text of "
                "its own",
                when="with --samples",
            ),
        ]
    ]


class Settings(TypedDict):
    """What must not change from session to session."""

    model: Annotated[str, Field("hash of its weights, or its address")]
    dtype: Annotated[str, Field("of the computation")]
    kernel: Annotated[str, Field("--kernel, as it was asked for")]
    seed: Annotated[int, Field("--seed")]
    tokenizer_sha256: Annotated[str, Field("hash of the tokenizer")]


class NeedleSettings(Settings):
    """What must not change from session to session of `longctx needle`."""

    template: Annotated[str, Field("chat or none")]
    system: Annotated[str | None, Field("the system message; null: none")]
    answer_prefix: Annotated[str, Field("what the answer begins with")]
    answer_tokens: Annotated[int, Field("room for the answer", "tokens")]
    exact: Annotated[bool, Field("--exact: the length to the token, cut within sentences")]
    allow_repeat: Annotated[bool, Field("whether a short text may be repeated")]
    haystack_sha256: Annotated[str, Field("hash of the text")]
    template_sha256: Annotated[str, Field("hash of the chat template as it is applied")]
    wording_sha256: Annotated[str, Field("hash of the task's words")]
    temperature: Annotated[int, Field("0: the likeliest token, always")]
    repetition_penalty: Annotated[int, Field("1: none")]
    scorer: NotRequired[
        Annotated[
            Scorer,
            Field("--scorer: whose verdict is the score", when="older files lack it: `whole`"),
        ]
    ]
    task: NotRequired[Annotated[str, Field("--tasks", when="where it is not `needle`")]]
    language: NotRequired[Annotated[str, Field("--language", when="where it is not `en`")]]
    options: NotRequired[
        Annotated[dict[Option, Any], Field("of the task, by name", when="where a task has any")]
    ]
    boundary: NotRequired[Annotated[Boundary, Field("as in recipes", when=_NO_SENTENCES)]]
    texts: NotRequired[
        Annotated[
            Literal["own", "shared"],
            Field(
                "own: each cell has a text of its own; shared: --shared-texts",
                when="where the task has depths; older files lack it, and share",
            ),
        ]
    ]
    spread: NotRequired[
        Annotated[
            list[float | None],
            Field("the depths that samples have in turn", "percent", when="with --samples"),
        ]
    ]


class Stopping(TypedDict):
    """When a run that repeats where it tells most ends."""

    rule: Annotated[str, Field("in words")]
    threshold: Annotated[float, Field("of the score", "0-1")]
    most_repeats: Annotated[int, Field("of each cell")]
    budget_minutes: Annotated[float | None, Field("--budget-minutes", "minutes")]


class RunJson(TypedDict):
    """run.json, whatever the task."""

    schema: Annotated[int, Field("version of these files: 1")]
    created: Annotated[str, Field("when the folder was begun", "ISO 8601, UTC")]
    task: Annotated[str, Field("needle or perplexity")]
    schemes: Annotated[dict[Method, dict[str, Any]], Field("by method", fields=RunScheme)]
    model: Annotated[RunModel, Field("whom the run asks")]
    trained_length: Annotated[
        int | None, Field("the window that the model was trained on; null: unknown", "tokens")
    ]


class NeedleRunJson(RunJson):
    """run.json of `longctx needle`: what is measured, and by whom."""

    grid: Annotated[NeedleGrid, Field("what is to be asked")]
    settings: Annotated[NeedleSettings, Field("what must not change in this folder")]
    haystack: Annotated[RunText, Field("the text")]
    sessions: Annotated[list[NeedleSessionJson], Field("one for each start of the command")]
    stopping: NotRequired[Annotated[Stopping, Field("when it ends", when="with --adaptive")]]


class PerplexityGrid(TypedDict):
    """What is to be measured; may grow from session to session."""

    methods: Annotated[list[str], Field("in the order of tables and pictures")]
    lengths: Annotated[list[int], Field("ascending", "tokens")]


class PerplexitySettings(Settings):
    """What must not change from session to session of `longctx perplexity`."""

    bos: Annotated[str, Field("which token stands before every window, in words")]
    longest: Annotated[int, Field("of the lengths; documents are cut there", "tokens")]
    documents_sha256: Annotated[str, Field("hash of the documents' hashes")]


class View(TypedDict):
    """Which tokens a figure is about."""

    metric: Annotated[str, Field("prefix, window, position or rolling")]
    stride: Annotated[int | None, Field("from window to window, of `window`", "tokens")]
    window: Annotated[int | None, Field("width of a bin, of `position`", "tokens")]


class RunDocument(TypedDict):
    """A document of a run."""

    id: Annotated[str, Field("its name")]
    sha256: Annotated[str, Field("hash of its text")]
    bytes: Annotated[int, Field("of its text", "bytes")]


class Texts(TypedDict):
    """The documents, without where they lie."""

    id: Annotated[str, Field("their name together")]
    left_out: Annotated[int, Field("texts that were too short")]
    documents: Annotated[list[RunDocument], Field("in order")]


class RunTexts(Texts, RunFiles):
    """The documents of a run."""


class PerplexityRunJson(RunJson):
    """run.json of `longctx perplexity`: what is measured."""

    grid: Annotated[PerplexityGrid, Field("what is to be measured")]
    settings: Annotated[PerplexitySettings, Field("what must not change in this folder")]
    view: Annotated[View, Field("which tokens a figure is about")]
    text: Annotated[RunTexts, Field("the documents")]
    by_length: Annotated[list[str], Field("methods whose losses depend on the length of the pass")]
    sessions: Annotated[list[SessionJson], Field("one for each start of the command")]


class TallyFigures(TypedDict):
    """What is known about some samples."""

    n: Annotated[int, Field("samples that were scored")]
    k: Annotated[int, Field("of these, wholly right")]
    score: Annotated[float | None, Field("their mean; null where n is 0", "0-1")]
    low: Annotated[float | None, Field("lower bound of the 95 % interval", "0-1")]
    high: Annotated[float | None, Field("upper bound", "0-1")]
    states: Annotated[States, Field("samples by state, `not_run` among them")]


class EffectiveFigures(TypedDict):
    """Up to where a method can be relied on."""

    rule: Annotated[str, Field("what passes")]
    length: Annotated[int | None, Field("null: below the shortest, or too few samples", "tokens")]
    at_least: Annotated[bool, Field("whether no tested length failed")]
    enough_samples: Annotated[bool, Field("whether there were enough to tell")]
    samples: Annotated[int, Field("scored at the length that ends it, else the fewest at any")]
    needed: Annotated[int, Field("samples that can pass at the least, or texts")]
    texts: Annotated[int | None, Field("as samples, of texts; null where samples share none")]
    last_pass: Annotated[int | None, Field("the last length that passed", "tokens")]
    first_fail: Annotated[int | None, Field("the first that failed", "tokens")]
    ruler: Annotated[int | None, Field("by RULER's rule", "tokens")]
    nolima: Annotated[int | None, Field("by NoLiMa's rule", "tokens")]
    max_tested: Annotated[int | None, Field("the longest length", "tokens")]


class MethodFigures(TypedDict):
    """The figures of a method."""

    scheme: Annotated[dict[str, Any], Field("as in run.json", fields=RunScheme)]
    effective_length: Annotated[int | None, Field("effective.length again", "tokens")]
    effective: Annotated[EffectiveFigures, Field("up to where it can be relied on")]
    lengths: Annotated[
        dict[Length, TallyFigures],
        Field("over all depths; bounds allow for shared texts and for looks"),
    ]
    cells: Annotated[
        dict[Depth, dict[Length, TallyFigures]], Field("by depth and length; Wilson's bounds")
    ]


class ControlFigures(TypedDict):
    """Whether the map can tell success from failure."""

    closed_book: Annotated[float | None, Field("score without the needle", "0-1")]
    shortest: Annotated[float | None, Field("the best method's at the shortest length", "0-1")]
    discriminative: Annotated[bool | None, Field("null: not known yet")]
    reasons: Annotated[list[str], Field("why not")]


class Failure(TypedDict):
    """A cell that failed: it is asked again by the same command."""

    method: Annotated[str, Field("its method")]
    length: Annotated[int, Field("its length", "tokens")]
    depth: Annotated[float | None, Field("its depth", "percent")]
    repeat: Annotated[int, Field("its repeat")]
    error: Annotated[str | None, Field("what was said")]


_SUPERSEDED = (
    "records of a place that a newer record has too, and that no figure counts: an older version "
    "took the temperature at another length"
)


class NeedleSummary(TypedDict):
    """summary.json: the figures of a needle run. Made anew from the records at any time."""

    schema: Annotated[int, Field("version of these files: 1")]
    task: Annotated[str, Field("needle")]
    model: Annotated[str, Field("its name")]
    haystack: Annotated[RunText, Field("as in run.json")]
    trained_length: Annotated[int | None, Field("as in run.json", "tokens")]
    texts: Annotated[
        Literal["own", "shared"],
        Field("own: one for every cell; shared: one for a repeat's depths"),
    ]
    stopping: Annotated[Stopping | None, Field("as in run.json; null: a fixed grid")]
    states: Annotated[States, Field("samples by state, `not_run` among them")]
    superseded: Annotated[int, Field(_SUPERSEDED)]
    methods: Annotated[dict[Method, MethodFigures], Field("by method")]
    controls: Annotated[ControlFigures, Field("whether the map tells success from failure")]
    failures: Annotated[list[Failure], Field("cells that failed")]


class DifferenceJson(TypedDict):
    """Of a method and the first one, on the same tokens."""

    against: Annotated[str, Field("the first method")]
    documents: Annotated[int, Field("that both have")]
    tokens: Annotated[int, Field("that both have", "tokens")]
    mean: Annotated[float, Field("of the losses, less those of `against`", "nats")]
    low: Annotated[float, Field("lower bound of the 95 % interval", "nats")]
    high: Annotated[float, Field("upper bound", "nats")]
    interval_by: Annotated[str, Field("what the bootstrap drew: documents or blocks")]


class LengthFigures(TypedDict):
    """The figures of a method at a length."""

    documents: Annotated[int, Field("that have a pass")]
    tokens: Annotated[int, Field("that the figure is about", "tokens")]
    nll: Annotated[float, Field("their mean loss", "nats")]
    perplexity: Annotated[float, Field("its exponential")]
    low: Annotated[float, Field("lower bound of the 95 % interval of the perplexity")]
    high: Annotated[float, Field("upper bound")]
    interval_by: Annotated[str, Field("what the bootstrap drew: documents or blocks")]
    perplexity_macro: Annotated[float, Field("mean over documents of each one's perplexity")]
    bits_per_byte: Annotated[float | None, Field("of the text; null: it has none", "bits")]
    second_half: Annotated[
        float | None, Field("perplexity of the second half of the tokens; null: not of `prefix`")
    ]
    difference: NotRequired[
        Annotated[DifferenceJson, Field("to the first method", when="but for the first method")]
    ]


class BinFigures(TypedDict):
    """Perplexity at a place of the documents."""

    start: Annotated[int, Field("first position", "tokens")]
    end: Annotated[int, Field("the one behind the last", "tokens")]
    perplexity: Annotated[float, Field("of the tokens there")]


class PerplexityMethod(TypedDict):
    """The figures of a method."""

    scheme: Annotated[dict[str, Any], Field("as in run.json", fields=RunScheme)]
    one_pass: Annotated[bool, Field("whether one pass holds all lengths")]
    lengths: Annotated[dict[Length, LengthFigures | None], Field("null: nothing measured yet")]
    bins: NotRequired[
        Annotated[list[BinFigures], Field("by position", when="with --metric position")]
    ]


class PerplexityFailure(TypedDict):
    """A pass that failed: it is made again by the same command."""

    method: Annotated[str, Field("its method")]
    tokens: Annotated[int, Field("how much of the document", "tokens")]
    window: Annotated[int, Field("how much at once", "tokens")]
    error: Annotated[str | None, Field("what was said")]
    document: Annotated[str, Field("its name")]


class PerplexitySummary(TypedDict):
    """perplexity.json: the figures of a perplexity run."""

    schema: Annotated[int, Field("version of these files: 1")]
    task: Annotated[str, Field("perplexity")]
    model: Annotated[str, Field("its name")]
    metric: Annotated[str, Field("prefix, window, position or rolling")]
    stride: Annotated[int | None, Field("from window to window, of `window`", "tokens")]
    window: Annotated[int | None, Field("width of a bin, of `position`", "tokens")]
    meaning: Annotated[str, Field("which tokens a figure is about, in words")]
    bos: Annotated[str, Field("which token stands before every window, in words")]
    text: Annotated[Texts, Field("the documents")]
    tokens_per_document: Annotated[int, Field("the longest length", "tokens")]
    trained_length: Annotated[int | None, Field("as in run.json", "tokens")]
    states: Annotated[States, Field("passes by state, `not_run` among them")]
    superseded: Annotated[int, Field(_SUPERSEDED)]
    methods: Annotated[dict[Method, PerplexityMethod], Field("by method")]
    failures: Annotated[list[PerplexityFailure], Field("passes that failed")]


class TaskFigures(TypedDict):
    """A task at a length."""

    n: Annotated[int, Field("samples that were scored")]
    score: Annotated[float, Field("their mean, by the run's scorer", "0-1")]
    low: Annotated[float, Field("lower bound of its 95 % interval", "0-1")]
    high: Annotated[float, Field("upper bound", "0-1")]
    score_ruler: Annotated[float, Field("the mean by RULER's scorer", "0-1")]
    cut_off: Annotated[int, Field("of the samples, answers that the token budget cut off")]
    missing: Annotated[int, Field("samples without a score: errors, overflows, not run")]


class MeanFigures(TypedDict):
    """The mean over RULER's tasks at a length."""

    tasks: Annotated[int, Field("how many of them have a score there")]
    of: Annotated[int, Field("how many RULER means: 13. With fewer it is not RULER's score")]
    score: Annotated[float, Field("each task counts once; by the run's scorer", "0-1")]
    low: Annotated[float, Field("lower bound of its 95 % interval", "0-1")]
    high: Annotated[float, Field("upper bound", "0-1")]
    score_ruler: Annotated[float, Field("the mean by RULER's scorer", "0-1")]
    low_ruler: Annotated[float, Field("its lower bound", "0-1")]
    high_ruler: Annotated[float, Field("its upper bound", "0-1")]


class TasksArm(TypedDict):
    """A method of a model."""

    model: Annotated[str, Field("its name")]
    method: Annotated[str, Field("its name")]
    tasks: Annotated[
        dict[Task, dict[Length, TaskFigures | None]], Field("null where nothing was scored")
    ]
    mean: Annotated[
        dict[Length, MeanFigures | None], Field("null where no task of RULER's has a score")
    ]
    ruler_effective_length: Annotated[
        int | None,
        Field(
            "the last length before the first whose mean by RULER's scorer is below 0.856; null: "
            "below the shortest, or fewer than thirteen tasks",
            "tokens",
        ),
    ]
    ruler_effective: Annotated[str, Field("the same in words")]


class TasksTable(TypedDict):
    """tasks.json: several tasks side by side, of one model or several."""

    lengths: Annotated[list[int], Field("ascending", "tokens")]
    arms: Annotated[list[TasksArm], Field("a method of a model each")]


# The files of a run folder and what stands in each, in the order in which they are described.
FILES: Mapping[str, tuple[type, ...]] = {
    "run.json": (NeedleRunJson, PerplexityRunJson),
    "results.jsonl": (NeedleRecord,),
    "controls.jsonl": (ControlRecord,),
    "summary.json": (NeedleSummary,),
    "perplexity.jsonl": (PerplexityRecord,),
    "perplexity.json": (PerplexitySummary,),
    "tasks.json": (TasksTable,),
}
