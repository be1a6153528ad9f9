"""run.json, field by field: what is measured, by whom, and the sessions that did it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from longctx.eval.runfolder.schema_parts import (
    NO_SENTENCES,
    Field,
    FileName,
    Method,
    Option,
    Package,
    RunScheme,
)
from longctx.eval.scoring import Scorer
from longctx.eval.texts.text import Boundary


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
    quantize: NotRequired[
        Annotated[str, Field("--quantize", when=f"{_LOCAL}; older files lack it")]
    ]
    kv_dtype: NotRequired[
        Annotated[
            str,
            Field("what keys and values are kept in", when=f"{_LOCAL}; older files lack it"),
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
    boundary: NotRequired[Annotated[Boundary, Field("as in recipes", when=NO_SENTENCES)]]
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
    first_repeats: NotRequired[
        Annotated[
            int,
            Field(
                "of each cell, before close lengths are looked at again: once, to most_repeats",
                when="without --adaptive",
            ),
        ]
    ]


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
    stopping: NotRequired[
        Annotated[
            Stopping,
            Field(
                "when it ends", when="with --adaptive, and where close lengths are looked at again"
            ),
        ]
    ]


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
