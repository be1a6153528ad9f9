"""Memory for the keys of requests in flight when a local model is evaluated."""

from __future__ import annotations

import pytest
import torch

from longctx.models import served
from longctx.models.served import Asking

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("longest", "bytes_per_token", "weights", "expected"),
    [
        (8192, 1000, 400 << 20, 4 * 8192 * 1000),  # four contexts
        (512, 1000, 400 << 20, 16384 * 1000),  # as many tokens of short ones
        (8192, 50_000, 400 << 20, 8192 * 50_000),  # one context is more than the share, and holds
        (4096, 20_000, 400 << 20, 100 << 20),  # a quarter of the weights
        (512, 20_000, 3 << 20, 16 << 20),  # small beside any process
    ],
)
def test_keys_in_flight_stay_small_beside_the_weights(
    longest: int, bytes_per_token: int, weights: int, expected: int
) -> None:
    facts = served._Facts("torch_cpu", bytes_per_token, 0, weights)
    assert served._kv_budget(facts, Asking("auto", longest), CPU) == expected


def test_a_gpu_gives_what_it_has() -> None:
    facts = served._Facts("torch_cuda", 1000, 0, 1 << 20)
    assert served._kv_budget(facts, Asking("auto", 512), torch.device("cuda")) is None
