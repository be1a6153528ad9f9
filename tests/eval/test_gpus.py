"""What a sweep would take on a GPU by its data sheet, by hand."""

from __future__ import annotations

import pytest

from longctx.errors import UserError
from longctx.eval.gpus import BANDWIDTH_SHARE, COMPUTE_SHARE, GPUS, estimate_on, gpu_of
from longctx.eval.needle.grid import Cell
from longctx.models.source import ModelShape

# Qwen2.5-7B: 28 layers, 7.6 billion parameters, 56 KiB of keys and values a token.
SEVEN_B = ModelShape(
    layers=28,
    hidden=3584,
    intermediate=18944,
    heads=28,
    kv_heads=4,
    head_dim=128,
    vocabulary=152064,
)


def test_a_sweep_by_hand() -> None:
    length, answer = 128 * 1024, 128
    cells = [Cell("yarn+dca", length, None, repeat) for repeat in range(3)]
    found = estimate_on(gpu_of("h100"), cells, SEVEN_B, answer, prefix_sharing=False)
    layer = 3584 * 128 * (2 * 28 + 2 * 4) + 3 * 3584 * 18944
    linear = 2 * 28 * layer * length
    pairs = 2 * 28 * 28 * 128 * length**2  # causal: half of 4 d L^2 a head
    assert found.prefill_s == pytest.approx(3 * (linear + pairs) / (COMPUTE_SHARE * 989e12))
    weights = 2 * (28 * layer + 2 * 3584 * 152064)
    assert weights == pytest.approx(15.2e9, rel=0.01)
    assert found.weight_bytes == weights
    assert found.kv_bytes == 56 * 1024 * length
    read = 3 * answer * (weights + found.kv_bytes)
    assert found.decode_s == pytest.approx(read / (BANDWIDTH_SHARE * 3.35e12))
    assert found.fits and "not measured" in str(found)
    assert str(found).startswith("on one H100 about ")


def test_what_does_not_fit_is_said() -> None:
    cell = Cell("yarn+dca", 1 << 20, None, 0)
    found = estimate_on(gpu_of("L4"), [cell], SEVEN_B, 128, prefix_sharing=False)
    assert not found.fits
    assert str(found).startswith("on one L4 it does not fit: 14 GiB of weights and 56 GiB of keys")


def test_another_name_is_an_error() -> None:
    with pytest.raises(UserError, match="--gpu H1000: not known: use A100-40GB, A100-80GB, H100"):
        gpu_of("H1000")
    assert {sheet.name for sheet in GPUS.values()} == set(GPUS)
