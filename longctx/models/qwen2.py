"""The Qwen2 family: what its configs say, and what was published about its context.

Numbers from the models' config.json and cards (Qwen2, arXiv 2407.10671; Qwen2.5, arXiv 2412.15115;
Qwen2.5-1M, arXiv 2501.15383), so that a plan needs no download. Imports nothing heavy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_K = 1024
_APACHE, _QIANWEN, _QWEN, _RESEARCH = "Apache-2.0", "Tongyi Qianwen", "Qwen", "Qwen Research"
_MILLION = {
    "max_position_embeddings": 1_010_000,
    "rope_theta": 1e7,
    "dual_chunk_attention_config": {
        "chunk_size": 256 * _K,
        "local_size": 8 * _K,
        "original_max_position_embeddings": 256 * _K,
    },
}


@dataclass(frozen=True)
class Member:
    """One size of one series. `window`: trained, `context`: published with `method`; tokens."""

    series: str
    size: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    context: int
    licence: str
    variants: tuple[str, ...] = ("", "-Instruct")
    window: int = 32 * _K
    others: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.series}-{self.size}"

    @property
    def ids(self) -> tuple[str, ...]:
        """Hub ids."""
        return tuple(f"Qwen/{self.name}{variant}" for variant in self.variants)

    @property
    def method(self) -> str:
        """What reaches `context`: nothing where that is the window."""
        return "yarn+dca" if self.context > self.window else "none"

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values in bfloat16."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads) * 2

    def config(self) -> dict[str, Any]:
        """config.json, as far as shapes and positions go."""
        own = {
            "model_type": "qwen2_moe" if self.size.endswith("A14B") else "qwen2",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.window,
            "rope_theta": 1e6,
            "dtype": "bfloat16",
        }
        return {**own, **dict(self.others)}


_EXPERTS = (
    ("num_experts", 64),
    ("num_experts_per_tok", 8),
    ("moe_intermediate_size", 2560),
    ("shared_expert_intermediate_size", 20480),
    ("decoder_sparse_step", 1),
)
_ONE_MILLION: dict[str, Any] = {
    "variants": ("-Instruct-1M",),
    "window": 256 * _K,
    "others": tuple(_MILLION.items()),
}
# layers, hidden, intermediate, query heads, key-value heads, vocabulary, tied embeddings
_SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "0.5B": (24, 896, 4864, 14, 2, 151_936, True),
    "1.5B": (28, 1536, 8960, 12, 2, 151_936, True),
    "3B": (36, 2048, 11_008, 16, 2, 151_936, True),
    "7B": (28, 3584, 18_944, 28, 4, 152_064, False),
    "14B": (48, 5120, 13_824, 40, 8, 152_064, False),
    "32B": (64, 5120, 27_648, 40, 8, 152_064, False),
    "57B-A14B": (28, 3584, 18_944, 28, 4, 151_936, False),
    "72B": (80, 8192, 29_568, 64, 8, 152_064, False),
}


def _member(series: str, size: str, context: int, licence: str = _APACHE, **more: Any) -> Member:
    return Member(series, size, *_SHAPES[size], context, licence, **more)


MEMBERS = (
    _member("Qwen2", "0.5B", 32 * _K),
    _member("Qwen2", "1.5B", 32 * _K),
    _member("Qwen2", "7B", 128 * _K),
    _member("Qwen2", "57B-A14B", 64 * _K, others=_EXPERTS),
    _member("Qwen2", "72B", 128 * _K, _QIANWEN),
    _member("Qwen2.5", "0.5B", 32 * _K),
    _member("Qwen2.5", "1.5B", 32 * _K),
    _member("Qwen2.5", "3B", 32 * _K, _RESEARCH),
    _member("Qwen2.5", "7B", 128 * _K),
    _member("Qwen2.5", "14B", 128 * _K),
    _member("Qwen2.5", "32B", 128 * _K),
    _member("Qwen2.5", "72B", 128 * _K, _QWEN),
    _member("Qwen2.5", "7B", 1_010_000, **_ONE_MILLION),
    _member("Qwen2.5", "14B", 1_010_000, **_ONE_MILLION),
)


def find(name: str) -> Member | None:
    """The member that a name means: a hub id or its last part, in any case.

    `Qwen2.5-7B-1M` is short for the instruct model, the only one there is.
    """
    wanted = re.sub(r"^qwen/", "", name.lower())
    for member in MEMBERS:
        short = {id.removeprefix("Qwen/").lower() for id in member.ids}
        if wanted in short or wanted in {each.replace("-instruct-1m", "-1m") for each in short}:
            return member
    return None
