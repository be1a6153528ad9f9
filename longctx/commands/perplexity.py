"""`longctx perplexity`: the command's arguments. What it does is in runs/perplexity.py.

Imports nothing heavy: `longctx --help` reads this file.
"""

from __future__ import annotations

from typing import Annotated

import typer

from longctx.commands import options
from longctx.commands.options import PerplexityOptions
from longctx.eval.format import show_length
from longctx.eval.needle.config import parse_lengths, parse_methods
from longctx.eval.perplexity.config import BOS, METRICS, PerplexityConfig
from longctx.tiny import EMBEDDED

_TEXT = "Text"
# What is run where the user names no model.
_EMBEDDED_METHODS = ("none", "yarn", "dca", "yarn+dca")
_EMBEDDED_LENGTHS = (512, 1024, 2048, 4096, 8192)


_defaults, _options = PerplexityConfig(), PerplexityOptions("")


def _lengths_words(lengths: tuple[int, ...]) -> str:
    return ",".join(show_length(length) for length in lengths)


_PREFILL_CHUNK = show_length(_options.prefill_chunk)


def perplexity(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model directory, hub id, or .gguf file. Default: the embedded tiny model, "
            "trained on 512 tokens of generated prose.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="The text to predict: a file (text, PDF), a directory (also of source code) or a "
            "glob; each file is a document. Default: generated prose.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Position schemes to compare with the first, e.g. none,yarn,dca,yarn+dca. "
            f"Default: none and the model family's; embedded model: {','.join(_EMBEDDED_METHODS)}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help=f"Lengths in tokens, K = 1024. Default: {_lengths_words(_defaults.lengths)}; "
            f"embedded model: {_lengths_words(_EMBEDDED_LENGTHS)}.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(METRICS)}: all tokens before the length; all tokens of the document "
            "in sliding windows of the length; the last tokens before the length.",
            rich_help_panel=options.SWEEP,
        ),
    ] = _defaults.metric,
    stride: Annotated[
        str | None,
        typer.Option(
            help="By how many tokens the windows of --metric window move. Default: 256, or half "
            "the shortest length.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="How many last tokens --metric position takes. Default: 256, or half the shortest "
            "length.",
            rich_help_panel=options.SWEEP,
        ),
    ] = None,
    documents: Annotated[
        int,
        typer.Option(
            help="At most this many documents of the longest length: the beginning of every text "
            "first, then what follows it.",
            rich_help_panel=_TEXT,
        ),
    ] = _defaults.documents,
    bos: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(BOS)}: whether the beginning-of-sequence token stands before every "
            "window; auto: as the tokenizer does.",
            rich_help_panel=_TEXT,
        ),
    ] = _defaults.bos,
    seed: Annotated[
        int,
        typer.Option(help="Varies generated prose and resampling.", rich_help_panel=options.SWEEP),
    ] = _defaults.seed,
    limit: options.Limit = None,
    output: options.Output = None,
    chunk_size: options.ChunkSize = None,
    local_size: options.LocalSize = None,
    original_length: options.OriginalLength = None,
    cap: options.Cap = None,
    factor: options.Factor = None,
    kernel: options.Kernel = options.DEFAULTS.kernel,
    dtype: options.Dtype = options.DEFAULTS.dtype,
    device_map: options.DeviceMap = options.DEFAULTS.device_map,
    prefill_chunk: options.PrefillChunk = _PREFILL_CHUNK,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Measure how well a text is predicted at each length, per method, on the same tokens."""
    embedded = model in (None, EMBEDDED)
    chosen = None if methods is None else parse_methods(methods)
    usual = _EMBEDDED_LENGTHS if embedded else _defaults.lengths
    told = PerplexityOptions(
        model=model or EMBEDDED,
        text=text,
        methods=_EMBEDDED_METHODS if embedded and chosen is None else chosen,
        config=PerplexityConfig(
            lengths=usual if lengths is None else parse_lengths(lengths),
            metric=metric,  # type: ignore[arg-type]  # checked by the config
            stride=options.tokens(stride, "--stride"),
            window=options.tokens(window, "--window"),
            documents=documents,
            bos=bos,  # type: ignore[arg-type]  # checked by the config
            seed=seed,
            limit=limit,
        ),
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
        dry_run=dry_run,
        json=json,
    )
    from longctx.runs.perplexity import run

    raise typer.Exit(run(told))
