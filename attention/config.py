"""Which position scheme a model runs, and where every number of it comes from.

`resolve` turns arguments, a model's config and the family rules into a frozen `Scheme`. It reads a
transformers config by attribute (so a plain namespace serves too) and never a model.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from longctx.attention.methods import (
    DCA_METHODS,
    FACTOR_METHODS,
    LENGTH_METHODS,
    METHODS,
    softmax_temperature,
)
from longctx.attention.positions import CAPS, Cap, ChunkMap

QWEN2_FAMILY = ("qwen2", "qwen2_moe", "qwen3")

# Scalings that stretch a trained window at run time. Others (llama3, linear) were trained with.
_RUNTIME_SCALINGS = ("yarn", "dynamic", "longrope")
_QWEN2_WINDOW = 32768
_KEY_LENGTHS = ("chunk_size", "local_size", "original_max_position_embeddings")
# Sparse attention approximates what is computed here exactly: its settings are not read.
_KEY_OTHERS = ("sparse_attention_enabled", "sparse_attention_config")


@dataclass(frozen=True)
class Scheme:
    """A position scheme with every number settled. Lengths are tokens.

    Attributes:
        method: one of METHODS.
        original_length: L0, what the temperature m(L) is relative to.
        trained_length: the trained window, what factors and YaRN's ramp are relative to.
        chunk_size, local_size, cap: Dual Chunk Attention's map; None for other methods.
        factor: extension factor of FACTOR_METHODS; None for others.
        sources: where each number came from, by name.
    """

    method: str
    original_length: int
    trained_length: int
    chunk_size: int | None = None
    local_size: int | None = None
    cap: Cap | None = None
    factor: float | None = None
    sources: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def chunk_map(self) -> ChunkMap | None:
        """The position map; None where the method has none."""
        if self.chunk_size is None or self.local_size is None or self.cap is None:
            return None
        return ChunkMap(self.chunk_size, self.local_size, self.cap)

    @property
    def chunk_len(self) -> int | None:
        """S, or None where the method has no chunks."""
        chunk_map = self.chunk_map
        return None if chunk_map is None else chunk_map.chunk_len

    @property
    def uses_request_length(self) -> bool:
        """True where the result depends on the prompt's length, through m(L)."""
        return self.method in LENGTH_METHODS

    def logit_scale(self, request_length: int) -> float:
        """m^2 for a prompt of so many tokens."""
        return softmax_temperature(self.method, self.factor, self.original_length, request_length)

    def to_dict(self, request_length: int | None = None) -> dict[str, Any]:
        """The scheme as results store it; keys are stable."""
        return {
            "method": self.method,
            "chunk_size": self.chunk_size,
            "local_size": self.local_size,
            "cap": self.cap,
            "L0": self.original_length,
            "factor": self.factor,
            "request_length": request_length,
        }

    def __str__(self) -> str:
        """One line for a banner: every number with its source."""
        parts = [f"method {self.method}"]
        for name in ("chunk_size", "local_size", "cap", "original_length", "factor"):
            value = getattr(self, name)
            if value is not None:
                shown = f"{value:g}" if isinstance(value, float) else value
                source = self.sources.get(name)
                parts.append(f"{name} {shown}" + (f" ({source})" if source else ""))
        if "scaling" in self.sources:
            parts.append(self.sources["scaling"])
        return ", ".join(parts)


def default_method(config: Any) -> str:
    """`yarn+dca` for the Qwen2 family (its published recipe), `dca` elsewhere."""
    return "yarn+dca" if getattr(config, "model_type", None) in QWEN2_FAMILY else "dca"


def resolve(
    config: Any,
    method: str,
    *,
    chunk_size: int | None = None,
    local_size: int | None = None,
    original_length: int | None = None,
    factor: float | None = None,
    cap: str = "chunk_size",
    request_length: int | None = None,
) -> Scheme:
    """Settle a scheme: arguments first, then the config's DCA key, then the family's rule.

    Args:
        config: a transformers config (decoder of a text model).
        method: one of METHODS.
        chunk_size, local_size, original_length, request_length: tokens.
        factor: None takes a yarn config's own factor, else request_length / original_length
            rounded up to a power of two.

    Raises:
        ValueError: unknown method or cap, an argument the method does not use, numbers that
            contradict each other or the config, an active sliding window, run-time scaling in
            the config beside another method, or a factor that cannot be known.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown: choose one of {', '.join(METHODS)}")
    if cap not in CAPS:
        raise ValueError(f"cap={cap!r} is unknown: choose one of {', '.join(CAPS)}")
    other_cap = None if cap == CAPS[0] else cap
    _check_unused(
        method, chunk_size=chunk_size, local_size=local_size, factor=factor, cap=other_cap
    )
    check_positive(
        chunk_size=chunk_size,
        local_size=local_size,
        original_length=original_length,
        request_length=request_length,
    )
    _check_factor(factor)
    rope = rope_parameters(config)
    sources: dict[str, str] = {}
    if method == "none":  # changes nothing, so what the config scales stays scaled
        if rope["rope_type"] in _RUNTIME_SCALINGS:
            sources["scaling"] = f"the config's own {rope['rope_type']} scaling stays active"
    else:
        _check_scaling(config, rope, method)
        _check_sliding_window(config, method)

    window = _trained_window(config, rope, original_length, sources)
    if method not in DCA_METHODS:
        settled = _factor(method, rope, factor, request_length, window, sources)
        return Scheme(method, window, window, factor=settled, sources=sources)

    key = _dca_key(config)
    if original_length is None and key.get("original_max_position_embeddings") is None:
        sources["original_length"] = "chunk_size"
    chunk_size, local_size = _chunk(config, key, chunk_size, local_size, window, sources)
    scheme = Scheme(
        method,
        chunk_size if sources["original_length"] == "chunk_size" else window,
        window,
        chunk_size,
        local_size,
        cap,  # type: ignore[arg-type]  # checked against CAPS above
        _factor(method, rope, factor, request_length, window, sources),
        sources,
    )
    ChunkMap(chunk_size, local_size, scheme.cap or "chunk_size")  # raises on a bad map
    return scheme


def rope_parameters(config: Any) -> dict[str, Any]:
    """The config's rotary parameters with `rope_type` always set.

    Raises:
        ValueError: parameters that differ by layer type; no single rotary exists.
    """
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(
            f"config.rope_parameters of {getattr(config, 'model_type', '?')!r} differ by layer "
            f"type ({', '.join(rope)}): only models with one rotary are supported"
        )
    rope.setdefault("rope_type", "default")
    return rope


def _check_unused(method: str, **given: float | str | None) -> None:
    """An argument that the method does not read would be a silent no-op."""
    for name, value in given.items():
        users = FACTOR_METHODS if name == "factor" else DCA_METHODS
        if value is not None and method not in users:
            raise ValueError(
                f"{name}={value} has no effect with method {method!r}: leave it out, or use one "
                f"of {', '.join(users)}"
            )


def _check_factor(factor: Any) -> None:
    if factor is not None and not (
        isinstance(factor, (int, float)) and math.isfinite(factor) and factor >= 1
    ):
        raise ValueError(f"factor={factor!r} must be a finite number of at least 1")


def check_positive(**given: Any) -> None:
    """Lengths are positive whole numbers; None stands for not given.

    Raises:
        ValueError: with the name and the value of the first that is not.
    """
    for name, value in given.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, Integral) or value <= 0
        ):
            raise ValueError(f"{name}={value!r} must be a positive whole number of tokens")


def _check_scaling(config: Any, rope: dict[str, Any], method: str) -> None:
    rope_type = rope["rope_type"]
    if rope_type not in _RUNTIME_SCALINGS:
        return
    has_key = bool(_dca_key(config))
    if has_key:
        raise ValueError(
            f"config has both rope_type {rope_type!r} and dual_chunk_attention_config: they are "
            f"methods 'yarn' and {'/'.join(repr(m) for m in DCA_METHODS)}, which exclude each "
            "other; remove one of the two from the config"
        )
    if method == "yarn" and rope_type == "yarn":
        return
    raise ValueError(
        f"config.rope_parameters has rope_type {rope_type!r}, which conflicts with method "
        f"{method!r}: "
        + ("use method 'yarn', or " if rope_type == "yarn" else "")
        + f"set rope_type to 'default' in the config to run {method!r} on the base frequencies"
    )


def _check_sliding_window(config: Any, method: str) -> None:
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        others = sorted(set(layer_types) - {"full_attention"})
        if others:
            raise ValueError(
                f"config.layer_types has {', '.join(others)} (sliding_window="
                f"{getattr(config, 'sliding_window', None)}): method {method!r} needs full "
                "attention in every layer; use method 'none'"
            )
        return
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        raise ValueError(
            f"config.sliding_window={window} is active: method {method!r} needs full attention "
            "in every layer; use method 'none', or set sliding_window to null if the model was "
            "trained without it"
        )


def _trained_window(
    config: Any, rope: dict[str, Any], original_length: int | None, sources: dict[str, str]
) -> int:
    """L0: argument, DCA key, rope parameters' original length, family rule, config."""
    key_length = _dca_key(config).get("original_max_position_embeddings")
    if original_length is not None:
        sources["original_length"] = "argument"
        return int(original_length)
    if key_length is not None:
        sources["original_length"] = "dual_chunk_attention_config"
        return int(key_length)
    longest = getattr(config, "max_position_embeddings", None)
    qwen2 = getattr(config, "model_type", None) in QWEN2_FAMILY
    rope_length = rope.get("original_max_position_embeddings")
    if rope_length is not None and (qwen2 or rope["rope_type"] in _RUNTIME_SCALINGS):
        sources["original_length"] = "rope_parameters"
        return int(rope_length)
    if longest is None:
        raise ValueError("original_length is needed: the config has no max_position_embeddings")
    if qwen2 and longest > _QWEN2_WINDOW:
        sources["original_length"] = "Qwen2 family"
        return _QWEN2_WINDOW
    sources["original_length"] = "max_position_embeddings"
    return int(longest)


def _dca_key(config: Any) -> dict[str, Any]:
    """The config's dual_chunk_attention_config; {} where absent."""
    key = getattr(config, "dual_chunk_attention_config", None)
    if key is None:
        return {}
    if not isinstance(key, dict):
        raise ValueError(f"config.dual_chunk_attention_config={key!r} must be an object")
    for name in set(key) - set(_KEY_LENGTHS) - set(_KEY_OTHERS):
        near = difflib.get_close_matches(name, _KEY_LENGTHS, n=1)
        raise ValueError(
            f"config.dual_chunk_attention_config has the unknown key {name!r}: "
            + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEY_LENGTHS)}")
        )
    check_positive(
        **{f"dual_chunk_attention_config.{name}": key.get(name) for name in _KEY_LENGTHS}
    )
    return key


def _chunk(
    config: Any,
    key: dict[str, Any],
    chunk_size: int | None,
    local_size: int | None,
    window: int,
    sources: dict[str, str],
) -> tuple[int, int]:
    """C and w: arguments, DCA key, else the family's rule."""
    qwen2 = getattr(config, "model_type", None) in QWEN2_FAMILY
    rule = "Qwen2 family" if qwen2 else "window * 7/8 and 1/8"
    if qwen2 and sources["original_length"] == "argument":
        rule = "original_length"
    if chunk_size is not None:
        sources["chunk_size"] = "argument"
    elif key.get("chunk_size") is not None:
        chunk_size = int(key["chunk_size"])
        sources["chunk_size"] = "dual_chunk_attention_config"
    else:
        chunk_size = window if qwen2 else window * 7 // 8
        sources["chunk_size"] = rule
    trained = max(window, _trained_window(config, rope_parameters(config), None, {}))
    if chunk_size > trained and sources["chunk_size"] == "argument":
        raise ValueError(
            f"chunk_size={chunk_size} exceeds the trained window of {trained} tokens: use at most "
            "that, or say original_length= if the model was trained on more"
        )
    if local_size is not None:
        sources["local_size"] = "argument"
    elif key.get("local_size") is not None and sources["chunk_size"] != "argument":
        local_size = int(key["local_size"])
        sources["local_size"] = "dual_chunk_attention_config"
    else:
        local_size = max(1, chunk_size // 32 if qwen2 else chunk_size // 7)
        sources["local_size"] = rule
    return int(chunk_size), int(local_size)


def _factor(
    method: str,
    rope: dict[str, Any],
    factor: float | None,
    request_length: int | None,
    window: int,
    sources: dict[str, str],
) -> float | None:
    if method not in FACTOR_METHODS:
        return None
    if factor is not None:
        sources["factor"] = "argument"
        return float(factor)
    if method == "yarn" and rope["rope_type"] == "yarn" and rope.get("factor") is not None:
        _check_factor(rope["factor"])
        sources["factor"] = "rope_parameters"
        return float(rope["factor"])
    if request_length is None:
        raise ValueError(
            f"method {method!r} needs factor= (how many times the window of {window} tokens), or "
            "request_length= to derive it from"
        )
    sources["factor"] = "request_length / original_length, up to a power of two"
    return float(2 ** max(0, math.ceil(math.log2(request_length / window))))
