"""What describes a field of a run folder's files, and the parts that several files have.

A `NotRequired` field is not in every file, and its `Field` says when it is. `later` marks a field
that files of older versions lack, with what such a file is read as having.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, NotRequired, TypedDict

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

# When a field is there that tells what needles and cuts stand at the end of.
NO_SENTENCES = "where the text is not in sentences"


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
