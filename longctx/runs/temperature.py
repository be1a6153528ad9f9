"""YaRN's temperature of the methods of a run, for its records. Knows no prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longctx.eval.protocol import Temperature, TemperatureAt


def temperature_of(
    schemes: Mapping[str, Mapping[str, Any]], temperature_at: TemperatureAt
) -> Temperature:
    """m for a method and a prompt's length; None where no temperature follows the length."""

    def found(method: str, length: int) -> float | None:
        original_length = schemes[method]["L0"]
        if original_length is None:  # a simulated model, which waits for no torch
            return None
        from longctx.attention.methods import LENGTH_METHODS
        from longctx.attention.rope import temperature

        if method not in LENGTH_METHODS:
            return None
        return temperature(temperature_at(method, length), original_length)

    return found
