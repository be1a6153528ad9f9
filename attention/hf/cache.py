"""What a key/value cache was filled with, remembered on the cache itself.

Keys depend on the scheme's positions, and in deeper layers on the temperature: a cache that another
scheme or temperature wrote looks the same and gives wrong answers. So every cache that an extended
model fills carries a tag, and is refused where it does not fit. The tag outlives `remove()`, and
with it a guard: a model that has no scheme would read the keys wrongly, so the cache itself
refuses. Nothing stays on the model for that.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache as memoised
from typing import Any, NamedTuple

from longctx.attention.config import Scheme

_TAG = "_longctx_cache"
_OPEN = "_longctx_open"  # True while a forward that was checked against the tag is under way
# transformers 5.24 renamed argument and output field, and takes the old name for a while.
_NAMES = ("cache", "past_key_values")


class Tag(NamedTuple):
    """The scheme and the temperature, m^2 per batch row, that wrote a cache."""

    scheme: Scheme
    logit_scales: tuple[float, ...]


def cache_argument(model: Any) -> str:
    """What the forward of a model or layer calls its cache in this release of transformers.

    Raises:
        ValueError: neither name is among its parameters, so its cache would go unseen.
    """
    parameters = inspect.signature(model.forward).parameters
    for name in _NAMES:
        if name in parameters:
            return name
    name = getattr(model, "__name__", type(model).__name__)
    raise ValueError(
        f"{name} cannot be extended: its forward takes neither of "
        f"{', '.join(_NAMES)}, so what it has cached could not be counted"
    )


def given_cache(kwargs: Mapping[str, Any]) -> Any:
    """The cache among a forward's keywords or in its output, under either name."""
    return next((kwargs[name] for name in _NAMES if kwargs.get(name) is not None), None)


def tag_cache(output: Any, given: Any, tag: Tag) -> None:
    """Mark the cache of a finished forward: what was given, or what came out."""
    cache = given
    if cache is None and isinstance(output, Mapping):
        # As a plain mapping: asked for the old name, the output itself warns of it.
        cache = given_cache(dict(output.items()))
    if cache is None and isinstance(output, tuple):
        cache = next((item for item in output if hasattr(item, "get_seq_length")), None)
    if cache is not None:
        _mark(cache, tag)
        setattr(cache, _OPEN, False)


def open_cache(cache: Any, tag: Tag) -> None:
    """A forward that may write begins: the tag stays even if that forward fails half-way."""
    if cache is not None:
        _mark(cache, tag)
        setattr(cache, _OPEN, True)


def check_cache(cache: Any, past: int, tag: Tag) -> None:
    """Refuse a cache whose `past` tokens another scheme or temperature wrote.

    Raises:
        ValueError: its tag differs, or it has none and the scheme would have written other keys or
            values: beyond the first chunk, at other frequencies, or at a temperature above 1.
    """
    if not past:
        return
    made: Tag | None = getattr(cache, _TAG, None)
    if made is None:
        why = _unlike_plain(tag, past)
        if why is not None:
            raise ValueError(
                f"the cache holds {past} tokens that were not written under {tag.scheme.method!r}, "
                f"so {why}: start from an empty cache"
            )
        return
    same_rows = len(made.logit_scales) == len(tag.logit_scales)
    same_scales = (
        made.logit_scales == tag.logit_scales
        if same_rows  # else beams or samples multiplied the rows
        else set(made.logit_scales) == set(tag.logit_scales)
    )
    if made.scheme != tag.scheme or not same_scales:
        raise ValueError(
            f"the cache was filled with {_show(made)}, this forward needs {_show(tag)}: start from "
            "an empty cache, or fix request_length"
        )


def _unlike_plain(tag: Tag, tokens: int) -> str | None:
    """Why a cache of so many tokens is not what the unextended model writes; None where it is."""
    scheme = tag.scheme
    if scheme.chunk_len is not None and tokens > scheme.chunk_len:
        return f"their keys are rotated otherwise (chunk_len is {scheme.chunk_len})"
    if scheme.factor is not None and scheme.factor != 1:
        return f"their keys are rotated at other frequencies (factor is {scheme.factor:g})"
    hottest = max(tag.logit_scales, default=1.0)
    if hottest != 1:  # deeper layers' keys and values come from attention at the temperature
        return f"they were computed at another temperature (logits x {hottest:.6f})"
    return None


class _Guarded:
    """Mixed into the class of a tagged cache: who writes must have been checked against the tag."""

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *a: Any, **k: Any) -> Any:
        """The cache's own update.

        Raises:
            ValueError: a model without the scheme goes on with keys that it would misread.
        """
        plain: Any = super()
        if not getattr(self, _OPEN, False):
            tag, tokens = getattr(self, _TAG), int(plain.get_seq_length(layer_idx))
            why = _unlike_plain(tag, tokens) if tokens else None
            if why is not None:
                raise ValueError(
                    f"the cache holds {tokens} tokens that were written under "
                    f"{tag.scheme.method!r}, and this model runs without it; {why}: start from an "
                    "empty cache, or extend the model again"
                )
            _unmark(self)  # what follows is the plain model's
            return self.update(key_states, value_states, layer_idx, *a, **k)
        return plain.update(key_states, value_states, layer_idx, *a, **k)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are guarded too; their class is made anew where they are read."""
        return _empty, (type(self).__mro__[2],), self.__dict__


@memoised
def _guarded(cls: type) -> type:
    return type(
        cls.__name__, (_Guarded, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__}
    )


def _empty(cls: type) -> Any:
    made: Any = _guarded(cls)
    return made.__new__(made)


def _mark(cache: Any, tag: Tag) -> None:
    setattr(cache, _TAG, tag)
    if not isinstance(cache, _Guarded) and hasattr(cache, "update"):
        own: Any = type(cache)
        cache.__class__ = _guarded(own)


def _unmark(cache: Any) -> None:
    for name in (_TAG, _OPEN):
        cache.__dict__.pop(name, None)
    cache.__class__ = type(cache).__mro__[2]


def _show(tag: Tag) -> str:
    scales = ", ".join(f"{scale:.6f}" for scale in sorted(set(tag.logit_scales)))
    return f"{tag.scheme} at logits x {scales}"
