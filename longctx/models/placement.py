"""Which GPU has which layers, so that the most tokens of keys and values fit beside them.

The embedding lies on the first GPU, norm and head on the last (a tied head with the embedding); the
layers lie in order between them, fewer where these weigh. `longctx plan` plans with it, and models
are loaded so. Numbers and names only; knows no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """Bytes of a model's parts, and of what a token adds to each layer."""

    layers: int
    layer: int
    first: int
    last: int
    kv_layer: int


class LayerShare(NamedTuple):
    """So many layers, and bytes that are left for their keys and values."""

    layers: int
    weights: int
    left: int


def spread(sizes: Sizes, usable: Sequence[int], step: int) -> list[LayerShare] | None:
    """The layers over GPUs, by how many tokens fit; None where the weights alone do not.

    Args:
        usable: bytes of each GPU.
        step: what one step takes on each, beside weights, keys and values.
    """
    ends = [0] * len(usable)
    ends[0] += sizes.first
    ends[-1] += sizes.last
    room = [bytes_ - end - step for bytes_, end in zip(usable, ends, strict=True)]

    def most(tokens: int) -> list[int]:
        each = sizes.layer + tokens * sizes.kv_layer
        return [min(max(left, 0) // each, sizes.layers) for left in room]

    if min(room) < 0 or sum(most(0)) < sizes.layers:
        return None
    low, high = 0, max(room) // sizes.kv_layer + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(most(middle)) >= sizes.layers else (low, middle)
    counts = most(low)
    while sum(counts) > sizes.layers:  # what is too much goes where layers are most
        counts[counts.index(max(counts))] -= 1
    return [
        LayerShare(count, end + count * sizes.layer, left - count * sizes.layer)
        for count, end, left in zip(counts, ends, room, strict=True)
    ]


def device_map(model: Any, counts: Sequence[int], *, tied: bool) -> dict[str, int] | None:
    """transformers' device_map of a model, real or on meta; None where its parts have other names.

    Args:
        counts: layers of each GPU.
        tied: the head is the embedding, and lies with it.
    """
    base = model.base_model_prefix
    inner = getattr(model, base, None)
    names = {"embed_tokens", "layers", "norm", "rotary_emb"}
    outer = {name for name, _ in model.named_children()}
    if inner is None or {name for name, _ in inner.named_children()} != names:
        return None
    if outer != {base, "lm_head"}:
        return None
    last = len(counts) - 1
    found = {f"{base}.embed_tokens": 0, f"{base}.rotary_emb": 0, f"{base}.norm": last}
    found["lm_head"] = 0 if tied else last
    at = 0
    for device, count in enumerate(counts):
        found |= {f"{base}.layers.{number}": device for number in range(at, at + count)}
        at += count
    return found
