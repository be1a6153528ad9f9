"""Keys as rows of bytes: what rounding loses, and attention over rows as that of their numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from native_cases import LOADED, SHAPES, Case, decoded, drawn, levels, rounded
from oracle import relative_error

from longctx.attention import ChunkMap, int8_keys, kernels
from longctx.attention.chunks import Turns
from longctx.attention.int8_keys import row_bytes, widen
from longctx.attention.kernels import in_int8
from longctx.attention.kernels.in_int8 import InInt8
from longctx.attention.rope import base_inv_freq
from longctx.attention.step import Run, StepRow, attend_step

REFERENCE = kernels.get("reference")
needs_library = pytest.mark.skipif(isinstance(LOADED, str), reason=f"the library {LOADED}")


def as_rows(case: Case) -> Case:
    """The same keys and values in rows; NaN stays around them."""
    keys, values = ([rounded(x) for x in stacks] for stacks in (case.keys, case.values))
    return case._replace(keys=keys, values=values)


def exact(case: Case) -> torch.Tensor:
    """In float64, of the numbers that the rows stand for."""
    keys, values = (
        [widen(x, torch.float32).double() for x in stacks] for stacks in (case.keys, case.values)
    )
    return case._replace(keys=keys, values=values).exact()


# -- rows ------------------------------------------------------------------------------------------


def test_a_number_is_off_by_half_a_step_and_a_row_depends_on_itself_alone() -> None:
    x = torch.randn(3, 500, 64, generator=torch.Generator().manual_seed(0))
    x *= torch.logspace(-20, 20, 500)[:, None]
    rows = rounded(x)
    assert rows[..., :64].abs().max() == int8_keys.LARGEST  # nothing is cut off
    largest = x.abs().amax(-1, keepdim=True)
    wrong = (widen(rows, torch.float32) - x).abs()
    assert (wrong <= largest / 127 * 0.506).all()  # the scale is rounded up to eight bits
    assert torch.equal(rounded(x[1:2, 17:18]), rows[1:2, 17:18])
    assert rows.nbytes / x.bfloat16().nbytes < 0.52


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_read_in_the_type_of_queries(dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = widen(rounded(x), dtype)
    assert wide.dtype == dtype and relative_error(wide, x) < 0.01


def test_zeros_stay_zeros_and_what_is_no_number_stays_none() -> None:
    x = torch.ones(1, 4, 8)
    x[0, 0], x[0, 1, 3], x[0, 2, 3] = 0, torch.nan, torch.inf
    wide = widen(rounded(x), torch.float32)
    assert (wide[0, 0] == 0).all()
    assert wide[0, 1].isnan().all() and not wide[0, 2].isfinite().any()
    assert (wide[0, 3] - 1).abs().max() < 0.005


# -- the library -----------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunked", [True, False], ids=["dca", "plain"])
def test_every_instruction_set_gives_the_softmax_of_the_rows_numbers(chunked, shape, seed) -> None:
    case = as_rows(drawn(seed, shape, chunked=chunked))
    for level in levels():
        assert relative_error(decoded(case, level), exact(case)) < 2e-6


@needs_library
def test_keys_alone_may_be_rows_and_queries_of_bf16() -> None:
    for shape in SHAPES:
        case = drawn(7, shape)
        keys = as_rows(case)._replace(values=case.values)
        wide = case._replace(keys=[widen(x, torch.float32) for x in keys.keys])
        for level in levels():
            assert relative_error(decoded(keys, level), wide.exact()) < 2e-6
        both = as_rows(case)._replace(q=case.q.bfloat16())
        assert relative_error(decoded(both), exact(both)) < 3e-3


@needs_library
@pytest.mark.parametrize("shape", [(9, 3, 64), (28, 4, 128), (6, 2, 80)], ids=str)
def test_a_row_of_a_step_has_the_same_bits_alone_and_wherever_its_keys_lie(shape) -> None:
    heads, kv_heads, dim = shape
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(1, heads, 1, dim, generator=generator)
    k, v = (rounded(torch.randn(1, kv_heads, 1301, dim, generator=generator)) for _ in "kv")
    turns = Turns(ChunkMap(256, 64), base_inv_freq(1e4, dim))
    one = Case([StepRow(1300, 1, (Run(0, 0, 1301, 0),))], q, [k], [v], turns)
    cuts = list(itertools.pairwise([0, 1, 130, 131, 192, 700, 1299, 1301]))
    runs = tuple(Run(at, low, high, 0) for at, (low, high) in enumerate(cuts))
    keys, values = ([x[:, :, low:high].clone() for low, high in cuts] for x in (k, v))
    cut = Case([StepRow(1300, 1, runs)], q, keys, values, turns)
    row = StepRow(1300, 1, runs, columns=slice(1, 2))
    two = cut._replace(rows=[cut.rows[0], row], q=torch.cat((q + 1, q), dim=2))
    for level in levels():
        want = decoded(one, level)
        assert torch.equal(decoded(cut, level), want)
        assert torch.equal(decoded(two, level, threads=3)[:, 1:], want)


# -- other kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reference", "torch_cpu", "native"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 97), (5, 97), (40, 97), (97, 97)])
@pytest.mark.parametrize("causal", [True, False])
def test_pieces_are_one_softmax(
    monkeypatch: pytest.MonkeyPatch, name: str, queries: int, keys: int, causal: bool
) -> None:
    if (reason := kernels.get(name).unavailable(torch.device("cpu"), torch.float32)) is not None:
        pytest.skip(f"{name} {reason}")
    monkeypatch.setattr(in_int8, "PIECE", 16)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, queries, 32, generator=generator)
    k, v = (rounded(torch.randn(2, 2, keys, 32, generator=generator)) for _ in "kv")
    given = {"causal": causal, "scale": 0.2}
    got = InInt8(kernels.get(name))(q, k, v, **given)
    wide = (widen(x, torch.float32).double() for x in (k, v))
    want = REFERENCE(q.double(), *wide, **given)
    assert relative_error(got.out_BHLD, want.out_BHLD) < 1e-5
    assert (got.lse_BHL - want.lse_BHL).abs().max() < 1e-5


def test_no_keys_are_no_part_and_what_fits_no_queries_is_refused() -> None:
    q, k = torch.randn(1, 2, 3, 16), torch.empty(1, 2, 0, row_bytes(16), dtype=torch.int8)
    part = InInt8(kernels.get("torch_cpu"))(q, k, k, causal=False, scale=1.0)
    assert (part.out_BHLD == 0).all() and (part.lse_BHL == -torch.inf).all()
    with pytest.raises(ValueError, match="need at least as many keys"):
        InInt8(kernels.get("torch_cpu"))(q, k, k, causal=True, scale=1.0)


def test_how_much_is_widened_at_a_time_does_not_grow_with_the_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = []

    def counted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        most.append(x.shape[2])
        return widen(x, dtype)

    monkeypatch.setattr(in_int8, "widen", counted)
    k = rounded(torch.randn(1, 1, 5 * in_int8.PIECE + 77, 16))
    InInt8(kernels.get("torch_cpu"))(torch.randn(1, 1, 8, 16), k, k, causal=True, scale=1.0)
    assert max(most) == in_int8.PIECE


def test_a_gpu_has_no_kernel_for_rows() -> None:
    reason = InInt8(kernels.get("torch_cpu")).unavailable(torch.device("cuda"), torch.bfloat16)
    assert reason is not None and "on a CPU alone" in reason


def test_a_step_of_tokens_and_blocks_reads_rows_by_any_kernel() -> None:
    case = as_rows(drawn(11, (9, 3, 64), most=600))
    block = torch.randn(1, 9, 40, 64, generator=torch.Generator().manual_seed(1))
    row, first = case.rows[0], case.q.shape[2]
    if row.end < 40:
        run = Run(len(case.keys), 0, 300, 0)
        keys = rounded(torch.randn(1, 3, 300, 64, generator=torch.Generator().manual_seed(2)))
        case.keys.append(keys)
        case.values.append(keys)
        row = StepRow(299, 1, (run,))
    long = StepRow(row.end - 40, 40, row.runs, columns=slice(first, first + 40))
    case = case._replace(rows=[*case.rows, long], q=torch.cat((case.q, block), dim=2))
    given = case.plan(), case.q, case.keys, case.values
    for name in ("torch_cpu", *([] if isinstance(LOADED, str) else ["native"])):
        got = attend_step(*given, InInt8(kernels.get(name)), case.q.shape[3] ** -0.5)
        assert relative_error(got, exact(case)) < 1e-5
