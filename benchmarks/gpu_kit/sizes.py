"""How large everything is: for a GPU, and for a dry run on a CPU in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_checks import SHAPES, Shape
from gpu_step_checks import QWEN2, Fold

K = 1024


@dataclass(frozen=True)
class Sizes:
    """Tokens, unless said otherwise."""

    dry: bool = False
    matmul: int = 8192  # a side
    copy_bytes: int = 4 << 30
    shapes: dict[str, Shape] = field(default_factory=lambda: dict(SHAPES))
    fold: Fold = QWEN2
    filled: int = 128 * K
    far_elements: int = 2**31
    border_queries: int = 48
    # The embedded model.
    greedy: tuple[int, ...] = (512, 2 * K, 4 * K, 16 * K)
    needle_lengths: tuple[int, ...] = (512, 2 * K, 8 * K, 32 * K)
    needle_depths: tuple[float, ...] = (10.0, 50.0, 90.0)
    longest_needle: int = 128 * K
    # Attention alone.
    lengths: tuple[int, ...] = (32 * K, 128 * K, 512 * K)
    rows: tuple[int, ...] = (1, 16)
    timed_s: float = 1.0  # seconds of calls behind one figure
    # Whole models and single layers.
    prompt: int = 128 * K
    chunk_budget: int = 8192
    decoded: int = 24
    million: int = 1_000_000


REAL = Sizes()
DRY = Sizes(
    dry=True,
    matmul=256,
    copy_bytes=1 << 22,
    shapes={"7B": Shape(14, 2, 32), "72B": Shape(16, 2, 32)},
    fold=Fold(512, 64),
    filled=1500,
    far_elements=2**16,
    border_queries=8,
    greedy=(512, 1 * K),
    needle_lengths=(512, 1 * K),
    needle_depths=(50.0,),
    longest_needle=2 * K,
    lengths=(1 * K,),
    rows=(1, 2),
    timed_s=0.02,
    prompt=512,
    chunk_budget=256,
    decoded=6,
    million=2 * K,
)
