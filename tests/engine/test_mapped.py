"""Memory of the host that is taken page by page, and given back before its run ends."""

from __future__ import annotations

import sys

import psutil
import pytest
import torch

from longctx.engine import buffer as buffers
from longctx.engine import mapped
from longctx.engine.buffer import Segment
from longctx.engine.kv import KvPool
from longctx.engine.mapped import MappedRun
from longctx.engine.prefix import PrefixTree

MiB = 1 << 20


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(sys.platform != "linux", reason="resident size is read as Linux tells it")
def test_addresses_cost_nothing_and_pages_go_back() -> None:
    before = resident()
    run = MappedRun(4, 64 * 1024, (2, 64, 64), torch.float32)  # 256 MiB
    for layer in range(4):
        for x_KMD in run.layer(layer):
            assert x_KMD.shape == (2, 64 * 1024, 64)
            x_KMD[:, : 16 * 1024] = 1.0
    written = resident() - before
    assert 60 * MiB < written < 80 * MiB
    run.give_back(1024, 16 * 1024)
    assert resident() - before < 20 * MiB
    assert all(x_KMD[:, :1024].eq(1).all() for n in range(4) for x_KMD in run.layer(n))


@pytest.mark.parametrize("tokens", [50, 5000], ids=["allocator", "mapped"])
def test_layers_lie_apart(tokens: int) -> None:
    run = MappedRun(3, tokens, (2, 8, 16), torch.bfloat16)
    assert (3 * 2 * tokens * 24 * 2 < mapped._SMALL) == (tokens == 50)
    held = [x_KMD for layer in range(3) for x_KMD in run.layer(layer)]
    for number, x_KMD in enumerate(held):
        x_KMD.fill_(number)
    assert all(x_KMD.eq(number).all() for number, x_KMD in enumerate(held))
    assert [x_KMD.shape[2] for x_KMD in held] == [8, 16] * 3


def test_what_stays_of_a_shortened_prefix_is_as_it_was() -> None:
    pool = KvPool(2, 4, 4 * 40_000, block=64)
    tree = PrefixTree(pool)
    buffer = pool.allocate(0, 20_000)
    k_KLD = torch.randn(2, 20_000, 8)
    for layer in range(2):
        buffer.write(layer, 0, k_KLD, -k_KLD)
    tokens_N = torch.arange(20_000).numpy()
    tree.insert(0, tokens_N, [Segment(buffer, 20_000)])
    buffer.release()
    assert tree.evict(200)
    found = tree.match(0, tokens_N)
    assert found.length == (20_000 // 64 + 1 - 200) * 64 == found.segments[0].stop
    for layer in range(2):
        k_1KMD, v_1KMD = buffer.read(layer, 0, found.length)
        assert torch.equal(k_1KMD[0], k_KLD[:, : found.length])
        assert torch.equal(v_1KMD[0], -k_KLD[:, : found.length])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is where memory stays")
def test_holes_that_small_runs_leave_go_back_to_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every second of many runs stays: between them there is room, and nobody else's to use."""
    pool = KvPool(1, 1024, 4096 * 64 * 1024, block=64)
    k_KLD = torch.ones(2, 192, 64)

    def after(trim_every: int) -> int:
        monkeypatch.setattr(buffers, "TRIM_EVERY", trim_every)
        kept, before = [], resident()
        for _ in range(400):  # 192 KiB each
            buffer = pool.allocate(0, 192)
            buffer.write(0, 0, k_KLD, k_KLD)
            kept.append(buffer)
        for buffer in kept[::2]:
            buffer.release()
        held = resident() - before
        for buffer in kept[1::2]:
            buffer.release()
        return held

    after(8 * MiB)  # what only the first time takes
    assert after(8 * MiB) < after(1 << 40) - 20 * MiB


def test_too_many_addresses_are_a_shortage_of_memory() -> None:
    with pytest.raises(MemoryError, match="no memory for keys and values"):
        MappedRun(1, 1 << 45, (2, 64, 64), torch.float32)
