"""The cells of a sweep, their order, and the keys under which results are kept.

A key is the hash of everything that determines prompt, position scheme and answer; a record with
the same key is the same measurement. Knows no model and no file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longctx.eval.needle.config import NeedleConfig, depths_of
from longctx.eval.runfolder.records import SCHEMA
from longctx.eval.spec import PromptSpec
from longctx.eval.tasks import wording_sha256
from longctx.eval.texts.text import Boundary


@dataclass(frozen=True)
class Cell:
    method: str
    length: int
    depth: float | None
    repeat: int


# Numbers of texts are apart: an own one never is one that depths share (their repeat).
_OWN_TEXTS, _PER_PERCENT = 1_000_000, 1000


def text_number(config: NeedleConfig, cell: Cell) -> int:
    """What haystack window, needle and wording are drawn by, beside seed and length.

    Its repeat where depths share a text; else repeat and depth, so that a grid may grow and the
    texts that it has stay: repeat 1 at 25 % is 2025000. Two depths a thousandth of a percent apart
    are one. Samples of --samples are numbered already: each stands at one depth.
    """
    if config.texts == "shared" or config.spread or cell.depth is None:
        return cell.repeat
    return _OWN_TEXTS * (cell.repeat + 1) + round(cell.depth * _PER_PERCENT)


@dataclass(frozen=True)
class NeedleIdentity:
    """What stays the same over a sweep and is part of every key."""

    model: str
    dtype: str
    kernel: str
    haystack_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    boundary: Boundary = "sentence"

    def recipe(self, config: NeedleConfig, cell: Cell) -> PromptSpec:
        return PromptSpec(
            length=cell.length,
            depth=cell.depth,
            seed=config.seed,
            repeat=text_number(config, cell),
            answer_tokens=config.answer_tokens,
            answer_prefix=config.answer_prefix,
            system=config.system,
            exact=config.exact,
            allow_repeat=config.allow_repeat,
            haystack_sha256=self.haystack_sha256,
            tokenizer_sha256=self.tokenizer_sha256,
            template_sha256=self.template_sha256,
            task=config.task,
            language=config.language,
            wording_sha256=wording_sha256(config.task, config.language, config.options),
            options=dict(config.options),
            boundary=self.boundary,
        )

    def key(self, recipe: PromptSpec, scheme: Mapping[str, Any]) -> str:
        parts = {
            "schema": SCHEMA,
            "recipe": recipe.to_dict(),
            "scheme": dict(scheme),
            "model": self.model,
            "dtype": self.dtype,
            "kernel": self.kernel,
            "decoding": {"temperature": 0, "repetition_penalty": 1},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def cells(config: NeedleConfig, methods: Sequence[str]) -> Iterator[Cell]:
    """Short lengths first, whole maps before more repeats, methods side by side.

    A run that is stopped early leaves a complete picture of what it reached. Depths are innermost:
    where a column shares its text, whoever shares prefill over depths gets them in a row.
    """
    for length in config.lengths:
        for repeat in range(config.repeats):
            for method in methods:
                for depth in depths_of(config.depths, repeat, spread=config.spread):
                    yield Cell(method, length, depth, repeat)


def columns(pending: Iterable[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    """Runs of neighbouring cells that differ in depth alone, with their method."""
    column: list[Cell] = []
    for cell in pending:
        if column and (cell.method, cell.length, cell.repeat) != (
            column[0].method,
            column[0].length,
            column[0].repeat,
        ):
            yield column[0].method, column
            column = []
        column.append(cell)
    if column:
        yield column[0].method, column
