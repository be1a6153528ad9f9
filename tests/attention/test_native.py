"""The C library: against float64 in every instruction set, and the same bits whatever is around."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from native_cases import LOADED, SHAPES, Case, decoded, drawn, levels
from oracle import relative_error

from longctx.attention import ChunkMap, kernels
from longctx.attention.chunks import Turns
from longctx.attention.native import build, library, rows
from longctx.attention.rope import base_inv_freq
from longctx.attention.step import Run, StepRow, attend_step

TORCH = kernels.get("torch_cpu")
FLOAT32, BF16 = torch.float32, torch.bfloat16

pytestmark = pytest.mark.skipif(isinstance(LOADED, str), reason=f"the library {LOADED}")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunked", [True, False], ids=["dca", "plain"])
def test_every_instruction_set_gives_the_softmax_of_float64(chunked, shape, seed) -> None:
    case = drawn(seed, shape, chunked=chunked)
    exact = case.exact()
    for level in levels():
        assert relative_error(decoded(case, level), exact) < 2e-6, library.LEVELS[level]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bf16_is_no_further_from_float64_than_torchs_own(shape) -> None:
    case = drawn(5, shape, (BF16, BF16, BF16))
    exact = case.exact()
    theirs = attend_step(
        case.plan(), case.q, case.keys, case.values, TORCH, case.q.shape[3] ** -0.5
    )
    for level in levels():
        assert relative_error(decoded(case, level), exact) <= 1.05 * relative_error(theirs, exact)


@pytest.mark.parametrize(
    "dtypes", [(FLOAT32, BF16, BF16), (FLOAT32, BF16, FLOAT32), (BF16, FLOAT32, BF16)], ids=str
)
def test_queries_keys_and_values_may_be_of_different_types(dtypes) -> None:
    for shape in SHAPES:
        case = drawn(6, shape, dtypes)
        bound = 2e-6 if dtypes[0] == FLOAT32 else 3e-3  # what is written has the query's type
        for level in levels():
            assert relative_error(decoded(case, level), case.exact()) < bound


@pytest.mark.parametrize("dtype", [FLOAT32, BF16], ids=str)
@pytest.mark.parametrize("shape", [(9, 3, 64), (28, 4, 128), (6, 2, 80)], ids=str)
def test_a_row_has_the_same_bits_alone_and_among_others_on_any_number_of_threads(
    shape, dtype
) -> None:
    drawn_cases = (drawn(seed, shape, (dtype, dtype, dtype), most=4000) for seed in range(40))
    case = next(c for c in drawn_cases if len(c.rows) == 5 and max(r.end for r in c.rows) > 1500)
    for level in levels():
        together = decoded(case, level)
        assert torch.equal(decoded(case, level, threads=2), together)
        assert torch.equal(decoded(case, level, threads=5), together)
        for column, row in enumerate(case.rows):
            alone = case._replace(
                rows=[row._replace(columns=slice(0, 1))], q=case.q[:, :, column : column + 1]
            )
            assert torch.equal(decoded(alone, level, threads=2)[0, 0], together[0, column])


@pytest.mark.parametrize("dtype", [FLOAT32, BF16], ids=str)
def test_where_keys_lie_changes_no_bit(dtype) -> None:
    """A prefix that is shared, pages, one run: an answer does not depend on what was cached."""
    generator = torch.Generator().manual_seed(3)
    for heads, kv_heads, dim in ((9, 3, 64), (10, 2, 18)):
        q = torch.randn(1, heads, 1, dim, generator=generator).to(dtype)
        k, v = (torch.randn(1, kv_heads, 1301, dim, generator=generator).to(dtype) for _ in "kv")
        turns = Turns(ChunkMap(256, 64), base_inv_freq(1e4, dim))
        one = Case([StepRow(1300, 1, (Run(0, 0, 1301, 0),))], q, [k], [v], turns)
        cuts = [0, 1, 130, 131, 192, 700, 1299, 1301]
        runs = tuple(
            Run(at, low, high, 0) for at, (low, high) in enumerate(itertools.pairwise(cuts))
        )
        pieces = [
            [x[:, :, low:high].clone() for low, high in itertools.pairwise(cuts)] for x in (k, v)
        ]
        cut = Case([StepRow(1300, 1, runs)], q, *pieces, turns)
        for level in levels():
            assert torch.equal(decoded(one, level), decoded(cut, level))


def test_rows_that_are_alike_are_read_from_their_own_keys() -> None:
    """A batch of the drop-in is one row of the plan."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, m, 64, generator=generator) for n, m in ((6, 1), (2, 90), (2, 90)))
    turns = Turns(ChunkMap(32, 8), base_inv_freq(1e4, 64))
    row = StepRow(89, 1, (Run(0, 0, 90, 0),), batch=slice(0, None))
    case = Case([row], q, [k], [v], turns)
    exact = case.exact()
    assert relative_error(decoded(case), exact) < 2e-6
    got = attend_step(case.plan(), q, [k], [v], kernels.get("native"), 0.125)
    assert relative_error(got, exact) < 2e-6


def test_numbers_that_are_none_stay_none() -> None:
    case = drawn(0, (4, 2, 64), chunked=False)
    for stack in (case.keys[0], case.values[0]):
        before = stack.clone()
        run = case.rows[0].runs[0]
        stack[0, 0, run.at, 3] = torch.nan
        for level in levels():
            out = decoded(case, level)
            assert out[0, 0, :2].isnan().any() and not out[0, 0, 2:].isnan().any()
        stack.copy_(before)


def test_large_logits_do_not_overflow() -> None:
    case = drawn(1, (4, 2, 64), chunked=False)
    case.q.mul_(400.0)
    for level in levels():
        assert relative_error(decoded(case, level), case.exact()) < 1e-4


@pytest.mark.parametrize("count", [64, 512], ids=["a tile", "a split"])
@pytest.mark.parametrize("key", [-torch.inf, -3e38], ids=["minus infinity", "below float32"])
def test_keys_that_count_for_nothing_may_come_first(key, count) -> None:
    generator = torch.Generator().manual_seed(0)
    q = 10 * (torch.rand(1, 4, 1, 16, generator=generator) + 0.5)
    k, v = torch.randn(2, 1, 2, 700, 16, generator=generator)
    k[:, :, :count] = key
    case = Case([StepRow(699, 1, (Run(0, 0, 700, 0),))], q, [k], [v], None)
    left = Case([StepRow(699 - count, 1, (Run(0, 0, 700 - count, count),))], q, [k], [v], None)
    for level in levels():
        assert relative_error(decoded(case, level), left.exact()) < 1e-5


def test_what_is_far_off_weighs_nothing_however_large() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(1, 4, 1, 16, generator=generator) + 0.5
    k, v = torch.randn(2, 1, 2, 700, 16, generator=generator)
    k[:, :, 3], v[:, :, 3] = -1e4, 3e38
    case = Case([StepRow(699, 1, (Run(0, 0, 700, 0),))], q, [k], [v], None)
    for level in levels():
        assert relative_error(decoded(case, level), case.exact()) < 1e-5


def test_a_step_is_laid_out_once_for_all_layers(monkeypatch) -> None:
    made, lay_out = [], rows.lay_out

    def counted(*arguments: Any) -> rows.NativeStep:
        made.append(1)
        return lay_out(*arguments)

    monkeypatch.setattr(rows, "lay_out", counted)
    case = drawn(3, (9, 3, 64))
    plan, native = case.plan(), kernels.get("native")
    outs = []
    for layer in range(3):
        keys = [x + layer for x in case.keys]
        outs.append(attend_step(plan, case.q, keys, case.values, native, 0.125))
    assert len(made) == 1 and not torch.equal(outs[0], outs[2])
    wider = [torch.cat((x, x), dim=2) for x in case.keys]  # other strides are another layout
    again = attend_step(plan, case.q, wider, case.values, native, 0.125)
    assert len(made) == 2 and torch.equal(again, outs[0])


def test_what_it_does_not_read_goes_to_torch() -> None:
    case, native = drawn(4, (4, 2, 64)), kernels.get("native")
    halves = [[x.half() for x in stacks] for stacks in (case.keys, case.values)]
    got = attend_step(case.plan(), case.q.half(), *halves, native, 0.125)
    theirs = attend_step(case.plan(), case.q.half(), *halves, TORCH, 0.125)
    assert torch.equal(got, theirs)
    transposed = [x.mT.contiguous().mT for x in case.keys]
    got = attend_step(case.plan(), case.q, transposed, case.values, native, 0.125)
    assert relative_error(got, case.exact()) < 1e-5
    asked = case.q.clone().requires_grad_()
    assert attend_step(case.plan(), asked, case.keys, case.values, native, 0.125).requires_grad
    wrong = case.q[:, :1].expand(-1, 5, -1, -1)
    with pytest.raises(ValueError, match=r"query heads \(5\) must be a multiple of .*\(2\)"):
        attend_step(case.plan(), wrong, case.keys, case.values, native, 0.125)


# -- what is loaded ------------------------------------------------------------------------------


@pytest.fixture
def afresh() -> Iterator[None]:
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_torchs_own_threads_are_used() -> None:
    """A second OpenMP in the process would fight with torch's for the cores."""
    assert isinstance(LOADED, library.Library)
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    loaded = {line.split()[-1] for line in lines if "libgomp" in line}
    if not loaded:
        pytest.skip("this torch's threads are not GNU OpenMP's")
    assert len(loaded) == 1, "two are loaded"
    assert LOADED.parallel is not None and "threads of torch" in str(LOADED)


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(("held", "level"), [("default", 0), ("avx2", 1), ("avx512", 2)])
def test_torchs_word_for_the_processor_holds_here_too(held, level, monkeypatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", held)
    loaded = library.load()
    assert isinstance(loaded, library.Library) and loaded.level == min(level, levels()[-1])


@pytest.mark.usefixtures("afresh")
def test_it_can_be_left_out(monkeypatch) -> None:
    monkeypatch.setenv("LONGCTX_NO_NATIVE", "1")
    native, cpu = kernels.get("native"), torch.device("cpu")
    assert native.unavailable(cpu, FLOAT32) == "LONGCTX_NO_NATIVE is set"
    assert kernels.auto(cpu, FLOAT32).name == "torch_cpu"
    with pytest.raises(ValueError, match=r"kernel='native' cannot run .*LONGCTX_NO_NATIVE is set"):
        kernels.resolve("native", cpu, FLOAT32)


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("which", range(len(library.SOURCES)))
def test_one_that_is_missing_broken_or_old_says_so(which, monkeypatch, tmp_path) -> None:
    theirs = library.SOURCES[which]
    source = tmp_path / theirs.name
    source.write_bytes(theirs.read_bytes() + b"\n/* changed */\n")
    sources = [source if each == theirs else each for each in library.SOURCES]
    monkeypatch.setattr(library, "SOURCES", sources)
    assert "is not built: a C compiler was missing" in str(library.load())
    library.load.cache_clear()
    build.library_of(source).write_bytes(b"no library")
    assert str(library.load()).startswith("cannot be loaded (")
    library.load.cache_clear()
    build.library_of(source).write_bytes(build.library_of(theirs).read_bytes())
    again = f"was built from another {source.name} or header: install longctx again"
    assert library.load() == again


def test_reasons_of_other_devices_and_types() -> None:
    native = kernels.get("native")
    assert native.unavailable(torch.device("cuda"), FLOAT32) == "runs on cpu, not on cuda"
    reason = "computes in float32 and bfloat16 alone"
    assert native.unavailable(torch.device("cpu"), torch.float16) == reason
