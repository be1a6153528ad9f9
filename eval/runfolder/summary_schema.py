"""summary.json, perplexity.json and tasks.json, field by field: figures made of the records."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from longctx.eval.runfolder.run_schema import RunText, Stopping, Texts
from longctx.eval.runfolder.schema_parts import (
    Depth,
    Field,
    Length,
    Method,
    RunScheme,
    States,
    Task,
)


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
