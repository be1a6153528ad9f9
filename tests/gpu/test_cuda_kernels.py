"""Every kernel for CUDA against a float64 oracle, on a GPU.

Runs from an uninstalled clone: `pytest tests/gpu`. Oracle and tolerance: `gpu_checks.py` of
`tests/support`.
Shape legend: B batch, H query heads, K key/value heads, G = H / K, L queries, M keys, D head dim.
"""

from __future__ import annotations

import pytest
import torch
from gpu_checks import call_checks, dense, distance, normal

from longctx.attention import kernels
from longctx.attention.kernels.base import Kernel
from longctx.attention.merge import merge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

ON_CPU = ("native", "torch_cpu", "reference")
DTYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(params=[name for name in kernels.names() if name not in ON_CPU])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    candidate = kernels.get(request.param)
    reason = candidate.unavailable(torch.device("cuda"), torch.bfloat16)
    if reason is not None:
        pytest.skip(f"{candidate.name} {reason}")
    return candidate


def check(
    kernel: Kernel,
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    causal: bool,
) -> None:
    wrong = [c for c in call_checks("", kernel, q_BHLD, k_BKMD, v_BKMD, causal) if not c.ok]
    assert not wrong, wrong


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys"), [(257, 257), (64, 300), (2, 1025), (1, 4096), (1, 1), (130, 131)]
)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("group", [1, 3, 7, 8])
def test_matches_oracle(
    kernel: Kernel,
    group: int,
    dim: int,
    queries: int,
    keys: int,
    causal: bool,
    dtype: torch.dtype,
) -> None:
    q_BHLD = normal(2, 2 * group, queries, dim, dtype=dtype, seed=1)
    k_BKMD = normal(2, 2, keys, dim, dtype=dtype, seed=2)
    v_BKMD = normal(2, 2, keys, dim, dtype=dtype, seed=3)
    check(kernel, q_BHLD, k_BKMD, v_BKMD, causal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 65])
@pytest.mark.parametrize(
    "kind", ["cache slice", "BLHD storage", "head_dim strided", "offset 1", "one batch expanded"]
)
def test_strided_views(kernel: Kernel, kind: str, queries: int, dtype: torch.dtype) -> None:
    if kind == "cache slice":
        q_BHLD = normal(2, 6, queries + 7, 64, dtype=dtype, seed=1)[:, :, 5 : 5 + queries]
        k_BKMD, v_BKMD = (normal(2, 2, 300, 64, dtype=dtype, seed=s)[:, :, 9:210] for s in (2, 3))
    elif kind == "BLHD storage":
        q_BHLD = normal(2, queries, 6, 64, dtype=dtype, seed=1).transpose(1, 2)
        k_BKMD, v_BKMD = (
            normal(2, 201, 2, 64, dtype=dtype, seed=s).transpose(1, 2) for s in (2, 3)
        )
    elif kind == "head_dim strided":
        q_BHLD = normal(2, 6, 64, queries, dtype=dtype, seed=1).transpose(2, 3)
        k_BKMD, v_BKMD = (normal(2, 2, 201, 128, dtype=dtype, seed=s)[..., ::2] for s in (2, 3))
    elif kind == "offset 1":  # every row misaligned
        q_BHLD = normal(2, 6, queries, 67, dtype=dtype, seed=1)[..., 1:65]
        k_BKMD, v_BKMD = (normal(2, 2, 201, 67, dtype=dtype, seed=s)[..., 1:65] for s in (2, 3))
    else:
        q_BHLD = normal(1, 6, queries, 64, dtype=dtype, seed=1).expand(3, -1, -1, -1)
        k_BKMD, v_BKMD = (
            normal(1, 2, 201, 64, dtype=dtype, seed=s).expand(3, -1, -1, -1) for s in (2, 3)
        )
    check(kernel, q_BHLD, k_BKMD, v_BKMD, True)


@pytest.mark.parametrize("dim", [20, 80, 256])
def test_other_head_dims(kernel: Kernel, dim: int) -> None:
    q_BHLD, k_BKMD, v_BKMD = (normal(1, 4, 70, dim, dtype=torch.bfloat16, seed=s) for s in range(3))
    check(kernel, q_BHLD, k_BKMD, v_BKMD, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_empty_parts(kernel: Kernel, causal: bool, dtype: torch.dtype) -> None:
    k_BKMD = normal(2, 2, 9, 64, dtype=dtype, seed=1)
    none = kernel(
        normal(2, 4, 0, 64, dtype=dtype, seed=0), k_BKMD, k_BKMD, causal=causal, scale=1.0
    )
    assert none.out_BHLD.shape == (2, 4, 0, 64)
    assert none.lse_BHL.shape == (2, 4, 0)
    if not causal:  # causal needs as many keys as queries
        bare = kernel(
            normal(2, 4, 3, 64, dtype=dtype, seed=0),
            k_BKMD[:, :, :0],
            k_BKMD[:, :, :0],
            causal=False,
            scale=1.0,
        )
        assert bare.out_BHLD.count_nonzero() == 0
        assert bare.lse_BHL.eq(-torch.inf).all()


def test_rejects_more_queries_than_keys(kernel: Kernel) -> None:
    q_BHLD = normal(1, 2, 9, 64, dtype=torch.bfloat16, seed=0)
    with pytest.raises(ValueError, match="9 queries need at least as many keys, got 4"):
        kernel(q_BHLD, q_BHLD[:, :, :4], q_BHLD[:, :, :4], causal=True, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inter", [0, 512])
def test_three_parts_merged_are_dense_attention(
    kernel: Kernel, inter: int, dtype: torch.dtype
) -> None:
    succ = inter + 256
    parts = [(0, inter, False), (inter, succ, False), (succ, succ + 200, True)]
    q_BHLD = normal(1, 14, 100, 64, dtype=dtype, seed=1)
    k_BKMD, v_BKMD = (normal(1, 2, succ + 200, 64, dtype=dtype, seed=s) for s in (2, 3))
    got = merge(
        [
            kernel(q_BHLD, k_BKMD[:, :, a:b], v_BKMD[:, :, a:b], causal=causal, scale=0.125)
            for a, b, causal in parts
        ]
    )
    want = dense(q_BHLD, k_BKMD, v_BKMD, True, 0.125)
    plain = dense(q_BHLD, k_BKMD, v_BKMD, True, 0.125, dtype)
    assert distance(got.out_BHLD, want.out_BHLD) <= 1.2 * distance(plain.out_BHLD, want.out_BHLD)
    torch.testing.assert_close(got.lse_BHL.double(), want.lse_BHL, rtol=1e-4, atol=1e-4)
