"""The engine over an arena whose blocks lie anywhere, under kernels that find keys by pages."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, expected, prompt_of
from paging_kernels import FlashAttnAnywhere, Version2, Version3, install, runs_3, scatter

from longctx.attention import kernels
from longctx.attention.kernels import flash_attn
from longctx.engine import Engine, EngineRequest, kv
from longctx.engine.buffer import Segment
from longctx.engine.kv import KvPool, SequenceKv, block_tokens

PAGE = 16


@pytest.fixture
def varlen() -> Version2:
    return Version2(PAGE)


@pytest.fixture
def kernel(varlen: Version2, monkeypatch: pytest.MonkeyPatch) -> FlashAttnAnywhere:
    made = install(monkeypatch, varlen)
    monkeypatch.setitem(kernels._KERNELS, made.name, made)
    monkeypatch.setattr(kv, "block_tokens", lambda *_: PAGE)
    scatter(monkeypatch, PAGE)
    return made


def answers(engine: Engine, prompts: list[list[int]], tokens: int) -> list[tuple[int, ...]]:
    handles = []
    for prompt in prompts:
        handles.append(engine.submit(EngineRequest(prompt, max_new_tokens=tokens)))
        engine.step()
    engine.run_until_idle()
    return [handle.result(timeout=0).token_ids for handle in handles]


PROMPTS = [prompt_of(n, seed=n) for n in (3, 150, 47)]
PROMPTS += [prompt_of(100) + prompt_of(3 + n, seed=n) for n in range(3)]


@pytest.mark.parametrize("method", ["none", "dca", "yarn+dca", "yarn-freqs+dca"])
@pytest.mark.parametrize("share_from", [1, 10_000], ids=["in place", "copied"])
def test_scattered_blocks_are_two_calls_at_most_and_change_no_answer(
    method: str, share_from: int, kernel: FlashAttnAnywhere, varlen: Version2
) -> None:
    """Chunks are no whole pages here: S is 24."""
    model = tiny_models.build()
    want = [expected(model, method, prompt) for prompt in PROMPTS]
    with engine_for(model, method, kernel=kernel.name, share_from=share_from) as engine:
        assert answers(engine, PROMPTS, 12) == want
        steps, pool = engine.stats().counts.steps, engine._scheduler.pool
        calls = len(varlen.calls) + kernel.dense
        assert calls <= 2 * model.config.num_hidden_layers * steps
        assert len(varlen.calls) > 10 * kernel.dense  # those of a first chunk in one block
        engine._scheduler.prefixes.clear()
        assert pool.arena is not None and pool.used_bytes == 0
        assert pool.arena.longest == pool.budget_tokens


def test_version_3_over_scattered_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_attn, "PAGE_3", PAGE)
    monkeypatch.setattr(kv, "block_tokens", lambda *_: PAGE)
    scatter(monkeypatch, PAGE)
    cached = Version3()
    kernel = install(monkeypatch, runs=runs_3, paged_3=cached)
    monkeypatch.setitem(kernels._KERNELS, kernel.name, kernel)
    model = tiny_models.build()
    want = [expected(model, "yarn+dca", prompt) for prompt in PROMPTS]
    with engine_for(model, "yarn+dca", kernel=kernel.name, share_from=1) as engine:
        assert answers(engine, PROMPTS, 12) == want
    assert cached.calls


def test_what_is_preempted_begins_again_elsewhere(
    kernel: FlashAttnAnywhere, varlen: Version2
) -> None:
    model = tiny_models.build()
    prompts = [prompt_of(n, seed=n) for n in (28, 25, 30, 27)]
    want = [expected(model, "dca", prompt, 40) for prompt in prompts]
    with engine_for(model, "dca") as engine:
        size = engine._runner.kv_bytes_per_token
    budget = (9 * PAGE + PAGE - 1) * size
    with engine_for(model, "dca", kernel=kernel.name, kv_budget_bytes=budget) as engine:
        assert engine._scheduler.pool.blocks == 9
        assert answers(engine, prompts, 40) == want
        assert engine._scheduler.preempted and varlen.calls


# -- memory ---------------------------------------------------------------------------------------


def test_a_block_is_a_page_where_the_budget_has_many() -> None:
    assert [block_tokens(tokens, 256) for tokens in (32768, 32767, 8192)] == [256, 128, 64]
    assert block_tokens(1 << 20, 256) == 256 and block_tokens(1 << 20, 64) == 64
    assert block_tokens(1 << 20) == 64


def test_the_engine_asks_the_kernel_for_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = install(monkeypatch, Version2())
    monkeypatch.setitem(kernels._KERNELS, kernel.name, kernel)
    model = tiny_models.build()
    with engine_for(model, "dca") as engine:
        size, plain = engine._runner.kv_bytes_per_token, engine._scheduler.pool
        assert engine._runner.page == 0 and plain.arena is None and plain.block == 64
    want = expected(model, "dca", PROMPTS[1])
    budget = (130 * 256 + 255) * size
    with engine_for(model, "dca", kernel=kernel.name, kv_budget_bytes=budget) as engine:
        pool = engine._scheduler.pool
        assert engine._runner.page == pool.block == 256 and pool.blocks == 130
        assert answers(engine, [PROMPTS[1]], 12) == [want]
        k_1KMD, _ = pool.arena.stack(0)  # type: ignore[union-attr]
        assert k_1KMD.shape[2] == 130 * 256 + 255  # the last page ends within
        assert k_1KMD.nbytes * 2 * model.config.num_hidden_layers <= budget


def test_every_buffer_begins_with_a_page() -> None:
    """So keys that lie apart do so at pages' ends, wherever prefixes part."""
    pool = KvPool(1, 1, 40 * PAGE + PAGE - 1, 1, in_arena=True, block=PAGE, page=PAGE)

    def filled(source: list[Segment], cached: int, total: int) -> SequenceKv:
        held = SequenceKv(pool, source, cached, total, total)
        new = total - held.own.origin
        k_KLD = torch.arange(float(held.own.origin), total).view(1, new, 1).expand(-1, -1, 4)
        held.own.write(0, held.own.origin, k_KLD, k_KLD)
        return held

    def keys(held: SequenceKv, tokens: int) -> list[float]:
        parts: list[float] = []
        at = 0
        for buffer, stop in held.segments(tokens):
            parts += buffer.read(0, at, stop)[0][0, 0, :, 0].tolist()
            at = stop
        return parts

    pool.arena._layers[0] = None  # type: ignore[union-attr]
    first = filled([], 0, 61)
    second = filled(first.segments(61), 61, 100)
    assert (second.own.origin, [each.stop for each in second.shared]) == (48, [48])
    # A kept prefix that parts within a page: 70 tokens of the first two, then its own.
    third = filled([Segment(first.own, 57), Segment(second.own, 90)], 90, 130)
    assert (third.own.origin, [each.stop for each in third.shared]) == (80, [48, 80])
    for held, tokens in ((first, 61), (second, 100), (third, 130)):
        assert keys(held, tokens) == list(range(tokens))
    for held in (first, second, third):
        held.release()
    assert pool.used_blocks == 0 and pool.arena is not None
    assert pool.arena.longest == 40 * PAGE


def test_without_pages_prefixes_are_shared_to_the_token() -> None:
    pool = KvPool(1, 1, 40 * PAGE, 1, in_arena=True, block=PAGE)
    held = SequenceKv(pool, [], 0, 61, 61)
    assert pool.split(held.segments(61), 61)[1] == 61
    small: Any = KvPool(1, 1, 40 * PAGE, 1, in_arena=True, block=4, page=PAGE)
    held = SequenceKv(small, [], 0, 61, 61)  # a block is less than a page: nothing is gained
    assert small.split(held.segments(61), 61)[1] == 61
