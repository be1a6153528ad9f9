"""The tree of kept prefixes: what it finds, what it gives up, and that its blocks are counted."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from longctx.engine import prefix
from longctx.engine.buffer import KvBuffer, Segment, spans
from longctx.engine.kv import KvPool
from longctx.engine.prefix import MIN_TOKENS, PrefixTree, common_prefix

LAYERS = 2


def pool_of(tokens: int, block: int, *, in_arena: bool = False) -> KvPool:
    return KvPool(LAYERS, 4, 4 * tokens, 1, in_arena=in_arena, block=block)


def numbers_of(tokens_N: Any, layer: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [1, L, 2] that tell their token, position and layer."""
    tokens_L = torch.as_tensor(tokens_N[start:]).float()
    position_L = torch.arange(start, len(tokens_N)).float()
    k_KLD = torch.stack((tokens_L, position_L + 1000 * layer), dim=1)[None]
    return k_KLD, -k_KLD


def computed(pool: KvPool, tree: PrefixTree, tokens_N: Any, bucket: int = 0) -> list[Segment]:
    """What a request that goes on from the tree would have at its end; held by nobody else."""
    found = tree.match(bucket, tokens_N[:-1])
    buffer = pool.allocate(found.length, len(tokens_N) - found.length)
    for layer in range(LAYERS):
        buffer.write(layer, found.length, *numbers_of(tokens_N, layer, found.length))
    return [*found.segments, Segment(buffer, len(tokens_N))]


def keep(pool: KvPool, tree: PrefixTree, tokens_N: Any, bucket: int = 0) -> None:
    segments = computed(pool, tree, tokens_N, bucket)
    tree.insert(bucket, tokens_N, segments)
    segments[-1].buffer.release()


def check_found(tree: PrefixTree, tokens_N: Any, bucket: int = 0) -> int:
    """What is found has the right numbers; how much that is."""
    found = tree.match(bucket, tokens_N)
    for layer in range(LAYERS):
        want_k, want_v = numbers_of(tokens_N, layer)
        for buffer, start, stop in spans(found.segments, found.length):
            k_1KMD, v_1KMD = buffer.read(layer, start, stop)
            assert torch.equal(k_1KMD[0], want_k[:, start:stop])
            assert torch.equal(v_1KMD[0], want_v[:, start:stop])
    return found.length


def test_what_was_used_last_stays() -> None:
    pool = pool_of(1000, 1)
    tree = PrefixTree(pool)
    a, b, c = (np.arange(20) + n for n in (0, 100, 200))
    keep(pool, tree, a)
    keep(pool, tree, b)
    found = tree.match(0, np.arange(30))
    assert found.length == 20 and tree.match(1, np.arange(30)).length == 0
    tree.touch(found.node)
    keep(pool, tree, c)
    assert tree.evict(20)
    assert [tree.match(0, each).length for each in (a, b, c)] == [20, 0, 20]
    keep(pool, tree, a[:18])  # there already
    keep(pool, tree, np.arange(25))  # goes on from a
    assert len(tree) == 2 and pool.used_blocks == pool.idle_blocks == 45
    assert common_prefix(a, a[:0]) == 0


def test_a_prefix_loses_no_more_than_is_needed_and_from_its_end() -> None:
    pool = pool_of(200, 8)
    tree = PrefixTree(pool)
    long, other = np.arange(96), np.arange(500, 580)
    keep(pool, tree, long)
    keep(pool, tree, other)
    assert pool.free_blocks == 3
    assert tree.make_room(5)
    assert (check_found(tree, long), check_found(tree, other)) == (80, 80)
    # More than there is: nothing goes.
    assert not tree.make_room(26)
    assert (check_found(tree, long), check_found(tree, other)) == (80, 80)
    # What is left of it would not be worth an entry.
    assert tree.make_room(5 + 9)
    assert (check_found(tree, long), check_found(tree, other)) == (0, 80)


def test_what_is_in_use_is_not_given_up_for_nothing() -> None:
    pool = pool_of(100, 4)
    tree = PrefixTree(pool)
    document = np.arange(60)
    keep(pool, tree, document)
    found = tree.match(0, document[:30])
    with pool.holding(found.segments, found.length):
        assert pool.idle_blocks == 7 and not tree.make_room(10 + 8)
        assert check_found(tree, document) == 60
        assert tree.make_room(10 + 7)
        assert check_found(tree, document) == 32
    tree.clear()
    assert pool.used_blocks == pool.idle_blocks == len(tree) == 0


@pytest.mark.parametrize("in_arena", [False, True], ids=["side by side", "arena"])
@pytest.mark.parametrize("seed", range(4))
def test_random_prefixes_against_a_list(seed: int, in_arena: bool) -> None:
    rng = random.Random(seed)
    block = rng.choice([1, 4, 16])
    pool = pool_of(640, block, in_arena=in_arena)
    tree = PrefixTree(pool)
    stored: list[Any] = []  # all that was ever kept, nothing given up

    def tokens() -> Any:
        start = list(rng.choice(stored))[: rng.randrange(1, 200)] if stored else []
        return np.array(start + [rng.randrange(3) for _ in range(rng.randrange(1, 60))])

    for _ in range(120):
        mine = tokens()
        want = max((common_prefix(mine, each) for each in stored), default=0)
        assert check_found(tree, mine) <= want
        with pool.holding(tree.match(0, mine).segments, len(mine)):
            room = tree.make_room(pool.blocks_of(len(mine)) + 1)
        if not room:
            assert pool.free_blocks + pool.idle_blocks < pool.blocks_of(len(mine)) + 1 + pool.blocks
            continue
        before = check_found(tree, mine)
        keep(pool, tree, mine)
        stored.append(mine)
        if len(mine) >= MIN_TOKENS:
            assert check_found(tree, mine) == len(mine) >= before
        assert 0 <= pool.idle_blocks <= pool.used_blocks <= pool.blocks
    assert pool.idle_blocks == pool.used_blocks
    tree.clear()
    assert pool.idle_blocks == pool.used_blocks == len(tree) == 0
    assert pool.arena is None or pool.arena.longest == pool.budget_tokens


def test_finding_and_keeping_take_no_longer_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: runs of tokens that are compared, and nodes that are made."""
    pool = pool_of(100_000, 1)
    tree = PrefixTree(pool)
    rng = np.random.default_rng(0)
    document = rng.integers(0, 1000, 64)
    holder = pool.allocate(0, 100)

    def add(number: int) -> Any:
        mine = np.concatenate((document[: number % 60], [1000 + number], np.arange(20)))
        tree.insert(0, mine, [Segment(holder, len(mine))])
        return mine

    for number in range(5000):
        last = add(number)
    compared: list[int] = []
    made: list[int] = []
    node = prefix.Node

    def counting(a_N: Any, b_N: Any) -> int:
        compared.append(len(a_N))
        return common_prefix(a_N, b_N)

    class Counted(node):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any) -> None:
            made.append(1)
            super().__init__(*arguments)

    monkeypatch.setattr(prefix, "common_prefix", counting)
    monkeypatch.setattr(prefix, "Node", Counted)
    assert tree.match(0, last).length == len(last)
    add(5000)
    # One comparison a node on the way down, at most one node in each of 60 places of the document.
    assert len(compared) <= 2 * 61 and len(made) <= 2
    assert isinstance(holder, KvBuffer) and len(tree) == 5001
