"""The options of `longctx perplexity`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from longctx.eval.needle.config import parse_lengths
from longctx.eval.perplexity.config import BOS, METRICS, Bos, Metric, PerplexityConfig
from longctx.options import shared
from longctx.options.declare import Argument, Option
from longctx.options.engine import EngineSettings
from longctx.options.shared import EMBEDDED_METHODS, SWEEP, TEXT, length_words, read_methods, tokens

# What is run where the user names no model.
EMBEDDED_LENGTHS = (512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class PerplexityOptions:
    """What was said. None, or nothing, stands where a rule decides: runs/settle.py."""

    model: Annotated[
        str,
        Argument(
            "Model directory, hub id, or .gguf file. Default: the embedded tiny model, "
            "trained on 512 tokens of generated prose."
        ),
    ] = ""
    text: Annotated[
        str | None,
        Option(
            "The text to predict: a file (text, PDF), a directory (also of source code) or a "
            "glob; each file is a document. Default: generated prose.",
            TEXT,
        ),
    ] = None
    encoding: shared.Encoding = None
    strict: shared.Strict = False
    methods: Annotated[
        tuple[str, ...] | None,
        Option(
            "Position schemes to compare with the first, e.g. none,yarn,dca,yarn+dca. "
            f"Default: none and the model family's; embedded model: {','.join(EMBEDDED_METHODS)}.",
            SWEEP,
            read_methods,
        ),
    ] = None
    lengths: Annotated[
        tuple[int, ...] | None,
        Option(
            f"Lengths in tokens, K = 1024. Default: {length_words(PerplexityConfig.lengths)}; "
            f"embedded model: {length_words(EMBEDDED_LENGTHS)}.",
            SWEEP,
            parse_lengths,
        ),
    ] = None
    metric: Annotated[
        Metric,
        Option(
            f"{', '.join(METRICS)}: all tokens before the length; all tokens of the document "
            "in sliding windows of the length; the last tokens before the length; all tokens in "
            "windows side by side, as lm-evaluation-harness's rolling log-likelihood.",
            SWEEP,
        ),
    ] = PerplexityConfig.metric
    stride: Annotated[
        int | None,
        Option(
            "By how many tokens the windows of --metric window move. Default: 256, or half "
            "the shortest length.",
            SWEEP,
            tokens,
        ),
    ] = PerplexityConfig.stride
    window: Annotated[
        int | None,
        Option(
            "How many last tokens --metric position takes. Default: 256, or half the shortest "
            "length.",
            SWEEP,
            tokens,
        ),
    ] = PerplexityConfig.window
    documents: Annotated[
        int,
        Option(
            "At most this many documents of the longest length: the beginning of every text "
            "first, then what follows it.",
            TEXT,
        ),
    ] = PerplexityConfig.documents
    bos: Annotated[
        Bos,
        Option(
            f"{', '.join(BOS)}: whether the beginning-of-sequence token stands before every "
            "window; auto: as the tokenizer does.",
            TEXT,
        ),
    ] = PerplexityConfig.bos
    seed: Annotated[int, Option("Varies generated prose and resampling.", SWEEP)] = (
        PerplexityConfig.seed
    )
    limit: shared.Limit = PerplexityConfig.limit
    output: shared.Output = None
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
    prefill_chunk: shared.PrefillChunk = 512
    dry_run: shared.DryRun = False
    json: shared.Json = False

    # No option: what runs/settle.py makes of them.
    config: PerplexityConfig = field(default_factory=PerplexityConfig)
