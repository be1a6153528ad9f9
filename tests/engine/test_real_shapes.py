"""Qwen2-7B, -72B and -57B-A14B at their real widths decode at 131,071 as a float64 oracle does.

Real: the widths, heads and experts of a layer or two, the scheme by the family's rules, and all of
the engine's way from submit() to the logits. Set: random weights, a vocabulary of 1,024, and random
keys and values of the prompt, which lie in the engine's prefix store as an earlier request would
have left them; no prompt of 131,071 tokens is computed. How: `tests/support/real_shapes.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longctx.engine.memory import free_host_bytes

SCRIPT = Path(__file__).resolve().parent.parent / "support" / "real_shapes.py"
SCHEME = {
    "method": "yarn+dca",
    "chunk_size": 32768,
    "local_size": 1024,
    "cap": "chunk_size",
    "L0": 32768,
    "factor": None,
    "request_length": None,
}
# What is reached: 5.8e-6 (L2 of a layer's attention) and 1.8e-6 (of the greatest logit).
ATTENTION, LOGITS = 1e-5, 4e-6
# transformers' float32 angles of the new token at 4,095 of its chunk: 7.8e-5 and 3.8e-5.
ATTENTION_EXACT, LOGITS_EXACT = 1.5e-4, 8e-5
MOST_BYTES = 16 * 10**9

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]


def measured(name: str, peak_gb: int) -> dict[str, Any]:
    """What the program found, in a process of its own: its peak is this model's alone."""
    if free_host_bytes() < 1.2e9 * peak_gb:
        pytest.skip(f"needs {peak_gb} GB of memory")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(name, done.stdout)
    assert found["scheme"] == SCHEME
    assert found["cached"] == [131_070, 127_476]
    assert found["frequencies"] < 2**-23  # float32's rounding of 1e6^(-2i/128)
    assert found["peak_bytes"] < min(MOST_BYTES, 1.15e9 * peak_gb)
    return found


def assert_close(found: dict[str, Any], attention: float, logits: float) -> None:
    assert max(max(layer) for layer in found["attention"]) < attention
    assert max(found["logits"]) < logits
    assert found["greedy"]


@pytest.mark.parametrize(("name", "peak_gb"), [("Qwen2-72B", 6), ("Qwen2-57B-A14B", 10)])
def test_a_layer_decodes_as_the_oracle(name: str, peak_gb: int) -> None:
    found = measured(name, peak_gb)
    for where in ("far", "near a border"):
        assert_close(found[where], ATTENTION, LOGITS)


def test_two_layers_of_7b_decode_as_the_oracle_and_not_as_wrong_ones() -> None:
    found = measured("Qwen2-7B", 4)
    for where in ("far", "near a border"):
        assert_close(found[where], ATTENTION, LOGITS)
    assert_close(found["exact angles"], ATTENTION_EXACT, LOGITS_EXACT)
    for wrong in ("no temperature", "the other cap"):
        assert min(min(layer) for layer in found[wrong]["attention"]) > 1e3 * ATTENTION_EXACT
        assert min(found[wrong]["logits"]) > 1e3 * LOGITS_EXACT
