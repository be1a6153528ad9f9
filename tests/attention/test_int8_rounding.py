"""Rows written in C have the bits of those that torch writes, in every instruction set."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from native_cases import LOADED, levels

from longctx.attention import int8_keys
from longctx.attention.int8_keys import ROOM, put, round_into, row_bytes, widen
from longctx.attention.native import library, rounding

FLOAT32, BF16 = torch.float32, torch.bfloat16
needs_library = pytest.mark.skipif(isinstance(LOADED, str), reason=f"the library {LOADED}")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def by_torch(x: torch.Tensor) -> torch.Tensor:
    """[..., D] to [..., R]."""
    rows = torch.empty(*x.shape[:-1], row_bytes(x.shape[-1]), dtype=torch.int8)
    assert not torch.is_inference_mode_enabled()
    round_into(rows, x)
    return rows


def drawn(seed: int) -> torch.Tensor:
    """[K, L, D] as projections, rotations and slices leave them; now and then a hard row."""
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    heads, tokens = choose.randint(1, 4), choose.choice([1, 1, 2, 7, 64, 300])
    dim = choose.choice([64, 64, 128, 80, 96, 256, 18, 16, 8, 3, 1])
    x = torch.randn(tokens, heads, dim, generator=generator)
    x *= torch.logspace(*choose.choice([(0, 0), (-40, 36), (-3, 3)]), tokens)[:, None, None]
    if choose.random() < 0.3:  # halves, which go to the even number
        x = (x * 8).round() / 2
        x[..., 0] = 127
    hard = [0.0, -0.0, torch.nan, torch.inf, -torch.inf, 3.4e38, -1e-30, 1e-45, 1e-38]
    for _ in range(choose.randrange(4)):
        at = choose.randrange(tokens), choose.randrange(heads)
        if choose.random() < 0.4:
            x[at] = choose.choice(hard)
        else:
            x[(*at, choose.randrange(dim))] = choose.choice(hard)
    x = x.to(choose.choice([FLOAT32, BF16]))
    order = choose.randrange(3)
    if order == 0:
        return x.transpose(0, 1)
    if order == 1:
        return x.transpose(0, 1).contiguous()
    wide = torch.empty(heads, tokens + 3, dim + 5, dtype=x.dtype)[:, 1:-2, 2:-3]
    return wide.copy_(x.transpose(0, 1))


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    """To the bit; a scale that is no number has no bits of its own in torch either."""
    dim = got.shape[-1] - ROOM
    flat = [x[..., dim:].reshape(-1, ROOM) for x in (got, want)]
    scales = [x.clone(memory_format=torch.contiguous_format).view(BF16) for x in flat]
    bits = [x.view(torch.int16).masked_fill(x.isnan(), 1) for x in scales]
    nan = [x.isnan() for x in scales]
    return torch.equal(*nan) and torch.equal(*bits) and torch.equal(got[..., :dim], want[..., :dim])


@needs_library
def test_random_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(LOADED, library.Library)
    for seed in range(400):
        x = drawn(seed)
        want = by_torch(x)
        heads, tokens, size = want.shape
        for level in levels():
            chosen = replace(LOADED, level=level)
            monkeypatch.setattr(library, "load", lambda chosen=chosen: chosen)
            kept = torch.full((heads, tokens + 2, size + 1), 7, dtype=torch.int8)
            into = kept[:, 1:-1, :-1]
            with torch.inference_mode():
                assert rounding.takes(into, x)
                put(into, x)
            assert same(into, want), (seed, library.LEVELS[level])
            into.fill_(7)
            assert (kept == 7).all()  # nothing beside the rows


@needs_library
def test_every_largest_number_of_bf16() -> None:
    """All magnitudes that a row of bfloat16 can have, beside a quarter and a half of them."""
    largest = torch.arange(1 << 15, dtype=torch.int16).view(BF16)
    x = torch.stack((largest, -largest / 2, largest / 4, largest / 127), dim=-1)[None]
    want, into = by_torch(x), torch.empty(1, 1 << 15, row_bytes(4), dtype=torch.int8)
    with torch.inference_mode():
        round_into(into, x)
    assert same(into, want)


@needs_library
def test_threads_share_a_long_prompt() -> None:
    x = torch.randn(3, 1501, 64, generator=torch.Generator().manual_seed(0))
    want = by_torch(x)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        into = torch.empty_like(want)
        with torch.inference_mode():
            round_into(into, x)
        assert torch.equal(into, want)


@needs_library
def test_what_the_library_does_not_read_torch_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "write", None)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    want = by_torch(x)
    others = [x.half(), x.double(), x.mT.contiguous().mT]
    with torch.inference_mode():
        for other in others:
            into = torch.empty_like(want)
            round_into(into, other)
            assert (widen(into, FLOAT32) - x).abs().max() < 0.02
        four = torch.empty(1, *want.shape, dtype=torch.int8)
        round_into(four, x[None])
        assert torch.equal(four[0], want)


@pytest.mark.parametrize("library_is_there", [True, False])
def test_rows_of_another_size_are_refused(
    library_is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C they would be written over what lies behind them."""
    if not library_is_there:
        monkeypatch.setattr(library, "load", lambda: "is gone")
    x = torch.randn(2, 5, 32)
    sizes = itertools.product((1, 3), (4, 6), (row_bytes(32) - 1, row_bytes(32) + 1))
    for shape in sizes:
        with torch.inference_mode(), pytest.raises(RuntimeError, match="size"):
            round_into(torch.empty(shape, dtype=torch.int8), x)
    with torch.inference_mode():
        into = torch.empty(2, 5, row_bytes(32), dtype=torch.int8)
        round_into(into, x)
    assert torch.equal(into, by_torch(x)) and into[..., :32].abs().max() == int8_keys.LARGEST
