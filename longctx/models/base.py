"""Whom a run asks: a local model, a simulated one, or an endpoint, as one thing.

Everything here is known before weights are loaded or a server is called; `sessions` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from longctx.eval.estimate import ModelSizes
from longctx.eval.protocol import Session


class LoadedModels(dict[str, Any]):
    """What a command has loaded, by name, from one task to the next; given back after the block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        """Weights go with their last owner; what runs in other processes has a `close`."""
        for each in self.values():
            if hasattr(each, "close"):
                each.close()
        self.clear()


@dataclass(frozen=True)
class TokensOnly:
    """The shape of what has none to us: work is counted in tokens, keys and values in nothing."""

    layers: int = 1
    heads: int = 0
    head_dim: int = 0
    layer_parameters: int = 1

    def kv_bytes(self, tokens: int, bytes_per_value: int) -> int:
        return 0


@dataclass(frozen=True)
class Model:
    """`schemes` has an entry per method, without the request's length.

    `fingerprint`, `dtype` and `kernel` are part of every key: another value is another model.
    """

    name: str
    kind: str
    fingerprint: str
    dtype: str
    kernel: str
    tokenizer: Any
    schemes: Mapping[str, Mapping[str, Any]]
    trained_length: int | None
    shape: ModelSizes
    bytes_per_value: int = 0
    concurrency: int = 1

    @property
    def other_dtypes(self) -> tuple[str, ...]:
        """What the same command would compute in on machines of another kind."""
        return ()

    @property
    def prefix_sharing(self) -> bool:
        return False

    def banner(self) -> list[str]:
        """Lines under the headline: what is special, and one per method."""
        return []

    def notes(self) -> list[str]:
        """What was asked for and cannot be."""
        return []

    def session_record(self) -> dict[str, Any]:
        """What run.json keeps of this session, and another session may do otherwise."""
        return {}

    def rough_rate(self) -> float | None:
        """Seconds per unit of work before anything was asked; None where nobody can know."""
        return None

    def temperature_at(self, method: str, length: int) -> int:
        """The length that a method's temperature is taken at; the record's `request_length`."""
        return length

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        """Load, or call.

        Args:
            loaded: models by name, so that several tasks load one once; what is loaded joins it.

        Raises:
            UserError: what can be put right.
        """
        raise NotImplementedError

    def probe(self, sessions: Mapping[str, Session]) -> float | None:
        """Seconds per unit of work, from one short prompt; None where that would tell nothing."""
        return None


def bare_scheme(method: str) -> dict[str, Any]:
    """The scheme of what has no position scheme of ours: its name alone."""
    names = ("chunk_size", "local_size", "cap", "L0", "factor")
    return {"method": method, **dict.fromkeys(names)}
