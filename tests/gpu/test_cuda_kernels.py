"""Every kernel for CUDA against a float64 oracle, on a GPU.

Runs from an uninstalled clone: `pytest tests/gpu`. The oracle is an einsum that builds its own
mask; the tolerance is what plain attention in the same dtype achieves on the same input.
Shape legend: B batch, H query heads, K key/value heads, G = H / K, L queries, M keys, D head dim.
"""

from __future__ import annotations

import pytest
import torch

from longctx.attention import kernels
from longctx.attention.kernels.base import Kernel, Partial
from longctx.attention.merge import merge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

DTYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(params=[name for name in kernels.names() if name not in ("torch_cpu", "reference")])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    candidate = kernels.get(request.param)
    reason = candidate.unavailable(torch.device("cuda"), torch.bfloat16)
    if reason is not None:
        pytest.skip(f"{candidate.name} {reason}")
    return candidate


def normal(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cuda").to(dtype)


def dense(
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    causal: bool,
    scale: float,
    dtype: torch.dtype = torch.float64,
) -> Partial:
    """Textbook attention, every step in `dtype`; causal: the last query sees the last key."""
    queries, keys = q_BHLD.shape[2], k_BKMD.shape[2]
    q_BKGLD = q_BHLD.to(dtype).unflatten(1, (k_BKMD.shape[1], -1))
    logits_BKGLM = scale * torch.einsum("bkgld,bkmd->bkglm", q_BKGLD, k_BKMD.to(dtype))
    if causal:
        i_L1 = torch.arange(queries, device="cuda")[:, None]
        hidden_LM = torch.arange(keys, device="cuda") > i_L1 + keys - queries
        logits_BKGLM = logits_BKGLM.masked_fill(hidden_LM, -torch.inf)
    out_BKGLD = torch.einsum("bkglm,bkmd->bkgld", logits_BKGLM.softmax(-1), v_BKMD.to(dtype))
    return Partial(out_BKGLD.flatten(1, 2), logits_BKGLM.logsumexp(-1).flatten(1, 2))


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


def check(
    kernel: Kernel,
    q_BHLD: torch.Tensor,
    k_BKMD: torch.Tensor,
    v_BKMD: torch.Tensor,
    causal: bool,
) -> None:
    scale = 1.1 * q_BHLD.shape[3] ** -0.5  # not the default: it must reach the kernel
    got = kernel(q_BHLD, k_BKMD, v_BKMD, causal=causal, scale=scale)
    want = dense(q_BHLD, k_BKMD, v_BKMD, causal, scale)
    plain = dense(q_BHLD, k_BKMD, v_BKMD, causal, scale, q_BHLD.dtype)
    assert got.out_BHLD.shape == q_BHLD.shape
    # With one key the softmax is 1 and plain attention is exact: the floor is one rounding.
    allowed = max(distance(plain.out_BHLD, want.out_BHLD), torch.finfo(q_BHLD.dtype).eps)
    assert distance(got.out_BHLD, want.out_BHLD) <= 1.2 * allowed
    assert got.lse_BHL.shape == q_BHLD.shape[:3]
    assert got.lse_BHL.dtype == torch.float32
    torch.testing.assert_close(got.lse_BHL.double(), want.lse_BHL, rtol=1e-4, atol=1e-4)


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
