"""The options of `longctx needle`, which are the keys of an entry of `longctx compare` as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from longctx.chat.encoder import TemplateStyle
from longctx.errors import UserError
from longctx.eval.gpus import GPUS
from longctx.eval.needle.config import MORE_REPEATS, NeedleConfig, parse_depths, parse_lengths
from longctx.eval.needle.needle import LANGUAGE, TASK
from longctx.eval.needle.presets import PRESETS
from longctx.eval.tasks import parse_tasks
from longctx.eval.tasks.styles import NAMES
from longctx.options import shared
from longctx.options.declare import Argument, Option, options_of
from longctx.options.engine import EngineSettings
from longctx.options.shared import EMBEDDED_METHODS, MACHINE, SWEEP, length_words, read_methods

_PROMPT, _ENDPOINT = "Prompt", "Endpoint"
# What is run where the user names no model.
EMBEDDED_SWEEP = NeedleConfig(lengths=(256, 512, 1024, 2048, 4096, 8192))
ADAPTIVE_REPEATS = 10
_PRESETS = "; ".join(f"{name}: {preset.words}" for name, preset in PRESETS.items())


def _read_tasks(text: str, _flag: str) -> tuple[str, ...]:
    return parse_tasks(text)


@dataclass(frozen=True)
class NeedleOptions:
    """What was said. None, or nothing, stands where a rule decides: runs/settle.py."""

    model: Annotated[
        str,
        Argument(
            "Model directory, hub id, or .gguf file; with --base-url the server's name for "
            "it; or simulated: sim:perfect, sim:window=N, sim:lost-middle, sim:flaky, "
            "sim:clustered=P,RHO. Default: the embedded tiny model, trained on 512 tokens for this "
            "task."
        ),
    ] = ""
    tasks: Annotated[
        tuple[str, ...],
        Option(
            f"What to ask, with commas; `longctx tasks` lists them. Default: {TASK}.",
            SWEEP,
            _read_tasks,
        ),
    ] = ()
    preset: Annotated[
        str | None,
        Option(f"Lengths, depths, repeats and tasks by name; flags win. {_PRESETS}.", SWEEP),
    ] = None
    methods: Annotated[
        tuple[str, ...] | None,
        Option(
            "Position schemes to compare, e.g. none,yarn,dca,yarn+dca. Default: none and the "
            f"model family's; embedded model: {','.join(EMBEDDED_METHODS)}.",
            SWEEP,
            read_methods,
        ),
    ] = None
    lengths: Annotated[
        tuple[int, ...] | None,
        Option(
            f"Prompt lengths in tokens, K = 1024. Default: {length_words(NeedleConfig.lengths)}; "
            f"embedded model: {length_words(EMBEDDED_SWEEP.lengths)}.",
            SWEEP,
            parse_lengths,
        ),
    ] = None
    depths: Annotated[
        tuple[float, ...] | None,
        Option(
            "Needle depths in percent (0 is the start), as 10,50,90 or 50%; or how many, as 11 or "
            f"n=41. Default: {len(NeedleConfig.depths)}.",
            SWEEP,
            parse_depths,
        ),
    ] = None
    repeats: Annotated[
        int | None,
        Option(
            f"Samples per cell. Default: {NeedleConfig.repeats}, and {MORE_REPEATS} more at "
            "lengths that are close (see --no-second-look).",
            SWEEP,
        ),
    ] = None
    second_look: Annotated[
        bool,
        Option(
            f"Do not ask {MORE_REPEATS} repeats more at a length at which a method just missed an "
            "effective length (1 or 2 misses of 22). That is done where nothing else says how "
            "many: --repeats, --adaptive, --samples, --shared-texts, --limit, a preset.",
            SWEEP,
            name="no_second_look",
            negated=True,
        ),
    ] = True
    shared_texts: Annotated[
        bool,
        Option(
            "The depths of a repeat share one text, and its prefill: faster, for maps. Intervals "
            "then allow for it, and are wide. Default: a text for every cell; in a run folder "
            "that has records, as it was begun.",
            SWEEP,
        ),
    ] = False
    samples: Annotated[
        int | None,
        Option(
            "Samples of a task and length, in place of --repeats: each has a text of its own and "
            "one of the depths in turn, as in RULER (which has 500). Default of ruler-13 and "
            f"ruler-11: {PRESETS['ruler-13'].samples}.",
            SWEEP,
        ),
    ] = None
    seed: Annotated[int, Option("Varies needle, wording and place in the text.", SWEEP)] = (
        NeedleConfig.seed
    )
    adaptive: Annotated[
        bool,
        Option(
            "Repeat lengths that are in doubt, and only those; --repeats is the most. "
            f"Default of --repeats then: {ADAPTIVE_REPEATS}.",
            SWEEP,
        ),
    ] = NeedleConfig.adaptive
    budget_minutes: Annotated[
        float | None,
        Option("Start no cell after so many minutes; the same command goes on.", SWEEP),
    ] = NeedleConfig.budget_minutes
    limit: shared.Limit = NeedleConfig.limit
    output: shared.Output = None
    haystack: Annotated[
        str | None,
        Option(
            "The text to search in: a file (text, PDF), a directory (also of source code) or "
            "a glob. Default: generated prose.",
            _PROMPT,
        ),
    ] = None
    encoding: shared.Encoding = None
    strict: shared.Strict = False
    language: Annotated[str, Option("Of needle and generated prose.", _PROMPT)] = LANGUAGE
    needle: Annotated[
        str,
        Option(f"What the task needle hides: {', '.join(NAMES)}, or a .yaml file.", _PROMPT),
    ] = NAMES[0]
    qa: Annotated[
        str | None,
        Option(
            "Questions and documents of qa_1 and qa_2, JSON: one file, or two with a comma.",
            _PROMPT,
        ),
    ] = None
    distractors: Annotated[int | None, Option("Look-alikes of the task distractors.", _PROMPT)] = (
        None
    )
    hops: Annotated[int | None, Option("Hops of the task uuid_chain.", _PROMPT)] = None
    template: Annotated[
        TemplateStyle, Option("chat: the model's own template; none: plain text.", _PROMPT)
    ] = NeedleConfig.template
    system: Annotated[str | None, Option("System message.", _PROMPT)] = NeedleConfig.system
    answer_prefix: Annotated[
        str | None,
        Option(
            "Put after the assistant's header, not scored; {key} is the needle's name, '' is "
            "none. Default: the task's.",
            _PROMPT,
        ),
    ] = None
    scorer: Annotated[
        str,
        Option(
            "Whose verdict is the score: whole (references as words of their own, thinking "
            "stripped), or ruler (RULER's: anywhere in the response). Records keep both.",
            _PROMPT,
        ),
    ] = NeedleConfig.scorer
    exact: Annotated[bool, Option("Exactly the length, cutting mid-sentence.", _PROMPT)] = (
        NeedleConfig.exact
    )
    allow_repeat: Annotated[bool, Option("Repeat too short a text.", _PROMPT)] = (
        NeedleConfig.allow_repeat
    )
    chunk_size: shared.ChunkSize = None
    local_size: shared.LocalSize = None
    original_length: shared.OriginalLength = None
    cap: shared.Cap = None
    factor: shared.Factor = None
    engine: shared.ComputedBy = "longctx"
    kernel: shared.Kernel = EngineSettings.kernel
    dtype: shared.Dtype = shared.AUTO
    quantize: shared.Quantize = shared.PLAIN
    kv_dtype: shared.KvDtype = shared.AUTO
    device_map: shared.DeviceMap = shared.AUTO
    prefill_chunk: shared.PrefillChunk = 2048
    prefix_sharing: Annotated[
        bool,
        Option(
            "Compute every prompt from its first token.",
            MACHINE,
            name="no_prefix_sharing",
            negated=True,
        ),
    ] = True
    ray: Annotated[
        bool,
        Option(
            "Compute in Ray workers that hold the model each, on the cluster of RAY_ADDRESS or on "
            "this machine.",
            MACHINE,
        ),
    ] = False
    ray_workers: Annotated[
        int | None,
        Option(
            "How many, with --ray. Default: one for each GPU, or for each machine without one.",
            MACHINE,
        ),
    ] = None
    gpu: Annotated[
        str | None,
        Option(
            f"With --dry-run: what it would take on such a GPU, by its data sheet: "
            f"{', '.join(GPUS)}.",
            MACHINE,
        ),
    ] = None
    base_url: Annotated[
        str | None,
        Option(
            "Ask an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1. Its key is "
            "LONGCTX_API_KEY or OPENAI_API_KEY.",
            _ENDPOINT,
        ),
    ] = None
    tokenizer: Annotated[
        str | None, Option("The served model's tokenizer: a directory or a hub id.", _ENDPOINT)
    ] = None
    api: Annotated[
        str,
        Option(
            "chat: messages, without --answer-prefix; completions: our prompt as token ids.",
            _ENDPOINT,
        ),
    ] = "chat"
    concurrency: Annotated[int, Option("Requests at once.", _ENDPOINT)] = 1
    timeout: Annotated[float, Option("Seconds for a request.", _ENDPOINT)] = 600.0
    palette: shared.Palette = "default"
    dry_run: shared.DryRun = False
    json: shared.Json = False

    # No option: one of several tasks, which leaves out the lengths that are too short for it.
    several: bool = False
    # No options: what runs/settle.py makes of them. A task's own are None where it has a default.
    task_options: Mapping[str, Any] = field(default_factory=dict)
    # Its task, language, options and answer budget are settled for each task in needle_prepare.
    config: NeedleConfig = field(default_factory=NeedleConfig)


def refuse_local(options: NeedleOptions, reason: str) -> None:
    """
    Raises:
        UserError: a flag of local models was given, and what is measured has no use for it.
    """
    local = {
        *("methods", "chunk_size", "local_size", "cap", "factor", "kernel", "dtype", "device_map"),
        *("quantize", "kv_dtype", "prefill_chunk", "prefix_sharing", "gpu", "engine"),
        *("ray", "ray_workers"),
    }
    for option in options_of(NeedleOptions):
        value = getattr(options, option.field)
        if option.field in local and value != option.default:
            shown = ",".join(value) if isinstance(value, tuple) else value
            said = option.flag if isinstance(value, bool) else f"{option.flag} {shown}"
            raise UserError(f"{said}: {reason}: leave {option.flag} out")
