"""Options that several commands have: each help text and each default once.

Imports nothing heavy: `longctx --help` reads this file. Knows no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from longctx.errors import UserError
from longctx.eval.needle.config import NeedleConfig, parse_lengths
from longctx.eval.needle.needle import TASK
from longctx.eval.perplexity.config import PerplexityConfig

SWEEP, SCHEME, MACHINE = "Sweep", "Position scheme", "Model and machine"


@dataclass(frozen=True)
class ModelOptions:
    """A model under several methods on this machine. None stands where a rule decides."""

    model: str
    methods: tuple[str, ...] | None = None
    output: Path | None = None
    chunk_size: int | None = None
    local_size: int | None = None
    original_length: int | None = None
    cap: str | None = None
    factor: float | None = None
    kernel: str = "auto"
    dtype: str = "auto"
    device_map: str = "auto"
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True)
class NeedleOptions(ModelOptions):
    """The command's arguments. None stands where a rule decides."""

    haystack: str | None = None
    tasks: tuple[str, ...] = (TASK,)
    language: str = "en"
    # What tasks take beside the grid: needle, qa, distractors, hops. None stands for the default.
    task_options: Mapping[str, Any] = field(default_factory=dict)
    qa: str | None = None
    preset: str | None = None
    # Its task, language, options and answer budget are settled for each task in needle_prepare.
    config: NeedleConfig = field(default_factory=NeedleConfig)
    answer_prefix: str | None = None
    prefill_chunk: int = 2048
    prefix_sharing: bool = True
    palette: str = "default"
    base_url: str | None = None
    tokenizer: str | None = None
    api: str = "chat"
    concurrency: int = 1
    timeout: float = 600.0


@dataclass(frozen=True)
class PerplexityOptions(ModelOptions):
    """The command's arguments. None stands where a rule decides."""

    text: str | None = None
    config: PerplexityConfig = field(default_factory=PerplexityConfig)
    prefill_chunk: int = 512


DEFAULTS = ModelOptions("")

Limit = Annotated[
    int | None, typer.Option(help="At most this many cells or passes now.", rich_help_panel=SWEEP)
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Run folder; a run goes on where it stopped. Default: below runs/.",
        rich_help_panel=SWEEP,
    ),
]
ChunkSize = Annotated[str | None, typer.Option(help="DCA chunk, tokens.", rich_help_panel=SCHEME)]
LocalSize = Annotated[
    str | None, typer.Option(help="DCA local window, tokens.", rich_help_panel=SCHEME)
]
OriginalLength = Annotated[
    str | None, typer.Option(help="Trained window, tokens.", rich_help_panel=SCHEME)
]
Cap = Annotated[
    str | None,
    typer.Option(
        help="Largest relative position of DCA: chunk_size or chunk_size-1.",
        rich_help_panel=SCHEME,
    ),
]
Factor = Annotated[
    float | None,
    typer.Option(
        help="Extension factor of pi, ntk, yarn, yarn-freqs+dca. Default: from the longest length.",
        rich_help_panel=SCHEME,
    ),
]
Kernel = Annotated[
    str,
    typer.Option(
        help="Attention kernel of DCA; `longctx info` lists them.", rich_help_panel=MACHINE
    ),
]
Dtype = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=MACHINE)
]
DeviceMap = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, or what accelerate takes.", rich_help_panel=MACHINE),
]
PrefillChunk = Annotated[
    str, typer.Option(help="Tokens per forward pass.", rich_help_panel=MACHINE)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; load no weights.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")]


def refuse_local(options: ModelOptions, reason: str) -> None:
    """
    Raises:
        UserError: a flag of local models was given, and what is measured has no use for it.
    """
    defaults = type(options)("")
    names = ("methods", "chunk_size", "local_size", "cap", "factor", "kernel", "dtype")
    for name in (*names, "device_map", "prefill_chunk", "prefix_sharing"):
        value = getattr(options, name, None)
        if value != getattr(defaults, name, None):
            shown = ",".join(value) if isinstance(value, tuple) else value
            flag = "--no-prefix-sharing" if value is False else f"--{name.replace('_', '-')}"
            said = flag if value is False else f"{flag} {shown}"
            raise UserError(f"{said}: {reason}: leave {flag} out")


def tokens(text: str | None, flag: str) -> int | None:
    """One number of tokens, as `2K` or `2048`."""
    if text is None:
        return None
    found = parse_lengths(text, flag)
    if len(found) != 1:
        raise UserError(f"{flag} {text}: one number of tokens is needed")
    return found[0]
