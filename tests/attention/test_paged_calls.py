"""Keys that lie apart in one tensor, read by a table of pages: flash-attn 2, 3 and torch's own.

Random batches whose blocks lie anywhere, against a dense float64 oracle, through stand-ins that
hold the packages' functions to their contracts (tests/support/paging_kernels.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda, real
from oracle import relative_error
from paged_batches import DIM, Batch, batch_of
from paging_kernels import FlashAttnAnywhere, Version2, Version3, by_pages, install, runs_3

from longctx.attention import packed
from longctx.attention.chunks import Turns
from longctx.attention.kernels import flash_attn, torch_cuda
from longctx.attention.kernels.base import Pages, paged_view
from longctx.attention.kernels.torch_cuda import TorchCudaKernel
from longctx.attention.packed_parts import KeyStretch, PartSequence, stretches
from longctx.attention.packed_tables import covered, tables
from longctx.attention.rows import Run, Slots, StepRow
from longctx.attention.step import attend_step, paged, plan_step

PAGE = 32  # of the stand-ins, but where it is said; so that a tiny chunk has several


def rows_of(batch: Batch) -> list[StepRow]:
    found = []
    for each, table_P in zip(batch.requests, batch.table_RP.tolist(), strict=True):
        columns = slice(each.first, each.first + each.length)
        runs = paged(table_P, batch.page, each.end)
        found.append(
            StepRow(each.end - each.length, each.length, runs, each.logit_scale, columns=columns)
        )
    return found


def arena_of(batch: Batch, spare: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [1, K, M, D] of all blocks; no number where nobody wrote."""
    halves = [x.reshape(-1, *x.shape[2:]) for x in batch.halves()]
    keys, values = (
        torch.cat((x, x.new_full((spare, *x.shape[1:]), torch.nan))).transpose(0, 1)[None]
        for x in halves
    )
    return keys, values


def attended(
    batch: Batch, kernel: Any, spare: int = PAGE - 1, turns: Turns | None = None
) -> torch.Tensor:
    keys, values = arena_of(batch, spare)
    q_BHLD = batch.q_THD.transpose(0, 1)[None]
    plan = plan_step(rows_of(batch), turns or batch.turns)
    return attend_step(plan, q_BHLD, [keys], [values], kernel, DIM**-0.5)[0]


CASES = [
    ("prefill", 1, "yarn+dca"),
    ("prefill", 3, "dca"),
    ("block", 2, "yarn+dca"),
    ("decode", 1, "dca"),
    ("decode", 64, "yarn+dca"),
    ("mixed", 5, "dca"),
    ("mixed", 16, "yarn+dca"),
    ("mixed", 64, "yarn+dca"),
    ("preempted", 3, "yarn+dca"),
    ("mixed, some preempted", 9, "yarn+dca"),
]


@pytest.mark.parametrize("chunk_len", [3 * PAGE, 112], ids=["whole pages", "pages cross chunks"])
@pytest.mark.parametrize(("kind", "count", "method"), CASES)
def test_version_2_reads_scattered_blocks_in_two_calls_at_most(
    kind: str, count: int, method: str, chunk_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(kind, count, PAGE, method, 10 + count, chunk_len)
    varlen = Version2(PAGE)
    got = attended(batch, install(monkeypatch, varlen))
    assert relative_error(got, batch.want_THD) < 1e-5
    assert [causal for _, causal in varlen.calls] in ([True], [False], [True, False])
    assert kind != "decode" or [causal for _, causal in varlen.calls] == [False]


@pytest.mark.parametrize("chunk_len", [3 * PAGE, 112])
def test_a_part_is_one_sequence_or_two_where_pages_cross_chunks(chunk_len: int) -> None:
    """So no number of blocks is too many: own chunk, chunk before, earlier ones."""
    batch = batch_of("mixed", 12, PAGE, "dca", 7, chunk_len)
    longest = max(len(row.runs) for row in rows_of(batch))
    assert longest > packed.MOST_PARTS
    tokens, slots = len(batch.q_THD), batch.table_RP.numel() * PAGE + PAGE - 1
    given = (rows_of(batch), batch.turns, 1, tokens, 0, torch.device("cpu"))
    assert packed.lay_out(*given) is None  # as runs
    layout = packed.lay_out(*given, page=PAGE, slots=slots)
    assert layout is not None
    assert max(slab.parts for slab in layout.slabs) <= (3 if chunk_len % PAGE == 0 else 5)


def test_the_page_of_the_package_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 256, chunks that are no multiple of it, every view as FlashAttention loads it."""
    batch = batch_of("decode", 5, 256, "yarn+dca", 3, 448)
    varlen = Version2()
    batch.q_THD, batch.cache = batch.q_THD.bfloat16(), batch.cache.bfloat16()
    got = attended(batch, install(monkeypatch, varlen), spare=255)
    assert len(varlen.calls) == 1
    assert relative_error(got.float(), batch.want_THD) < 0.02


def test_requests_may_read_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("mixed", 4, PAGE, "yarn+dca", 11)
    count, more = (
        len(batch.q_THD),
        [each._replace(first=each.first + len(batch.q_THD)) for each in batch.requests],
    )
    batch.requests += more
    batch.table_RP = batch.table_RP.repeat(2, 1)
    batch.q_THD = batch.q_THD.repeat(2, 1, 1)
    varlen = Version2(PAGE)
    got = attended(batch, install(monkeypatch, varlen))
    assert len(varlen.calls) == 2
    for half in got[:count], got[count:]:
        assert relative_error(half, batch.want_THD) < 1e-5


# -- what pages cannot have -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decode", "mixed"])
def test_blocks_smaller_than_a_page_are_read_by_runs(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(kind, 4, 16, "yarn+dca", 5)
    varlen = Version2(PAGE)
    got = attended(batch, install(monkeypatch, varlen))
    assert not varlen.calls
    assert relative_error(got, batch.want_THD) < 1e-5


def test_a_page_never_ends_behind_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drop-in's cache has no slots behind its last key."""
    batch = batch_of("decode", 2, PAGE, "dca", 6)
    batch.table_RP = torch.arange(batch.table_RP.numel(), dtype=torch.int32).view(2, -1)
    order = batch_of("decode", 2, PAGE, "dca", 6).table_RP.long().flatten()
    batch.cache = batch.cache[order]
    varlen = Version2(PAGE)
    kernel = install(monkeypatch, varlen)
    whole = len(batch.cache)
    used = max(run.at + run.stop - run.start for row in rows_of(batch) for run in row.runs)
    for spare, calls in ((PAGE - 1, 1), (used - whole * PAGE, 0)):
        varlen.calls.clear()
        keys, values = (x[:, :, : whole * PAGE + spare] for x in arena_of(batch, PAGE))
        plan = plan_step(rows_of(batch), batch.turns)
        q_BHLD = batch.q_THD.transpose(0, 1)[None]
        got = attend_step(plan, q_BHLD, [keys], [values], kernel, DIM**-0.5)[0]
        assert len(varlen.calls) == calls
        assert relative_error(got, batch.want_THD) < 1e-5


def test_a_long_prompt_that_is_alone_and_whole_goes_part_by_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "LONG", 40)
    batch = batch_of("block", 1, PAGE, "dca", 3)
    assert batch.requests[0].length >= 40 and len(rows_of(batch)[0].runs) > 1
    varlen = Version2(PAGE)
    kernel = install(monkeypatch, varlen)
    assert relative_error(attended(batch, kernel), batch.want_THD) < 1e-5
    assert len(varlen.calls) == 2  # its blocks lie apart
    batch.cache = batch.cache[batch.table_RP[0].long()]
    batch.table_RP = torch.arange(len(batch.cache), dtype=torch.int32)[None]
    varlen.calls.clear()
    assert relative_error(attended(batch, kernel), batch.want_THD) < 1e-5
    assert not varlen.calls


def test_a_first_chunk_that_lies_apart_is_not_brought_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = batch_of("prefill", 1, PAGE, "dca", 1, 20 * PAGE)
    assert batch.requests[0].end <= 20 * PAGE and len(rows_of(batch)[0].runs) > 1
    varlen = Version2(PAGE)
    kernel = install(monkeypatch, varlen)
    assert relative_error(attended(batch, kernel), batch.want_THD) < 1e-5
    assert varlen.calls == [(1, True)]


# -- kernels that read runs too -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decode", "mixed"])
def test_version_3_reads_runs_while_they_are_few_and_pages_where_they_are_not(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_attn, "PAGE_3", PAGE)
    cached = Version3()
    kernel = install(monkeypatch, runs=runs_3, paged_3=cached)
    assert kernel.pages() == Pages(PAGE, runs=True)
    batch = batch_of(kind, 6, PAGE, "yarn+dca", 8, 112)
    assert relative_error(attended(batch, kernel), batch.want_THD) < 1e-5
    assert len(cached.calls) == (1 if kind == "decode" else 2)
    cached.calls.clear()
    order = batch.table_RP.long().flatten()  # the same keys, side by side
    batch.cache = batch.cache[order]
    batch.table_RP = torch.arange(len(order), dtype=torch.int32).view_as(batch.table_RP)
    assert relative_error(attended(batch, kernel), batch.want_THD) < 1e-5
    assert not cached.calls


class TestTorch:
    """torch's own op, with a stand-in that reads the call as its C++ does."""

    @pytest.fixture
    def op(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int | None]]]:
        """(longest queries, num_splits) of each call."""
        calls: list[tuple[int, int | None]] = []

        def stand_in(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            cum_seq_q: torch.Tensor,
            cum_seq_k: torch.Tensor,
            max_q: int,
            max_k: int,
            dropout_p: float,
            is_causal: bool,
            return_debug_mask: bool,
            *,
            scale: float,
            seqused_k: torch.Tensor,
            block_table: torch.Tensor | None = None,
            num_splits: int | None = None,
            **others: object,
        ) -> tuple[torch.Tensor, ...]:
            assert block_table is not None and dropout_p == 0.0 and not return_debug_mask
            assert all(value is None for value in others.values()), others
            assert cum_seq_k.dtype == torch.int32 and cum_seq_k.shape == cum_seq_q.shape
            assert int(seqused_k.max()) == max_k
            calls.append((max_q, num_splits))
            found = by_pages(
                *(query, key, value, cum_seq_q, seqused_k, block_table, max_q),
                causal=is_causal,
                scale=scale,
                multiple=PAGE,
            )
            return *found, *(torch.empty(0) for _ in range(3))

        monkeypatch.setattr(torch_cuda, "PAGE", PAGE)
        library = torch.library.Library("aten", "IMPL")
        library.impl("_flash_attention_forward", stand_in, "CPU")
        yield calls
        library._destroy()

    def test_decoding_splits_keys_and_prompts_do_not(self, op: list[tuple[int, Any]]) -> None:
        batch = batch_of("decode", 6, PAGE, "yarn+dca", 8, 112)
        got = attended(batch, TorchCudaKernel())
        assert relative_error(got, batch.want_THD) < 1e-5
        assert op == [(1, None)]
        op.clear()
        batch = batch_of("mixed", 6, PAGE, "yarn+dca", 8)
        got = attended(batch, TorchCudaKernel())
        assert relative_error(got, batch.want_THD) < 1e-5
        assert [splits for _, splits in op] == [1, 1] and op[0][0] > 1

    def test_heads_that_are_not_grouped_are_never_split(self, op: list[tuple[int, Any]]) -> None:
        batch = batch_of("decode", 3, PAGE, "dca", 9)
        batch.q_THD, batch.want_THD = batch.q_THD[:, ::3], batch.want_THD[:, ::3]
        assert batch.q_THD.shape[1] == 2
        assert relative_error(attended(batch, TorchCudaKernel()), batch.want_THD) < 1e-5
        assert op == [(1, 1)]

    @pytest.mark.parametrize("causal", [False, True])
    def test_its_shape_function_accepts_the_call(self, causal: bool) -> None:
        assert TorchCudaKernel().pages() == Pages(256, runs=True)
        q_NHD = torch.empty(7, 6, 64, dtype=torch.bfloat16, device="meta")
        k_MKD = torch.empty(800, 2, 64, dtype=torch.bfloat16, device="meta")
        meta = torch.device("meta")
        parts = [[PartSequence(0, 5, 0, 300), PartSequence(5, 7, 400, 9)]]
        sequences = tables(parts, 7, meta, 256)
        out_NHD, lse_HN = TorchCudaKernel().packed(
            q_NHD, k_MKD, k_MKD, sequences, causal=causal, scale=1.0
        )
        assert out_NHD.shape == q_NHD.shape and lse_HN.shape == (6, 7)


# -- tables ---------------------------------------------------------------------------------------


def test_runs_are_joined_where_whole_pages_lie_before() -> None:
    slots = [Slots(0, *span) for span in ((5, 25), (100, 164), (200, 232), (40, 49), (300, 301))]
    assert stretches(slots, 0) == [KeyStretch(s.start, s.stop - s.start) for s in slots]
    assert stretches(slots, 32) == [
        KeyStretch(5, 20),
        KeyStretch(100, 64 + 32 + 9, ((200, 32), (40, 9))),
        KeyStretch(300, 1),
    ]


def test_pages_begin_with_any_slot_and_overlap() -> None:
    x_MKD = torch.arange(40 * 2 * 8).view(2, 40, 8).transpose(0, 1)
    view = paged_view(x_MKD, 16)
    assert view.shape == (25, 16, 2, 8) and view.data_ptr() == x_MKD.data_ptr()
    for first in (0, 7, 24):
        assert torch.equal(view[first], x_MKD[first : first + 16])


def test_the_tables_of_a_call() -> None:
    apart = PartSequence(0, 3, 7, 64 + 5, behind=((500, 5),))
    parts = [[apart, PartSequence(3, 4, 100, 33)], [PartSequence(0, 4, 0, 0)]]
    held = tables(parts, 4, torch.device("cpu"), 32)
    assert held.pages_EP is not None and held.ends_k is not None
    assert held.pages_EP.tolist() == [[7, 39, 500], [100, 132, 0], [0, 0, 0]]
    assert held.ends_q.tolist() == [0, 3, 4, 8] and held.ends_k.tolist() == [0, 69, 102, 102]
    assert (held.keys_E.tolist(), held.most_q, held.most_k) == ([69, 33, 0], 4, 69)
    assert tables(parts[1:], 4, torch.device("cpu")).pages_EP is None


def test_what_int32_cannot_count_is_not_laid_out() -> None:
    half = PartSequence(0, 1, 0, 1 << 30)
    assert covered([[half]], 256, 1 << 30)
    assert not covered([[half], [half]], 256, 1 << 30)
    assert covered([[PartSequence(0, 1, 10, 257)]], 256, 10 + 512)
    assert not covered([[PartSequence(0, 1, 10, 257)]], 256, 10 + 511)


def test_on_a_gpu_nobody_waits_and_all_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of("mixed, some preempted", 6, PAGE, "yarn+dca", 3, 112)
    kernel: FlashAttnAnywhere = install(monkeypatch, Version2(PAGE))
    with FakeCuda(devices=1) as cuda:
        device: Any = torch.device("cuda:0")
        turns = Turns(batch.turns.chunk_map, batch.turns.inv_freq_F.to(device))
        keys, values = (x.to(device) for x in arena_of(batch, PAGE - 1))
        q_BHLD = batch.q_THD.transpose(0, 1)[None].to(device)
        plan = plan_step(rows_of(batch), turns)
        with cuda.during() as waits:  # the first layer makes the step's tables
            for _ in range(2):
                got = attend_step(plan, q_BHLD, [keys], [values], kernel, DIM**-0.5)[0]
        assert waits == [] and got.device == device
    assert relative_error(real(got), batch.want_THD) < 1e-5


def test_a_run_is_one_page_after_another_without_a_table_of_runs() -> None:
    """What a kernel of runs gets has no pages."""
    rows = [StepRow(9, 1, (Run(0, 0, 10, 3),))]
    layout = packed.lay_out(rows, None, 1, 1, 0, torch.device("cpu"))
    assert layout is not None and layout.slabs[0].calls[0][0].pages_EP is None
