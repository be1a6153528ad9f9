"""`longctx needle`: the command's arguments. What it does is in needle_run.

Imports nothing heavy: `longctx --help` reads this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from longctx.errors import UserError
from longctx.eval.config import (
    NeedleConfig,
    parse_depths,
    parse_lengths,
    parse_methods,
    show_length,
)
from longctx.tiny import EMBEDDED

# What is run where the user names no model: enough to see what each method does.
_EMBEDDED_METHODS = ("none", "yarn", "dca", "yarn+dca")
_EMBEDDED_SWEEP = NeedleConfig(
    lengths=(256, 512, 1024, 2048, 4096, 8192), depths=parse_depths("11"), repeats=2
)


@dataclass(frozen=True)
class NeedleOptions:
    """The command's arguments. None stands where a rule decides."""

    model: str
    haystack: str | None = None
    methods: tuple[str, ...] | None = None
    config: NeedleConfig = field(default_factory=NeedleConfig)
    output: Path | None = None
    chunk_size: int | None = None
    local_size: int | None = None
    original_length: int | None = None
    cap: str | None = None
    factor: float | None = None
    kernel: str = "auto"
    dtype: str = "auto"
    device_map: str = "auto"
    prefill_chunk: int = 2048
    prefix_sharing: bool = True
    palette: str = "default"
    dry_run: bool = False
    json: bool = False


_SWEEP, _TEXT, _SCHEME, _MACHINE = "Sweep", "Prompt", "Position scheme", "Model and machine"
_defaults, _options = NeedleConfig(), NeedleOptions("")


def _lengths_words(config: NeedleConfig) -> str:
    return ",".join(show_length(length) for length in config.lengths)


_DEPTHS = ",".join(f"{depth:g}" for depth in _defaults.depths)


def needle(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model directory, hub id, or .gguf file. Default: the embedded tiny model, "
            "trained on 512 tokens for this task.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Position schemes to compare, e.g. none,yarn,dca,yarn+dca. Default: none and the "
            f"model family's; embedded model: {','.join(_EMBEDDED_METHODS)}.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help=f"Prompt lengths in tokens, K = 1024. Default: {_lengths_words(_defaults)}; "
            f"embedded model: {_lengths_words(_EMBEDDED_SWEEP)}.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(
            help="Needle depths in percent (0 is the start), or one number: how many. Default: "
            f"{_DEPTHS}; embedded model: {len(_EMBEDDED_SWEEP.depths)}.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            help=f"Samples per cell. Default: {_defaults.repeats}; embedded model: "
            f"{_EMBEDDED_SWEEP.repeats}.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Varies needle, wording and place in the text.", rich_help_panel=_SWEEP),
    ] = _defaults.seed,
    limit: Annotated[
        int | None, typer.Option(help="At most this many cells now.", rich_help_panel=_SWEEP)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; a run goes on where it stopped. Default: below runs/.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    haystack: Annotated[
        str | None,
        typer.Option(
            help="The text to search in: a file, a directory or a glob. Default: generated prose.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            help="chat: the model's own template; none: plain text.", rich_help_panel=_TEXT
        ),
    ] = _defaults.template,
    system: Annotated[
        str | None, typer.Option(help="System message.", rich_help_panel=_TEXT)
    ] = None,
    answer_prefix: Annotated[
        str,
        typer.Option(
            help="Put after the assistant's header, not scored; {key} is the needle's name, '' is "
            "none.",
            rich_help_panel=_TEXT,
        ),
    ] = _defaults.answer_prefix,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Exactly the length, cutting mid-sentence.", rich_help_panel=_TEXT
        ),
    ] = False,
    allow_repeat: Annotated[
        bool,
        typer.Option("--allow-repeat", help="Repeat too short a text.", rich_help_panel=_TEXT),
    ] = False,
    chunk_size: Annotated[
        str | None, typer.Option(help="DCA chunk, tokens.", rich_help_panel=_SCHEME)
    ] = None,
    local_size: Annotated[
        str | None, typer.Option(help="DCA local window, tokens.", rich_help_panel=_SCHEME)
    ] = None,
    original_length: Annotated[
        str | None, typer.Option(help="Trained window, tokens.", rich_help_panel=_SCHEME)
    ] = None,
    cap: Annotated[
        str | None,
        typer.Option(
            help="Largest relative position of DCA: chunk_size or chunk_size-1.",
            rich_help_panel=_SCHEME,
        ),
    ] = None,
    factor: Annotated[
        float | None,
        typer.Option(
            help="Extension factor of pi, ntk, yarn, yarn-freqs+dca. Default: from the longest "
            "length.",
            rich_help_panel=_SCHEME,
        ),
    ] = None,
    kernel: Annotated[
        str,
        typer.Option(
            help="Attention kernel of DCA; `longctx info` lists them.", rich_help_panel=_MACHINE
        ),
    ] = _options.kernel,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_MACHINE)
    ] = _options.dtype,
    device_map: Annotated[
        str,
        typer.Option(help="auto, cpu, cuda, or what accelerate takes.", rich_help_panel=_MACHINE),
    ] = _options.device_map,
    prefill_chunk: Annotated[
        str, typer.Option(help="Prompt tokens per forward pass.", rich_help_panel=_MACHINE)
    ] = show_length(_options.prefill_chunk),
    no_prefix_sharing: Annotated[
        bool,
        typer.Option(
            "--no-prefix-sharing",
            help="Compute every prompt from its first token.",
            rich_help_panel=_MACHINE,
        ),
    ] = not _options.prefix_sharing,
    palette: Annotated[
        str, typer.Option(help="Colours of the map: default or classic.", rich_help_panel=_MACHINE)
    ] = _options.palette,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; load no weights.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of stdout.")
    ] = False,
) -> None:
    """Hide a number in a long text and ask for it: a map over lengths and depths, per method."""
    embedded = model in (None, EMBEDDED)
    sweep = _EMBEDDED_SWEEP if embedded else _defaults
    chosen = None if methods is None else parse_methods(methods)
    config = NeedleConfig(
        lengths=sweep.lengths if lengths is None else parse_lengths(lengths),
        depths=sweep.depths if depths is None else parse_depths(depths),
        repeats=sweep.repeats if repeats is None else repeats,
        seed=seed,
        template=template,  # type: ignore[arg-type]  # checked by the config
        system=system,
        answer_prefix=answer_prefix,
        exact=exact,
        allow_repeat=allow_repeat,
        limit=limit,
    )
    options = NeedleOptions(
        model=model or EMBEDDED,
        haystack=haystack,
        methods=_EMBEDDED_METHODS if embedded and chosen is None else chosen,
        config=config,
        output=output,
        chunk_size=_tokens(chunk_size, "--chunk-size"),
        local_size=_tokens(local_size, "--local-size"),
        original_length=_tokens(original_length, "--original-length"),
        cap=cap,
        factor=factor,
        kernel=kernel,
        dtype=dtype,
        device_map=device_map,
        prefill_chunk=_tokens(prefill_chunk, "--prefill-chunk") or _options.prefill_chunk,
        prefix_sharing=not no_prefix_sharing,
        palette=palette,
        dry_run=dry_run,
        json=json,
    )
    from longctx.needle_run import run

    raise typer.Exit(run(options))


def _tokens(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    found = parse_lengths(text, flag)
    if len(found) != 1:
        raise UserError(f"{flag} {text}: one number of tokens is needed")
    return found[0]
