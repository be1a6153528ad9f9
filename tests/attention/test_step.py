"""Steps of many rows against the dense float64 oracle: every mix, layout and kernel form."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest
import torch
from counted_operations import Counted
from oracle import dca_positions, dense_attention, plain_positions, relative_error, rotate_dense
from packing_kernel import PackingReference

from longctx.attention import ChunkMap, kernels
from longctx.attention import packed as packed_module
from longctx.attention.chunks import Turns
from longctx.attention.rope import base_inv_freq, temperature, yarn_inv_freq, yarn_mscale
from longctx.attention.step import Run, StepRow, attend_step, paged, plan_step

CHUNK, LOCAL, DIM, HEADS, KV_HEADS = 32, 8, 16, 6, 2
METHODS = ("none", "dca", "yarn+dca", "yarn-freqs+dca")
FORMS = {
    "grouped": kernels.get("torch_cpu"),
    "packed": PackingReference(),
    "native": kernels.get("native"),
}


def seeds(quick: int, all_of_them: int) -> list:
    return [
        *range(quick),
        *(pytest.param(n, marks=pytest.mark.slow) for n in range(quick, all_of_them)),
    ]


@dataclass
class Case:
    rows: list[StepRow]
    q: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    want_BLHD: torch.Tensor


def frequencies(method: str) -> torch.Tensor:
    base_F = base_inv_freq(1e4, DIM)
    if method != "yarn-freqs+dca":
        return base_F
    return yarn_inv_freq(base_F, 4.0, theta=1e4, original_length=CHUNK)


def logit_scale(method: str, length: int) -> float:
    if method == "yarn+dca":
        return temperature(length, CHUNK) ** 2
    return yarn_mscale(4.0) ** 2 if method == "yarn-freqs+dca" else 1.0


class Sequence:
    """A sequence's unrotated numbers, its rotated keys, and what its last queries must give."""

    def __init__(self, method: str, cap: str, start: int, length: int, generator) -> None:
        end = start + length
        inv_freq_F = frequencies(method)
        q, k, v = (
            torch.randn(1, h, end, DIM, generator=generator) for h in (HEADS, KV_HEADS, KV_HEADS)
        )
        p = torch.arange(end)
        rel, r = plain_positions(end), p
        if method != "none":
            limit = CHUNK if cap == "chunk_size" else CHUNK - 1
            rel, r = dca_positions(end, CHUNK, LOCAL, limit), p % (CHUNK - LOCAL)
        self.logit_scale = logit_scale(method, max(end - 3, 1))
        scale = DIM**-0.5 * self.logit_scale
        want = dense_attention(q, k, v, rel, inv_freq_F, scale)
        self.want_LHD = want[0, :, start:].transpose(0, 1)
        self.q_HLD = rotate_dense(q, r, inv_freq_F)[0, :, start:]
        self.k_KMD, self.v_KMD = rotate_dense(k, r, inv_freq_F)[0], v[0]


def draw(rng: random.Random) -> tuple[int, int]:
    """(start, length): a decoded token, a fresh prompt, or a block behind cached keys."""
    kind = rng.choice(("decode", "decode", "fresh", "block"))
    if kind == "decode":
        return rng.randrange(0, 150), 1
    return (0 if kind == "fresh" else rng.randrange(1, 120)), rng.randrange(1, 80)


def engine_case(method: str, cap: str, storage: str, seed: int) -> Case:
    """Rows behind each other in q; keys in buffers of their own, in one arena, or in pages."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    spans = [draw(rng) for _ in range(rng.randrange(1, 17))]
    sequences = [Sequence(method, cap, *span, generator) for span in spans]
    arena_k, arena_v = (torch.full((KV_HEADS, 4096, DIM), torch.nan) for _ in range(2))
    free = list(range(0, 4096, 16))
    if storage == "pages":
        rng.shuffle(free)
    keys, values, rows, column = [], [], [], 0
    for (start, length), sequence in zip(spans, sequences, strict=True):
        end = start + length
        if storage == "buffers":
            cut = rng.choice((end, rng.randrange(0, start + 1)))
            edges = [0, cut, end] if 0 < cut < end else [0, end]
            runs = []
            for low, high in itertools.pairwise(edges):
                pad = rng.randrange(0, 3)
                runs.append(Run(len(keys), low, high, pad))
                for stacks, x in ((keys, sequence.k_KMD), (values, sequence.v_KMD)):
                    nans = x.new_full((KV_HEADS, pad, DIM), torch.nan)
                    stacks.append(torch.cat((nans, x[:, low:high], nans), dim=1)[None])
            runs = tuple(runs)
        else:
            pages = -(-end // 16)
            table = [free.pop(0) // 16 for _ in range(pages)]
            runs = paged(table, 16, end)
            assert len(runs) == 1 or storage == "pages"
            for run in runs:
                span = slice(run.at, run.at + run.stop - run.start)
                arena_k[:, span] = sequence.k_KMD[:, run.start : run.stop]
                arena_v[:, span] = sequence.v_KMD[:, run.start : run.stop]
        columns = slice(column, column + length)
        column += length
        rows.append(StepRow(start, length, runs, sequence.logit_scale, columns=columns))
    if storage != "buffers":
        keys, values = [arena_k[None]], [arena_v[None]]
    q = torch.cat([sequence.q_HLD for sequence in sequences], dim=1)[None]
    want = torch.cat([sequence.want_LHD for sequence in sequences])[None]
    return Case(rows, q, keys, values, want)


def padded_case(method: str, cap: str, seed: int) -> Case:
    """A batch with padding on the left, on the right, or in holes; pads hold NaN keys."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    batch, columns, past = rng.randrange(1, 6), rng.choice((1, 7, 60)), rng.randrange(0, 70)
    total = past + columns
    q = torch.full((batch, HEADS, columns, DIM), 7.0)
    k, v = (torch.full((batch, KV_HEADS, total, DIM), torch.nan) for _ in range(2))
    want = torch.zeros(batch, columns, HEADS, DIM, dtype=torch.float64)
    rows = []
    for b in range(batch):
        real = [slot for slot in range(total) if rng.random() < rng.choice((1.0, 0.9, 0.3))]
        queries = [slot - past for slot in real if slot >= past]
        if not queries:
            continue
        start = len(real) - len(queries)
        sequence = Sequence(method, cap, start, len(queries), generator)
        runs: list[Run] = []
        for position, slot in enumerate(real):
            if runs and runs[-1].at + runs[-1].stop - runs[-1].start == slot:
                runs[-1] = runs[-1]._replace(stop=position + 1)
            else:
                runs.append(Run(0, position, position + 1, slot))
        k[b, :, real], v[b, :, real] = sequence.k_KMD, sequence.v_KMD
        q[b, :, queries], want[b, queries] = sequence.q_HLD, sequence.want_LHD
        place = slice(b, b + 1), tuple(queries)
        rows.append(StepRow(start, len(queries), tuple(runs), sequence.logit_scale, *place))
    return Case(rows, q, [k], [v], want)


def check(case: Case, method: str, cap: str, form: str) -> None:
    reason = FORMS[form].unavailable(torch.device("cpu"), torch.float32)
    if reason is not None:
        pytest.skip(f"{form} {reason}")
    turns = None
    if method != "none":
        turns = Turns(ChunkMap(CHUNK, LOCAL, cap), frequencies(method))
    plan = plan_step(case.rows, turns)
    scale = DIM**-0.5
    for _ in range(2):  # a second layer follows the tables that the first one made
        got = attend_step(plan, case.q, case.keys, case.values, FORMS[form], scale)
        assert got.shape == case.want_BLHD.shape and got.dtype == torch.float32
        for row in case.rows:
            columns = row.columns if isinstance(row.columns, slice) else list(row.columns)
            mine, want = got[row.batch, columns], case.want_BLHD[row.batch, columns]
            assert relative_error(mine, want) < 1e-5
        assert relative_error(got, case.want_BLHD) < 1e-5


@pytest.mark.parametrize("seed", seeds(2, 6))
@pytest.mark.parametrize("storage", ["buffers", "arena", "pages"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
@pytest.mark.parametrize("method", METHODS)
def test_ragged_steps_equal_the_oracle(method, cap, form, storage, seed) -> None:
    check(engine_case(method, cap, storage, seed), method, cap, form)


@pytest.mark.parametrize("seed", seeds(4, 10))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
@pytest.mark.parametrize("method", METHODS[1:])
def test_padded_batches_equal_the_oracle(method, cap, form, seed) -> None:
    case = padded_case(method, cap, seed)
    if case.rows:
        check(case, method, cap, form)


@pytest.mark.parametrize("form", FORMS)
def test_slabs_change_nothing(form, monkeypatch) -> None:
    monkeypatch.setattr(packed_module, "SLAB", 13)
    for seed in range(4):
        check(engine_case("yarn+dca", "chunk_size", "arena", seed), "yarn+dca", "chunk_size", form)


def test_slabs_of_many_tokens_have_the_numbers_of_those_of_few(monkeypatch) -> None:
    """They are turned and merged in other operations."""
    monkeypatch.setattr(packed_module, "FEW", 0)
    for seed in range(4):
        for storage in ("arena", "pages"):
            case = engine_case("yarn+dca", "chunk_size", storage, seed)
            check(case, "yarn+dca", "chunk_size", "packed")


@pytest.mark.parametrize("form", FORMS)
def test_tables_that_are_not_kept_change_nothing(form, monkeypatch) -> None:
    monkeypatch.setattr("longctx.attention.chunks.TABLE_BYTES", 0)
    for seed in range(4):
        check(engine_case("yarn+dca", "chunk_size", "arena", seed), "yarn+dca", "chunk_size", form)


def test_a_packing_kernel_gets_all_rows_in_two_calls_and_decoding_rows_in_one() -> None:
    for seed in range(6):
        case = engine_case("yarn+dca", "chunk_size", "arena", seed)
        turns = Turns(ChunkMap(CHUNK, LOCAL), frequencies("yarn+dca"))
        kernel = PackingReference()
        arguments = (case.q, case.keys, case.values, kernel, 0.25)
        attend_step(plan_step(case.rows, turns), *arguments)
        assert [causal for _, causal in kernel.calls] in ([True, False], [True])
        kernel.calls.clear()
        rows = [
            row._replace(length=1, runs=(row.runs[0]._replace(stop=row.start + 1),))
            for row in case.rows
        ]
        rows = [row._replace(columns=slice(at, at + 1)) for at, row in enumerate(rows)]
        attend_step(plan_step(rows, turns), case.q[:, :, : len(rows)], *arguments[1:])
        assert len(kernel.calls) == 1 and not kernel.calls[0][1]


def test_rows_must_have_their_keys() -> None:
    with pytest.raises(ValueError, match=r"row 0 has 2 queries from position 3 on .*0\.\.3"):
        plan_step([StepRow(3, 2, (Run(0, 0, 4, 0),))])
    with pytest.raises(ValueError, match="row 1 has 0 queries"):
        plan_step([StepRow(0, 1, (Run(0, 0, 1, 0),)), StepRow(4, 0, (Run(0, 0, 4, 0),))])


def test_printed_plan() -> None:
    turns = Turns(ChunkMap(64, 16), base_inv_freq(1e4, DIM))
    rows = [StepRow(90, 20, (Run(0, 0, 110, 0),), 1.25), StepRow(3, 1, (Run(0, 0, 4, 200),))]
    assert str(plan_step(rows, turns)).splitlines() == [
        "row 0, logits x 1.250000: queries 90..109 over 110 keys",
        "  chunk 1: intra [48:96) causal",
        "    queries 90..95: past [0:48)",
        "  chunk 2: intra [96:110) causal",
        "    queries 96..109: succ [48:96), inter [0:48)",
        "row 1, logits x 1.000000: queries 3..3 over 4 keys",
        "  chunk 0: intra [0:4) causal",
    ]


def test_pages_that_follow_each_other_are_one_run() -> None:
    assert paged([4, 5, 2], 16, 40) == (Run(0, 0, 32, 64), Run(0, 32, 40, 32))


def counted_step(rows: list[StepRow], slots: int) -> list[str]:
    """Operations of a layer behind the first, by `torch_cuda` on torch's device without memory."""
    columns = max(row.columns.stop for row in rows)
    with torch.device("meta"):
        q = torch.empty(1, columns, 28, 128, dtype=torch.bfloat16).transpose(1, 2)
        k, v = (torch.empty(1, 4, slots, 128, dtype=torch.bfloat16) for _ in range(2))
    plan = plan_step(rows, Turns(ChunkMap(8192, 1024), base_inv_freq(1e6, 128).to("meta")))
    with torch.inference_mode():
        for _ in range(2):  # the first layer makes the step's tables
            with Counted() as counted:
                attend_step(plan, q, [k], [v], kernels.get("torch_cuda"), 0.1)
    return counted.names


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("count", [1, 8, 32])
@pytest.mark.parametrize(
    ("kind", "most", "calls"), [("decode", 8, 1), ("prefill", 10, 2), ("mixed", 10, 2)]
)
def test_operations_of_a_layer_do_not_grow_with_its_rows(kind, most, calls, count, pieces) -> None:
    """What a GPU is asked for: with the writes of keys and values, at most 12.

    Rows differ in temperature, in how many parts they have, and in how many runs their keys lie.
    """
    rows, column, slot = [], 0, 0
    for n in range(count):
        length = 1 if kind == "decode" or (kind == "mixed" and n % 2) else 100
        end = 20_000 + 900 * n + length
        cuts = [0, 4_000, 17_000, end] if pieces == 3 and n % 3 == 0 else [0, end]
        runs = [Run(0, a, b, slot + a + 9 * i) for i, (a, b) in enumerate(itertools.pairwise(cuts))]
        columns = slice(column, column + length)
        rows.append(StepRow(end - length, length, tuple(runs), 1 + 0.1 * (n % 3), columns=columns))
        column, slot = columns.stop, slot + end + 30
    names = counted_step(rows, slot)
    assert sum("flash_attention" in name for name in names) == calls
    assert len(names) <= most, names


def test_a_block_within_the_first_chunk_is_one_operation() -> None:
    """One with keys before it too: torch does not say how its own function would align it."""
    row = StepRow(3_000, 500, (Run(0, 0, 3_500, 40),), columns=slice(0, 500))
    assert counted_step([row], 4_000) == ["_flash_attention_forward"]


def test_many_tokens_take_an_operation_more() -> None:
    """Half of what is written between them would cost more than a launch."""
    rows = [StepRow(20_000, 5_000, (Run(0, 0, 25_000, 0),), columns=slice(0, 5_000))]
    rows.append(StepRow(0, 90, (Run(0, 0, 90, 25_000),), columns=slice(5_000, 5_090)))
    names = counted_step(rows, 26_000)
    assert len(names) == 11 and "flip" in names
