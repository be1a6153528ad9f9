"""`longctx needle`: the command's arguments. What it does is in runs/needle.py.

Imports nothing heavy: `longctx --help` reads this file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from longctx.commands import options
from longctx.commands.options import NeedleOptions
from longctx.errors import UserError
from longctx.eval.format import show_length
from longctx.eval.needle.config import NeedleConfig, parse_depths, parse_lengths, parse_methods
from longctx.eval.needle.needle import TASK
from longctx.eval.needle.presets import PRESETS, Preset
from longctx.eval.tasks import get as get_task
from longctx.eval.tasks import parse_tasks
from longctx.eval.tasks.styles import NAMES, read_style
from longctx.models.source import SIMULATED
from longctx.tiny import EMBEDDED

# What begins so is a simulated model's name.
_PROMPT, _ENDPOINT = "Prompt", "Endpoint"
# What is run where the user names no model: enough to see what each method does.
_EMBEDDED_METHODS = ("none", "yarn", "dca", "yarn+dca")
_EMBEDDED_SWEEP = NeedleConfig(
    lengths=(256, 512, 1024, 2048, 4096, 8192), depths=parse_depths("11"), repeats=2
)


_defaults, _options = NeedleConfig(), NeedleOptions("")
PALETTE = _options.palette
Palette = Annotated[
    str,
    typer.Option(help="Colours of the map: default or classic.", rich_help_panel=options.MACHINE),
]


def _lengths_words(config: NeedleConfig) -> str:
    return ",".join(show_length(length) for length in config.lengths)


_ADAPTIVE_REPEATS = 10


def _preset_words() -> str:
    return "; ".join(f"{name}: {preset.words}" for name, preset in PRESETS.items())


_DEPTHS = ",".join(f"{depth:g}" for depth in _defaults.depths)
_PREFILL_CHUNK = show_length(_options.prefill_chunk)


def needle_options(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model directory, hub id, or .gguf file; with --base-url the server's name for "
            "it; or simulated: sim:perfect, sim:window=N, sim:lost-middle, sim:flaky. Default: the "
            "embedded tiny model, trained on 512 tokens for this task.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help=f"What to ask, with commas; `longctx tasks` lists them. Default: {TASK}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Lengths, depths, repeats and tasks by name; flags win. {_preset_words()}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Position schemes to compare, e.g. none,yarn,dca,yarn+dca. Default: none and the "
            f"model family's; embedded model: {','.join(_EMBEDDED_METHODS)}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help=f"Prompt lengths in tokens, K = 1024. Default: {_lengths_words(_defaults)}; "
            f"embedded model: {_lengths_words(_EMBEDDED_SWEEP)}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(
            help="Needle depths in percent (0 is the start), or one number: how many. Default: "
            f"{_DEPTHS}; embedded model: {len(_EMBEDDED_SWEEP.depths)}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            help=f"Samples per cell. Default: {_defaults.repeats}; embedded model: "
            f"{_EMBEDDED_SWEEP.repeats}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Varies needle, wording and place in the text.", rich_help_panel=options.SWEEP
        ),
    ] = _defaults.seed,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Repeat lengths that are in doubt, and only those; --repeats is the most. "
            f"Default of --repeats then: {_ADAPTIVE_REPEATS}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = False,
    budget_minutes: Annotated[
        float | None,
        typer.Option(
            help="Start no cell after so many minutes; the same command goes on.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    limit: options.Limit = None,
    output: options.Output = None,
    haystack: Annotated[
        str | None,
        typer.Option(
            help="The text to search in: a file (text, PDF), a directory (also of source code) or "
            "a glob. Default: generated prose.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(help="Of needle and generated prose.", rich_help_panel=_PROMPT)
    ] = _options.language,
    needle: Annotated[
        str,
        typer.Option(
            help=f"What the task needle hides: {', '.join(NAMES)}, or a .yaml file.",
            rich_help_panel=_PROMPT,
        ),
    ] = NAMES[0],
    qa: Annotated[
        str | None,
        typer.Option(
            help="Questions and documents of qa_1 and qa_2, JSON: one file, or two with a comma.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    distractors: Annotated[
        int | None,
        typer.Option(help="Look-alikes of the task distractors.", rich_help_panel=_PROMPT),
    ] = None,
    hops: Annotated[
        int | None, typer.Option(help="Hops of the task uuid_chain.", rich_help_panel=_PROMPT)
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            help="chat: the model's own template; none: plain text.", rich_help_panel=_PROMPT
        ),
    ] = _defaults.template,
    system: Annotated[
        str | None, typer.Option(help="System message.", rich_help_panel=_PROMPT)
    ] = None,
    answer_prefix: Annotated[
        str | None,
        typer.Option(
            help="Put after the assistant's header, not scored; {key} is the needle's name, '' is "
            "none. Default: the task's.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Exactly the length, cutting mid-sentence.",
            rich_help_panel=_PROMPT,
        ),
    ] = False,
    allow_repeat: Annotated[
        bool,
        typer.Option("--allow-repeat", help="Repeat too short a text.", rich_help_panel=_PROMPT),
    ] = False,
    chunk_size: options.ChunkSize = None,
    local_size: options.LocalSize = None,
    original_length: options.OriginalLength = None,
    cap: options.Cap = None,
    factor: options.Factor = None,
    kernel: options.Kernel = options.DEFAULTS.kernel,
    dtype: options.Dtype = options.DEFAULTS.dtype,
    device_map: options.DeviceMap = options.DEFAULTS.device_map,
    prefill_chunk: options.PrefillChunk = _PREFILL_CHUNK,
    no_prefix_sharing: Annotated[
        bool,
        typer.Option(
            "--no-prefix-sharing",
            help="Compute every prompt from its first token.",
            rich_help_panel=options.MACHINE,
        ),
    ] = not _options.prefix_sharing,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Ask an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1. Its key is "
            "LONGCTX_API_KEY or OPENAI_API_KEY.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="The served model's tokenizer: a directory or a hub id.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = None,
    api: Annotated[
        str,
        typer.Option(
            help="chat: messages, without --answer-prefix; completions: our prompt as token ids.",
            rich_help_panel=_ENDPOINT,
        ),
    ] = _options.api,
    concurrency: Annotated[
        int, typer.Option(help="Requests at once.", rich_help_panel=_ENDPOINT)
    ] = _options.concurrency,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a request.", rich_help_panel=_ENDPOINT)
    ] = _options.timeout,
    palette: Palette = PALETTE,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> NeedleOptions:
    """Hide a number in a long text and ask for it: a map over lengths and depths, per method."""
    embedded = base_url is None and model in (None, EMBEDDED)
    simulated = base_url is None and model is not None and model.startswith(SIMULATED)
    chosen_preset = _preset(preset)
    sweep = chosen_preset or (_EMBEDDED_SWEEP if embedded or simulated else _defaults)
    asked = parse_tasks(tasks) if tasks is not None else None
    most = _ADAPTIVE_REPEATS if adaptive else sweep.repeats
    chosen = None if methods is None else parse_methods(methods)
    running = asked or (chosen_preset.tasks if chosen_preset else (TASK,))
    task_options = {
        "needle": read_style(needle, language),
        "distractors": distractors,
        "hops": hops,
    }
    _check_use(running, {**task_options, "qa": qa, "haystack": haystack})
    config = NeedleConfig(
        lengths=sweep.lengths if lengths is None else parse_lengths(lengths),
        depths=sweep.depths if depths is None else parse_depths(depths),
        repeats=most if repeats is None else repeats,
        seed=seed,
        template=template,  # type: ignore[arg-type]  # checked by the config
        system=system,
        exact=exact,
        allow_repeat=allow_repeat,
        limit=limit,
        adaptive=adaptive,
        budget_minutes=budget_minutes,
    )
    return NeedleOptions(
        model=model or ("" if base_url else EMBEDDED),
        haystack=haystack,
        tasks=running,
        language=language,
        task_options=task_options,
        qa=qa,
        preset=preset,
        answer_prefix=answer_prefix,
        methods=_EMBEDDED_METHODS if embedded and chosen is None else chosen,
        config=config,
        output=output,
        chunk_size=options.tokens(chunk_size, "--chunk-size"),
        local_size=options.tokens(local_size, "--local-size"),
        original_length=options.tokens(original_length, "--original-length"),
        cap=cap,
        factor=factor,
        kernel=kernel,
        dtype=dtype,
        device_map=device_map,
        prefill_chunk=options.tokens(prefill_chunk, "--prefill-chunk") or _options.prefill_chunk,
        prefix_sharing=not no_prefix_sharing,
        palette=palette,
        base_url=base_url,
        tokenizer=tokenizer,
        api=api,
        concurrency=concurrency,
        timeout=timeout,
        dry_run=dry_run,
        json=json,
    )


# The signature above is the command's as well: there is one list of options.
@functools.wraps(needle_options)
def needle(**arguments: Any) -> None:
    from longctx.runs.needle_tasks import run

    raise typer.Exit(run(needle_options(**arguments)))


needle.__name__ = "needle"  # what the command is called


def _check_use(names: tuple[str, ...], given: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: a flag that no task of this run reads.
    """
    abouts = [get_task(name).about for name in names]
    read = {option for about in abouts for option, _ in about.options}
    read |= {"qa" if about.questions else "haystack" for about in abouts}
    for name, value in given.items():
        if value is not None and name not in read:
            shown = f"--{name} {'' if isinstance(value, Mapping) else value}".strip()
            raise UserError(
                f"{shown}: {', '.join(names)} does not read it: leave it out, or add the task that "
                "it is for to --tasks"
            )


def _preset(name: str | None) -> Preset | None:
    if name is not None and name not in PRESETS:
        raise UserError(f"--preset {name}: not known: use {', '.join(PRESETS)}")
    return None if name is None else PRESETS[name]
