"""The drop-in for transformers, and the one place where transformers is known."""

from longctx.attention.hf.handle import Handle, active, extend

__all__ = ["Handle", "active", "extend"]
