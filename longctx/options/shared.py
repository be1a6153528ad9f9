"""Options that several commands have: each help text once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from longctx.errors import UserError
from longctx.eval.format import show_length
from longctx.eval.needle.config import parse_lengths, parse_methods
from longctx.eval.texts.encoding import check_encoding
from longctx.options.declare import Option

SWEEP, SCHEME, MACHINE = "Sweep", "Position scheme", "Model and machine"
TEXT, DOCUMENTS = "Text", "Documents"
AUTO = "auto"  # of dtype and device map: a rule decides
# What the embedded model is run under where no method is named: enough to see what each does.
EMBEDDED_METHODS = ("none", "yarn", "dca", "yarn+dca")


def tokens(text: str, flag: str) -> int:
    """One number of tokens, as `2K` or `2048`."""
    found = parse_lengths(text, flag)
    if len(found) != 1:
        raise UserError(f"{flag} {text}: one number of tokens is needed")
    return found[0]


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str, flag: str) -> int:
    """`4G`, `512MiB`, `1073741824`; K, M and G are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"{flag} {text}: not an amount of memory: write 4G or 512M")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _shown_bytes(size: int) -> str:
    return f"{size >> 30}G" if size % 2**30 == 0 else str(size)


def check_engine(name: str) -> None:
    """
    Raises:
        UserError: no engine is called so.
    """
    if name not in ENGINES:
        raise UserError(f"--engine {name}: use {' or '.join(ENGINES)}")


def check_quantize(name: str, engine: str = "longctx") -> None:
    """
    Raises:
        UserError: no such numbers, or an engine that has its own way to make them.
    """
    if name not in QUANTIZE:
        raise UserError(f"--quantize {name}: use {' or '.join(QUANTIZE)}")
    if name != PLAIN and engine == "vllm":
        raise UserError(
            f"--quantize {name}: vLLM loads the weights itself: leave it out with --engine vllm, "
            "and name a checkpoint that is quantized"
        )


def check_kv_dtype(name: str, engine: str = "longctx") -> None:
    """
    Raises:
        UserError: no such numbers, or an engine that has its own way to keep keys.
    """
    if name not in KV_DTYPES:
        raise UserError(f"--kv-dtype {name}: use one of {', '.join(KV_DTYPES)}")
    if name != AUTO and engine == "vllm":
        raise UserError(f"--kv-dtype {name}: vLLM decides that itself: leave it out")


def read_methods(text: str, _flag: str) -> tuple[str, ...]:
    return parse_methods(text)


def length_words(lengths: tuple[int, ...]) -> str:
    return ",".join(map(show_length, lengths))


class ModelOptions(Protocol):
    """What position schemes are settled from, whichever command it is."""

    @property
    def methods(self) -> tuple[str, ...] | None: ...
    @property
    def chunk_size(self) -> int | None: ...
    @property
    def local_size(self) -> int | None: ...
    @property
    def original_length(self) -> int | None: ...
    @property
    def cap(self) -> str | None: ...
    @property
    def factor(self) -> float | None: ...


Limit = Annotated[int | None, Option("At most this many cells or passes now.", SWEEP)]
Output = Annotated[
    Path | None,
    Option("Run folder; a run goes on where it stopped. Default: below runs/.", SWEEP),
]
ChunkSize = Annotated[int | None, Option("DCA chunk, tokens.", SCHEME, tokens)]
LocalSize = Annotated[int | None, Option("DCA local window, tokens.", SCHEME, tokens)]
OriginalLength = Annotated[int | None, Option("Trained window, tokens.", SCHEME, tokens)]
Cap = Annotated[
    str | None,
    Option("Largest relative position of DCA: chunk_size or chunk_size-1.", SCHEME),
]
Factor = Annotated[
    float | None,
    Option(
        "Extension factor of pi, ntk, yarn, yarn-freqs+dca. Default: from the longest length.",
        SCHEME,
    ),
]
Kernel = Annotated[str, Option("Attention kernel of DCA; `longctx info` lists them.", MACHINE)]
Dtype = Annotated[str, Option("auto, float32, bfloat16 or float16.", MACHINE)]
QuantizeName = Literal["none", "int8"]
QUANTIZE: tuple[QuantizeName, ...] = ("none", "int8")
PLAIN: QuantizeName = "none"  # of quantize
Quantize = Annotated[
    QuantizeName,
    Option(
        "int8: linear layers with a byte for each weight: less memory, faster on a CPU, answers a "
        "little different. none: as the checkpoint has them.",
        MACHINE,
    ),
]
KV_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
KvDtype = Annotated[
    str,
    Option(
        "Of keys and values: auto, float32, bfloat16, float16, or int8: a byte for each number, on "
        "a CPU. auto: as the model computes.",
        MACHINE,
    ),
]
DeviceMap = Annotated[str, Option("auto, cpu, cuda, or what accelerate takes.", MACHINE)]
EngineName = Literal["longctx", "vllm"]
ENGINES: tuple[EngineName, ...] = ("longctx", "vllm")
ComputedBy = Annotated[
    EngineName,
    Option("longctx or vllm: what computes, longctx's attention in both.", MACHINE),
]
PrefillChunk = Annotated[int, Option("Tokens per forward pass.", MACHINE, tokens, show_length)]
Palette = Annotated[str, Option("Colours of the map: default or classic.", MACHINE)]
Encoding = Annotated[
    str | None,
    Option(
        "Of text files that are not UTF-8, as cp1252 or shift_jis. Default: recognised where it "
        "is beyond doubt, else an error that names what it may be.",
        TEXT,
        check_encoding,
    ),
]
Strict = Annotated[
    bool,
    Option("End at a file that cannot be read; else it is skipped and listed.", TEXT),
]
# Of the server, `longctx ask` and `longctx documents` alike.
DocumentDirectory = Annotated[
    Path | None,
    Option(
        "Where documents stay. Default: LONGCTX_DOCUMENT_STORE, else longctx/documents in the "
        "user's data folder.",
        DOCUMENTS,
    ),
]
DocumentBudget = Annotated[
    int,
    Option(
        "Disk for documents; the keys of those used longest ago make way.",
        DOCUMENTS,
        parse_bytes,
        _shown_bytes,
    ),
]
DryRun = Annotated[bool, Option("Say what would be done; load no weights.")]
Json = Annotated[bool, Option("One JSON object as the last line of stdout.")]


@dataclass(frozen=True)
class JsonOption:
    """Of commands that list what there is."""

    json: Json = False
