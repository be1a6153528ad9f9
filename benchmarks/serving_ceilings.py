"""What the machine gives at most, measured in the same run, and how long a model's work takes then.

    matmul      GFLOP/s of float32 (or the model's dtype) products with packed weights, 512 rows
    int8        Gop/s of products of bytes, likewise
    attention   GFLOP/s of torch's flash attention, in the model's heads, 2,048 queries and keys
    memory      GB/s of reading through 256 MB

The floor of a prompt is its products over the first or the second, and its attention over the
third; activations of 16 bits are two products of bytes. The floor of a step is what has to be read,
weights and keys and values, over the fourth. On the processor's own clock, as the arms are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_ROWS, _WIDE, _KEYS, _READ = 512, 2048, 2048, 256 << 20
_REPEATS = 5


@dataclass(frozen=True)
class Ceilings:
    """In 10^9 a second; `int8` is 0 where this processor has none."""

    matmul: float
    int8: float
    attention: float
    memory: float

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {value:.1f} {'GB/s' if name == 'memory' else 'Gop/s'}"
            for name, value in asdict(self).items()
        )


def measure(config: Any, dtype: Any, clock: Callable[[], float]) -> Ceilings:
    """The best of some repeats each."""
    import torch

    from longctx.attention import cpu
    from longctx.engine.packed import PackedLinears

    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    x = torch.randn(_ROWS, _WIDE).to(dtype)
    layer = torch.nn.Sequential(torch.nn.Linear(_WIDE, _WIDE, bias=False).to(dtype))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    q = torch.randn(1, heads, _KEYS, dim).to(dtype)
    k, v = (torch.randn(1, kv_heads, _KEYS, dim).to(dtype) for _ in "kv")
    memory = torch.ones(_READ // 4)
    with torch.inference_mode():
        PackedLinears(layer)
        products = 2 * _ROWS * _WIDE * _WIDE
        return Ceilings(
            _rate(clock, products, lambda: layer(x)),
            _rate(clock, products, _int8()) if cpu.multiplies_int8() else 0.0,
            _rate(clock, 4 * heads * _KEYS * _KEYS * dim, lambda: flash(q, k, v, 0.0, False)),
            _rate(clock, _READ, memory.sum),
        )


def _int8() -> Callable[[], Any]:
    import torch

    x = torch.randint(0, 256, (_ROWS, _WIDE), dtype=torch.uint8)
    whole = torch.randint(-127, 128, (_WIDE, _WIDE), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack.default(whole, None)
    scale, zeros = torch.ones(_WIDE), torch.zeros(_WIDE, dtype=torch.int64)
    nothing = (None, 1.0, 0, torch.float32, "none", [], "")
    multiply = torch.ops.onednn.qlinear_pointwise.default
    return lambda: multiply(x, 1.0, 128, packed, scale, zeros, *nothing)


def _rate(clock: Callable[[], float], work: float, run: Callable[[], Any]) -> float:
    run()
    best = float("inf")
    for _ in range(_REPEATS):
        began = clock()
        run()
        best = min(best, clock() - began)
    return work / best / 1e9


def prefill_floor(model: Any, length: int, ceilings: Ceilings, *, int8: bool) -> float:
    """Seconds of one prompt: products of the layers, and causal attention."""
    from longctx.models.source import shape_of

    shape = shape_of(model.config)
    products = 2 * shape.layers * shape.layer_parameters * length
    attention = 2 * shape.layers * shape.heads * shape.head_dim * length * length
    linear = 2 * products / ceilings.int8 if int8 else products / ceilings.matmul
    return (linear + attention / ceilings.attention) / 1e9


def step_floor(model: Any, length: int, requests: int, ceilings: Ceilings, kv_dtype: str) -> float:
    """Seconds of one token of each request: all weights once, and everybody's keys and values."""
    import torch

    from longctx.models.quantize import weight_bytes
    from longctx.models.source import shape_of

    shape, table = shape_of(model.config), model.get_input_embeddings().weight
    weights = weight_bytes(model)
    head = getattr(model.get_output_embeddings(), "weight", None)
    if head is not table:  # a tied one is read whole
        weights -= table.nbytes
    keys = requests * shape.kv_bytes(length, getattr(torch, kv_dtype).itemsize)
    return (weights + keys) / ceilings.memory / 1e9
