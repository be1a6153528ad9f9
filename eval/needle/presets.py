"""Sweeps by name: what `--preset` stands for. Every flag that is given wins over its preset.

Frozen: a preset that changes would make results of one name differ. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from longctx.eval.tasks import RULER

_K = 1024
_RULER_SAMPLES = 25
_RULER_LENGTHS = tuple(size * _K for size in (4, 8, 16, 32, 64, 128))


@dataclass(frozen=True)
class Preset:
    """Lengths in tokens, depths in percent; `samples` of a task and length in place of repeats."""

    words: str
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    repeats: int
    tasks: tuple[str, ...] = ("needle",)
    samples: int | None = None


def _evenly(count: int) -> tuple[float, ...]:
    return tuple(round(100 * step / (count - 1), 3) for step in range(count))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "smoke": Preset("does it run: minutes on a CPU", (1 * _K, 2 * _K), (0.0, 50.0, 100.0), 1),
        "quick": Preset("a first map", (2 * _K, 4 * _K, 8 * _K, 16 * _K), _evenly(5), 2),
        "standard": Preset(
            "a map with intervals that can pass",
            tuple(size * _K for size in (4, 8, 16, 32, 64)),
            _evenly(11),
            5,
        ),
        "full": Preset(
            "to 128K, with look-alikes and latent needles",
            _RULER_LENGTHS,
            _evenly(11),
            5,
            ("needle", "distractors", "latent", "uuid_chain", "ordered_recall"),
        ),
        "qwen2-fig1": Preset(
            "the grid of the Qwen2 report's needle figure (arXiv 2407.10671)",
            tuple(size * _K for size in (8, 16, 32, 48, 64, 80, 96, 112, 128)),
            _evenly(11),
            1,
        ),
        "ruler-13": Preset(
            "RULER's thirteen tasks and lengths (arXiv 2404.06654); needs --qa",
            *(_RULER_LENGTHS, _evenly(5), 1),
            tuple(task.about.name for task in RULER),
            _RULER_SAMPLES,
        ),
        "ruler-11": Preset(
            "the same without qa_1 and qa_2, whose files are yours to give",
            *(_RULER_LENGTHS, _evenly(5), 1),
            tuple(task.about.name for task in RULER if not task.about.questions),
            _RULER_SAMPLES,
        ),
    }
)
