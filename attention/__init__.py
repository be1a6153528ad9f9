"""YaRN and Dual Chunk Attention: positions, frequencies, kernels, and the drop-in.

from longctx.attention import extend

with extend(model, "yarn+dca") as handle:
    model.generate(...)
"""

from typing import TYPE_CHECKING, Any

from longctx.attention.config import Scheme, default_method, resolve
from longctx.attention.methods import DCA_METHODS, METHODS
from longctx.attention.positions import ChunkMap

if TYPE_CHECKING:
    from longctx.attention.hf import Handle, active, extend

__all__ = [
    "DCA_METHODS",
    "METHODS",
    "ChunkMap",
    "Handle",
    "Scheme",
    "active",
    "default_method",
    "extend",
    "resolve",
]


def __getattr__(name: str) -> Any:
    """The drop-in needs transformers; the mathematics must import without it."""
    if name in ("Handle", "active", "extend"):
        from longctx.attention import hf

        return getattr(hf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
