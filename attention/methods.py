"""The methods, a row each: what is asked of a method's name is answered here, by its traits.

Knows no model and no tensor.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from longctx.attention.rope import temperature, yarn_mscale

Frequencies = Literal["trained", "pi", "ntk", "yarn"]


class Method(NamedTuple):
    """How a method differs from plain attention at the trained frequencies."""

    frequencies: Frequencies = "trained"
    chunks: bool = False  # Dual Chunk Attention
    # Where m goes: nowhere; into cos and sin, m(factor) as transformers has it; or squared into the
    # softmax scale, m(factor), or m(L) of the prompt's length. These two need chunks: without them
    # the drop-in leaves the attention function alone.
    temperature: Literal["none", "rotary", "factor", "length"] = "none"

    @property
    def has_factor(self) -> bool:
        return self.frequencies != "trained" or self.temperature in ("rotary", "factor")


TRAITS: dict[str, Method] = {
    "none": Method(),
    "pi": Method("pi"),
    "ntk": Method("ntk"),
    "yarn": Method("yarn", temperature="rotary"),
    "dca": Method(chunks=True),
    "yarn+dca": Method(chunks=True, temperature="length"),
    "yarn-freqs+dca": Method("yarn", chunks=True, temperature="factor"),
}
METHODS = tuple(TRAITS)
DCA_METHODS = tuple(name for name, method in TRAITS.items() if method.chunks)
FACTOR_METHODS = tuple(name for name, method in TRAITS.items() if method.has_factor)
# Those whose temperature follows the prompt's length.
LENGTH_METHODS = tuple(name for name, method in TRAITS.items() if method.temperature == "length")


def softmax_temperature(
    method: str, factor: float | None, original_length: int, request_length: int
) -> float:
    """m^2, which logits are multiplied by. One place for drop-in and engine.

    Args:
        original_length: L0, tokens.
        request_length: tokens of the prompt; read by LENGTH_METHODS alone.
    """
    follows = TRAITS[method].temperature
    if follows == "length":
        return temperature(request_length, original_length) ** 2
    if follows == "factor":
        assert factor is not None
        return yarn_mscale(factor) ** 2
    return 1.0
