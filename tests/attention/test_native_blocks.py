"""Blocks of queries in C: against float64 in every instruction set, the same bits in any batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from native_cases import LOADED, REFERENCE, levels, rounded
from oracle import relative_error

from longctx.attention import kernels
from longctx.attention.int8_keys import widen
from longctx.attention.kernels import in_int8
from longctx.attention.kernels.base import Partial
from longctx.attention.native import blocks, library

NATIVE, TORCH = kernels.get("native"), kernels.get("torch_cpu")
FLOAT32, BF16 = torch.float32, torch.bfloat16

pytestmark = pytest.mark.skipif(isinstance(LOADED, str), reason=f"the library {LOADED}")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Case(NamedTuple):
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool

    def exact(self) -> Partial:
        q, k, v = (x.double() for x in self[:3])
        return REFERENCE(q, k, v, causal=self.causal, scale=q.shape[3] ** -0.5)

    def found(self, level: int = 2, threads: int = 1) -> Partial:
        assert isinstance(LOADED, library.Library)
        torch.set_num_threads(threads)
        chosen, scale = replace(LOADED, level=min(level, levels()[-1])), self.q.shape[3] ** -0.5
        return Partial(*blocks.attend(chosen, *self[:3], causal=self.causal, scale=scale))

    def theirs(self) -> Partial:
        return TORCH(*self[:3], causal=self.causal, scale=self.q.shape[3] ** -0.5)


def laid(generator: torch.Generator, order: int, *shape: int) -> torch.Tensor:
    """[B, N, L, D] of random numbers: a slice of a cache, heads behind tokens, or as it is."""
    batch, heads, length, dim = shape
    if order == 0:
        return torch.randn(batch, heads, length + 5, dim + 8, generator=generator)[:, :, 2:-3, 8:]
    if order == 1:
        return torch.randn(batch, length, heads, dim, generator=generator).transpose(1, 2)
    return torch.randn(shape, generator=generator)


def drawn(seed: int, dim: int, dtypes: tuple[torch.dtype, ...] = (FLOAT32,) * 3) -> Case:
    choose, generator = random.Random(1000 * dim + seed), torch.Generator().manual_seed(seed)
    batch, kv_heads, group = (
        choose.randint(1, 2),
        choose.randint(1, 3),
        choose.choice([1, 2, 3, 7, 8]),
    )
    queries = choose.choice([1, 2, 5, 31, 64, 90, 131])
    keys = queries + choose.choice([0, 0, 1, 17, 100, 128, 300])
    causal = choose.random() < 0.7
    if not causal:
        keys = choose.choice([1, 3, 16, 63, 128, 129, 257])
    shapes = (
        (batch, group * kv_heads, queries, dim),
        *((batch, kv_heads, keys, dim) for _ in "kv"),
    )
    tensors = [
        laid(generator, choose.randrange(3), *shape).to(dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    return Case(*tensors, causal)


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256, 8, 18, 1])
def test_every_instruction_set_gives_the_softmax_of_float64(dim) -> None:
    for seed in range(8):
        case = drawn(seed, dim)
        exact = case.exact()
        for level in levels():
            found = case.found(level)
            assert found.out_BHLD.dtype == found.lse_BHL.dtype == FLOAT32
            assert found.out_BHLD.transpose(1, 2).is_contiguous()
            assert relative_error(found.out_BHLD, exact.out_BHLD) < 2e-6, library.LEVELS[level]
            assert (found.lse_BHL - exact.lse_BHL).abs().max() < 1e-5, library.LEVELS[level]


@pytest.mark.parametrize("dim", [64, 80, 128])
def test_bf16_is_no_further_from_float64_than_torchs_own(dim) -> None:
    for seed in range(4):
        case = drawn(seed, dim, (BF16,) * 3)
        exact, theirs = case.exact(), case.theirs()
        bound = 1.05 * relative_error(theirs.out_BHLD, exact.out_BHLD)
        for level in levels():
            found = case.found(level)
            assert found.out_BHLD.dtype == BF16
            assert relative_error(found.out_BHLD, exact.out_BHLD) <= bound
            assert (found.lse_BHL - exact.lse_BHL).abs().max() < 1e-5


@pytest.mark.parametrize(
    "dtypes", [(FLOAT32, BF16, BF16), (FLOAT32, BF16, FLOAT32), (BF16, FLOAT32, BF16)], ids=str
)
def test_queries_keys_and_values_may_be_of_different_types(dtypes) -> None:
    for dim in (64, 18):
        case = drawn(3, dim, dtypes)
        bound = 2e-6 if dtypes[0] == FLOAT32 else 3e-3  # what is written has the query's type
        for level in levels():
            assert relative_error(case.found(level).out_BHLD, case.exact().out_BHLD) < bound


@pytest.mark.parametrize("dtype", [FLOAT32, BF16], ids=str)
@pytest.mark.parametrize(("group", "dim"), [(3, 64), (7, 128), (1, 80)])
def test_a_query_has_the_same_bits_alone_in_any_block_and_on_any_number_of_threads(
    group, dim, dtype
) -> None:
    """A prompt's answer does not depend on its chunks, nor on what else is in the batch."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2 * group, 150, dim, generator=generator).to(dtype)
    k, v = (torch.randn(2, 2, 350, dim, generator=generator).to(dtype) for _ in "kv")
    for level in levels():
        whole = Case(q, k, v, True).found(level)
        for threads in (2, 5):
            again = Case(q, k, v, True).found(level, threads)
            assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))
        for start, stop in ((0, 1), (1, 40), (70, 150), (149, 150)):
            one = slice(1, 2)
            end = 200 + stop
            part = Case(q[one, :, start:stop], k[one, :, :end], v[one, :, :end], True).found(level)
            assert torch.equal(part.out_BHLD, whole.out_BHLD[one, :, start:stop])
            assert torch.equal(part.lse_BHL, whole.lse_BHL[one, :, start:stop])


def test_keys_behind_a_query_leave_no_trace() -> None:
    case = drawn(0, 64)
    q, k = torch.randn(1, 6, 40, 64), torch.randn(1, 2, 240, 64)
    case = Case(q, k, k.clone(), True)
    for level in levels():
        before = case.found(level).out_BHLD
        later = case.k.clone()
        later[:, :, 220:] *= 1e4
        assert torch.equal(
            Case(q, later, later, True).found(level).out_BHLD[:, :, :20], before[:, :, :20]
        )


def test_numbers_that_are_none_stay_none() -> None:
    q, k, v = torch.randn(1, 4, 30, 64), torch.randn(1, 2, 200, 64), torch.randn(1, 2, 200, 64)
    for which in (1, 2):
        tensors = [q, k.clone(), v.clone()]
        tensors[which][0, 0, 77, 3] = torch.nan
        for level in levels():
            out = Case(*tensors, False).found(level).out_BHLD
            assert out[0, :2].isnan().any(dim=-1).all() and not out[0, 2:].isnan().any()
    asked = q.clone()
    asked[0, 1, 7, 3] = torch.nan
    for level in levels():
        found = Case(asked, k, v, False).found(level)
        assert found.out_BHLD[0, 1, 7].isnan().all() and found.lse_BHL[0, 1, 7].isnan()
        assert found.out_BHLD.isnan().any(dim=-1).sum() == found.lse_BHL.isnan().sum() == 1


@pytest.mark.parametrize("key", [-torch.inf, -3e38], ids=["minus infinity", "below float32"])
def test_keys_that_count_for_nothing(key) -> None:
    """In front of others, and alone: out 0, lse -inf, as the reference has it."""
    generator = torch.Generator().manual_seed(0)
    q = 10 * (torch.rand(1, 4, 20, 16, generator=generator) + 0.5)
    k, v = torch.randn(2, 1, 2, 300, 16, generator=generator)
    k[:, :, :130] = key
    case, left = Case(q, k, v, False), Case(q, k[:, :, 130:], v[:, :, 130:], False)
    none = Case(q, k[:, :, :130], v[:, :, :130], False)
    for level in levels():
        assert relative_error(case.found(level).out_BHLD, left.exact().out_BHLD) < 1e-5
        found = none.found(level)
        assert not found.out_BHLD.any() and bool((found.lse_BHL == -torch.inf).all())


def test_large_logits_do_not_overflow_and_what_is_far_off_weighs_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(1, 4, 20, 16, generator=generator) + 0.5
    k, v = torch.randn(2, 1, 2, 300, 16, generator=generator)
    for level in levels():
        case = Case(400 * q, k, v, True)
        assert relative_error(case.found(level).out_BHLD, case.exact().out_BHLD) < 1e-4
    k[:, :, 3], v[:, :, 3] = -1e4, 3e38
    case = Case(q, k, v, False)
    for level in levels():
        assert relative_error(case.found(level).out_BHLD, case.exact().out_BHLD) < 1e-5


def in_rows(case: Case, order: int) -> Case:
    """Keys and values in rows: slices of a cache, heads behind tokens, or as they are."""
    tensors = [rounded(x) for x in (case.k, case.v)]
    if order == 0:
        tensors = [torch.nn.functional.pad(x, (0, 0, 3, 4), value=7)[:, :, 3:-4] for x in tensors]
    elif order == 1:
        tensors = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    return case._replace(k=tensors[0], v=tensors[1])


@pytest.mark.parametrize("dtype", [FLOAT32, BF16], ids=str)
@pytest.mark.parametrize("dim", [64, 80, 128, 8, 18, 2])
def test_rows_of_int8_have_the_bits_of_the_numbers_that_they_stand_for(dim, dtype) -> None:
    """Of those in float32, also where queries are bfloat16."""
    for seed in range(8):
        case = drawn(seed, dim, (dtype, FLOAT32, FLOAT32))
        rows = in_rows(case, seed % 3)
        wide = case._replace(k=widen(rows.k, FLOAT32), v=widen(rows.v, FLOAT32))
        for level in levels():
            want = wide.found(level)
            for found in (
                rows.found(level),
                rows._replace(k=wide.k).found(level),
                rows._replace(v=wide.v).found(level),
            ):
                assert torch.equal(found.out_BHLD, want.out_BHLD), library.LEVELS[level]
                assert torch.equal(found.lse_BHL, want.lse_BHL), library.LEVELS[level]


def test_rows_of_int8_are_nearer_to_their_numbers_than_when_widened_to_bf16() -> None:
    for dim in (64, 128):
        case = drawn(1, dim, (BF16, FLOAT32, FLOAT32))
        rows = in_rows(case, 2)
        exact = case._replace(k=widen(rows.k, FLOAT32), v=widen(rows.v, FLOAT32)).exact()
        wide = case._replace(k=widen(rows.k, BF16), v=widen(rows.v, BF16))
        for level in levels():
            found, theirs = rows.found(level), wide.found(level)
            error = (found.lse_BHL - exact.lse_BHL).abs().max()
            assert error < 1e-5 < (theirs.lse_BHL - exact.lse_BHL).abs().max()


def test_a_row_that_is_no_number_spoils_who_sees_it() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 200, 64, generator=generator) for n in (4, 2, 2))
    for number in (torch.nan, torch.inf):
        for which in (1, 2):
            tensors = [q, k.clone(), v.clone()]
            tensors[which][0, 0, 77, 3] = number
            rows = in_rows(Case(*tensors, True), 2)
            for level in levels():
                out = rows.found(level).out_BHLD
                assert out[0, :2, 77:].isnan().any(dim=-1).all() and not out[0, 2:].isnan().any()


def test_in_inference_mode_nothing_is_widened_outside_of_the_library(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 2500, 16, generator=generator) for n in (4, 2, 2))
    q = q[:, :, -30:]
    rows, given = in_rows(Case(q, k, v, True), 2), {"causal": True, "scale": 0.25}
    kernel = in_int8.InInt8(NATIVE)
    outside = kernel(*rows[:3], **given)
    monkeypatch.setattr(in_int8, "widen", None)
    with torch.inference_mode():
        got = kernel(*rows[:3], **given)
        with pytest.raises(ValueError, match="differ in batch or head_dim"):
            kernel(q[..., :8], *rows[1:3], **given)
    assert relative_error(got.out_BHLD, outside.out_BHLD) < 2e-6
    assert isinstance(LOADED, library.Library)
    assert torch.equal(got.out_BHLD, rows.found(LOADED.level).out_BHLD)


def test_the_kernel_asks_the_library_and_else_torch(monkeypatch) -> None:
    asked, attend = [], blocks.attend

    def counted(*arguments, **named):
        asked.append(1)
        return attend(*arguments, **named)

    monkeypatch.setattr(blocks, "attend", counted)
    q, k, v = torch.randn(1, 4, 30, 64), torch.randn(1, 2, 90, 64), torch.randn(1, 2, 90, 64)
    given = {"causal": True, "scale": 0.125}
    exact = REFERENCE(q, k, v, **given)
    with torch.inference_mode():
        got = NATIVE(q, k, v, **given)
    assert relative_error(got.out_BHLD, exact.out_BHLD) < 2e-6 and asked
    asked.clear()
    assert torch.equal(NATIVE(q, k, v, **given).out_BHLD, TORCH(q, k, v, **given).out_BHLD)
    graph = torch.compile(lambda *x: NATIVE(*x, **given).out_BHLD, backend="eager", fullgraph=True)
    assert torch.equal(graph(q, k, v), TORCH(q, k, v, **given).out_BHLD)
    assert NATIVE(q.clone().requires_grad_(), k, v, **given).out_BHLD.requires_grad
    halves = [x.half() for x in (q, k, v)]
    with torch.inference_mode():
        assert torch.equal(NATIVE(*halves, **given).out_BHLD, TORCH(*halves, **given).out_BHLD)
    assert not asked


def test_without_its_library_the_kernel_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr(library, "load", lambda: "is gone")
    cpu = torch.device("cpu")
    assert NATIVE.unavailable(cpu, FLOAT32) == "is gone"
    assert kernels.auto(cpu, FLOAT32).name == "torch_cpu"
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"^kernel='native' is gone$"):
        NATIVE(torch.ones(1, 1, 2, 8), *torch.ones(2, 1, 1, 2, 8), causal=True, scale=1.0)
