"""Proof that a method is at work, at the cost of one layer, so that no silent no-op passes.

Asks for hidden states with and without the method, whoever computes them. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from longctx.attention import Scheme
from longctx.errors import UserError

_PROBE_TOKENS = 64
# A prompt within one chunk runs the plain model's own kernel: equal up to rounding.
_SAME = 0.02
# Rounding of the merged parts, seen where positions are still true, against the effect of the
# clamped positions behind them: 0.005 and 0.024 on a bfloat16 model of 135M.
_SIGNAL_OVER_NOISE = 2.0


class UnprovenMethodError(UserError):
    """The method that was asked for is not the one that runs."""


class HiddenStates(Protocol):
    """Hidden states [T, width] of a prompt behind the first `layers` layers (None: all)."""

    def __call__(
        self, tokens: list[int], layers: int | None, request_length: int
    ) -> torch.Tensor: ...


def prove(
    scheme: Scheme,
    vocabulary: int,
    plain: HiddenStates,
    under: Callable[[], AbstractContextManager[HiddenStates]],
) -> Mapping[str, Any]:
    """Compare the model with itself under the scheme.

    DCA must leave a short prompt as it is, and must change what the first layer gives for tokens
    that lie a quarter beyond the chunk size; methods that change frequencies must change even a
    short prompt. `verified` is False where an effect is there but drowns in rounding.

    Args:
        plain: of the model as it is; asked before `under` is entered.
        under: puts the scheme on the model while its block lasts.

    Raises:
        UnprovenMethodError: nothing changes, or a short prompt does.
    """
    method = scheme.method
    if method == "none":
        return {"verified": True, "by": "the model is unchanged"}
    window = scheme.chunk_size or 0
    generator = torch.Generator().manual_seed(0)
    length = window + max(_PROBE_TOKENS, window // 4)
    tokens = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
    short = tokens[: min(_PROBE_TOKENS, window or _PROBE_TOKENS)]
    plain_short = plain(short, None, len(short))
    plain_long = plain(tokens, 1, length)
    with under() as states:
        short_change = _change(states(short, None, len(short)), plain_short)
        # At L0 or below YaRN's temperature is 1, so that positions are all that differs.
        long_states = states(tokens, 1, min(length, scheme.original_length))
    last = slice(-_PROBE_TOKENS, None)
    layer_change = _change(long_states[last], plain_long[last])
    if layer_change == 0.0:
        raise UnprovenMethodError(
            f"--methods {method}: it is not at work: the first layer gives the same for {length} "
            "tokens with it and without it"
        )
    # Frequencies and YaRN's factor change everything; plain DCA nothing within one chunk.
    rounding = 0.0
    if window and scheme.factor is None:
        if short_change > _SAME:
            raise UnprovenMethodError(
                f"--methods {method}: it changes a prompt of {len(short)} tokens by "
                f"{short_change:.1%}: within one chunk it must not"
            )
        true_positions = slice(max(window - _PROBE_TOKENS, 0), window)
        rounding = _change(long_states[true_positions], plain_long[true_positions])
    return {
        "verified": layer_change > _SIGNAL_OVER_NOISE * rounding,
        "tokens": length,
        "layer_change": float(f"{layer_change:.3g}"),
        "rounding": float(f"{rounding:.3g}"),
        "short_change": float(f"{short_change:.3g}"),
    }


def states_of(model: Any, device: torch.device) -> HiddenStates:
    """Of a transformers model by its own forward, whatever scheme is on it. Not in inference mode,
    where an extended model has another kernel than the plain one."""

    def states(tokens: list[int], layers: int | None, request_length: int) -> torch.Tensor:
        base: Any = model.base_model
        config, whole = base.config, base.config.num_hidden_layers
        # Decoders of transformers run `self.layers[: self.config.num_hidden_layers]`.
        config.num_hidden_layers = layers or whole
        try:
            with torch.no_grad():
                ids = torch.tensor([tokens], device=device)
                found: torch.Tensor = base(ids, use_cache=False).last_hidden_state[0]
        finally:
            config.num_hidden_layers = whole
        return found

    return states


def _change(states: torch.Tensor, plain: torch.Tensor) -> float:
    return float((states.float() - plain.float()).norm() / plain.float().norm())
