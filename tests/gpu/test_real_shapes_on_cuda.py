"""Real shapes over filled caches on a GPU: 128K keys, packed sequences, offsets beyond 32 bits.

What `python benchmarks/gpu.py` measures in its first section, asserted.
"""

from __future__ import annotations

import gpu_checks
import gpu_model_checks
import gpu_step_checks
import pytest
import torch
from gpu_checks import SHAPES, Check

from longctx.attention import kernels
from longctx.attention.kernels.base import Kernel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

ON_CPU = ("native", "torch_cpu", "reference")
CUDA = torch.device("cuda")
BF16 = torch.bfloat16
KEYS = 131_072


@pytest.fixture(params=[name for name in kernels.names() if name not in ON_CPU])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    candidate = kernels.get(request.param)
    reason = candidate.unavailable(CUDA, BF16)
    if reason is not None:
        pytest.skip(f"{candidate.name} {reason}")
    return candidate


def hold(checks: list[Check]) -> None:
    assert checks
    wrong = [check for check in checks if not check.ok]
    assert not wrong, wrong


@pytest.mark.parametrize("name", SHAPES)
def test_calls_over_128k_keys(kernel: Kernel, name: str) -> None:
    hold(gpu_checks.shape_checks(name, kernel, SHAPES[name], KEYS, BF16, CUDA))


@pytest.mark.parametrize("slots", [300, KEYS])
@pytest.mark.parametrize("name", SHAPES)
def test_packed_runs_that_overlap_in_any_order(kernel: Kernel, name: str, slots: int) -> None:
    if not gpu_checks.ways_of(kernel, SHAPES[name].dim):
        pytest.skip(f"{kernel.name} packs no sequences")
    hold(gpu_checks.packing_checks(name, kernel, SHAPES[name], slots, BF16, CUDA))


@pytest.mark.parametrize("name", SHAPES)
def test_keys_beyond_two_to_the_31_numbers(kernel: Kernel, name: str) -> None:
    hold(gpu_checks.far_checks(kernel, SHAPES[name], 2**31, BF16, CUDA))


@pytest.mark.parametrize("name", SHAPES)
def test_sixteen_rows_of_different_lengths_decode(kernel: Kernel, name: str) -> None:
    rows = gpu_step_checks.ragged(KEYS, gpu_step_checks.QWEN2)
    hold(
        gpu_step_checks.dca_checks(
            "ragged", kernel, SHAPES[name], gpu_step_checks.QWEN2, rows, BF16, CUDA
        )
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_prompts_block_across_a_border(kernel: Kernel, name: str) -> None:
    rows = gpu_step_checks.across_a_border(KEYS, gpu_step_checks.QWEN2)
    hold(
        gpu_step_checks.dca_checks(
            "border", kernel, SHAPES[name], gpu_step_checks.QWEN2, rows, BF16, CUDA
        )
    )


@pytest.mark.parametrize("dtype", [torch.float16, BF16])
def test_the_drop_in(dtype: torch.dtype) -> None:
    hold(gpu_model_checks.drop_in_checks(CUDA, dtype))


@pytest.mark.parametrize("dtype", [torch.float16, BF16])
def test_the_engines_steps(dtype: torch.dtype) -> None:
    hold(gpu_model_checks.engine_checks(CUDA, dtype))
