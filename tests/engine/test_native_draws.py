"""The C library that draws: in every instruction set numpy's tokens, and none where it may not."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from pathlib import Path

import drawing_ways
import pytest
import torch

from longctx.attention.native import build
from longctx.engine import Sampling, drawing
from longctx.engine.errors import NonFiniteLogitsError
from longctx.engine.sampling import Drawn, RowSampler, draw

needed = pytest.mark.skipif(not drawing_ways.NATIVE, reason=f"the library {drawing_ways.LOADED}")
OWN = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
SIZES = (1, 2, 15, 16, 17, 31, 64, 511, 512, 513, 1000, 8191, 8209, 30_000)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def afresh() -> Iterator[None]:
    drawing.load.cache_clear()
    yield
    drawing.load.cache_clear()


def tokens_of(logits_RV: torch.Tensor, samplers: list[RowSampler]) -> list[int | None]:
    """None where a row's logits are not finite."""
    found: list[int | None] = []
    for each in draw(logits_RV, samplers):
        assert isinstance(each, (Drawn, NonFiniteLogitsError)), each
        found.append(each.token if isinstance(each, Drawn) else None)
    return found


def any_rules(rng: random.Random, vocabulary: int) -> RowSampler:
    """Of one request, from greedy to the odd, with some tokens noted."""
    penalties = rng.choice(
        [
            {},
            {},
            {"repetition_penalty": rng.choice((0.8, 1.05, 1.3, 20.0))},
            {"presence_penalty": rng.choice((-1.0, 0.5)), "frequency_penalty": 0.25},
            {"repetition_penalty": 1.1, "presence_penalty": 1.0},
        ]
    )
    filters = {
        "top_k": rng.choice((0, 1, 2, 20, 20, 50, 400, 100_000)),
        "top_p": rng.choice((1.0, 0.8, 0.95, 1e-6)),
        "min_p": rng.choice((0.0, 0.0, 0.05, 1.0)),
    }
    biases = tuple(
        (rng.randrange(vocabulary), rng.uniform(-5, 5)) for _ in range(rng.choice((0, 0, 3)))
    )
    sampler = RowSampler(
        Sampling(
            rng.choice((0.0, 0.3, 0.7, 1.0, 2.0, 1e-50)),
            **filters,
            **penalties,
            seed=rng.randrange(1 << 40),
            logit_bias=tuple(dict(biases).items()),
        ),
        [rng.randrange(vocabulary) for _ in range(50)],
    )
    for _ in range(rng.randrange(4)):
        sampler.note(rng.randrange(vocabulary))
    return sampler


def any_logits(rng: random.Random, rows: int, vocabulary: int) -> torch.Tensor:
    """Steep, flat or tied ones with -inf among them, a row in the middle of a wider one."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    wide_RV = torch.full((rows, vocabulary + 7), torch.nan)
    logits_RV = wide_RV[:, 3 : 3 + vocabulary]
    for row in range(rows):
        spread = rng.choice((0.0, 0.1, 1.0, 4.0))
        logits_RV[row] = torch.randn(vocabulary, generator=generator) * spread - rng.choice((0, 30))
        if rng.random() < 0.3:
            logits_RV[row, rng.randrange(1, 5) :: rng.randrange(1, 5)] = -torch.inf
        if rng.random() < 0.3:
            logits_RV[row].copy_(logits_RV[row].bfloat16())
        if rng.random() < 0.2:
            logits_RV[row].clamp_(-0.0, 0.0)
    return logits_RV


@needed
@pytest.mark.parametrize("vocabulary", SIZES)
def test_any_rows_are_drawn_as_numpy_draws_them(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(8 if vocabulary < 8_000 else 3):
        rng = random.Random(1000 * vocabulary + seed)
        rows = rng.choice((1, 3, 40))
        logits_RV = any_logits(rng, rows, vocabulary)
        given_RV, samplers = logits_RV.clone(), [any_rules(rng, vocabulary) for _ in range(rows)]
        drawing_ways.take(drawing_ways.NUMPY, monkeypatch)
        want = tokens_of(logits_RV, samplers)
        for way in drawing_ways.NATIVE:
            drawing_ways.take(way, monkeypatch)
            assert tokens_of(logits_RV, samplers) == want, (way, seed)
        assert torch.equal(logits_RV, given_RV)


@needed
@pytest.mark.parametrize("way", drawing_ways.NATIVE)
def test_numpy_looks_at_no_row_of_qwen2s_own_rules(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor at a greedy one, whatever its penalties: the speed is the library's."""
    drawing_ways.take(way, monkeypatch)
    looked_at = drawing_ways.sizes_asked_for(monkeypatch)
    logits_RV = torch.randn(6, 151_936, generator=torch.Generator().manual_seed(0)) * 3
    settings = [Sampling(**OWN, seed=0), Sampling(), Sampling(repetition_penalty=1.3)]
    settings += [Sampling(1.0, min_p=0.1), Sampling(1.0, top_k=400), Sampling(0.6, top_k=1)]
    samplers = [RowSampler(each, range(0, 151_936, 3)) for each in settings]
    for _ in range(3):
        for sampler, token in zip(samplers, tokens_of(logits_RV, samplers), strict=True):
            assert token is not None
            sampler.note(token)
    assert looked_at == []
    tokens_of(logits_RV, [RowSampler(Sampling(1.0, top_k=100_000)), *samplers[1:]])
    assert looked_at[0] == 1  # one row that asks for more than it may


@needed
@pytest.mark.parametrize("way", drawing_ways.NATIVE)
@pytest.mark.parametrize("vocabulary", [5, 600, 1024])
def test_rows_that_are_not_finite_are_told_wherever_it_stands(
    way: str, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing_ways.take(way, monkeypatch)
    places = range(0, vocabulary, 1 if vocabulary == 5 else 7)
    logits_RV = torch.randn(len(places), vocabulary)
    for number in (torch.nan, -torch.nan, torch.inf):
        given_RV = logits_RV.clone()
        for row, place in enumerate(places):
            given_RV[row, place] = number
        for rules in ({}, OWN):
            samplers = [RowSampler(Sampling(**rules, seed=1), [1]) for _ in places]
            assert tokens_of(given_RV, samplers) == [None] * len(places)
            mixed_RV = torch.cat([logits_RV[:1], given_RV[:1], logits_RV[:1]])
            one, none, same = tokens_of(mixed_RV, samplers[:1] * 3)
            assert one == same is not None and none is None
    lowest_RV = torch.full((2, vocabulary), -torch.inf)
    assert tokens_of(lowest_RV, samplers[:2]) == [None, None]
    lowest_RV[1, vocabulary - 1] = -3e38  # the one that there is, the last
    assert tokens_of(lowest_RV, samplers[:2]) == [None, vocabulary - 1]


@needed
@pytest.mark.parametrize("way", drawing_ways.NATIVE)
def test_ties_without_end_are_left_to_numpy(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More equal candidates than there is room for; of equals the lowest ids are kept."""
    drawing_ways.take(way, monkeypatch)
    flat_RV = torch.zeros(3, 10_000)
    flat_RV[:, 17::2] = -0.0
    settings = [Sampling(), Sampling(1.0, top_k=3, seed=1), Sampling(1.0, top_k=3, seed=2)]
    samplers = [RowSampler(each) for each in settings]
    seen = set[int | None]()
    for _ in range(12):
        tokens = tokens_of(flat_RV, samplers)
        assert tokens[0] == 0
        seen.update(tokens)
        for sampler, token in zip(samplers, tokens, strict=True):
            sampler.note(token or 0)
    assert seen == {0, 1, 2}


@needed
def test_threads_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    logits_RV = any_logits(rng, 24, 20_000)
    samplers = [any_rules(rng, 20_000) for _ in range(24)]
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(tokens_of(logits_RV, samplers))
    assert found[0] == found[1] == found[2]


class Forbidding:
    """A grammar in which nothing may come."""

    def mask(self, logits_V: torch.Tensor) -> None:
        logits_V.fill_(-torch.inf)

    def accept(self, token: int) -> bool:
        return False


@pytest.mark.parametrize("way", drawing_ways.WAYS)
def test_what_was_finite_before_its_grammar_is_no_broken_row(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing_ways.take(way, monkeypatch)
    logits_RV = torch.randn(3, 700)
    logits_RV[2, 5] = torch.nan
    for rules in ({}, OWN):
        samplers = [RowSampler(Sampling(**rules), constraint=Forbidding()) for _ in range(3)]
        samplers[1] = RowSampler(Sampling())
        forbidden, free, broken = tokens_of(logits_RV, samplers)
        assert free == int(logits_RV[1].argmax())
        assert forbidden is not None and broken is None


@pytest.mark.usefixtures("afresh")
def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.LEAVE_OUT, "1")
    assert drawing.load() == f"{build.LEAVE_OUT} is set"
    looked_at = drawing_ways.sizes_asked_for(monkeypatch)
    assert tokens_of(torch.eye(3, 200) * 50, [RowSampler(Sampling(**OWN))] * 3) == [0, 1, 2]
    assert looked_at[0] == 3


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(("held", "level"), [("default", 0), ("avx2", 1), ("avx512", 2)])
@needed
def test_torchs_word_for_the_processor_holds_here_too(
    held: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", held)
    loaded = drawing.load()
    assert isinstance(loaded, drawing.Drawer)
    assert loaded.level == min(level, len(drawing_ways.NATIVE) - 1)


@needed
@pytest.mark.usefixtures("afresh")
def test_one_that_is_missing_or_old_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "draw.c"
    source.write_bytes(drawing.SOURCE.read_bytes() + b"\n/* changed */\n")
    kept = build.library_of(drawing.SOURCE).read_bytes()
    monkeypatch.setattr(drawing, "SOURCE", source)
    assert "is not built: a C compiler was missing" in str(drawing.load())
    drawing.load.cache_clear()
    build.library_of(source).write_bytes(kept)
    assert drawing.load() == "was built from another draw.c or header: install longctx again"


def test_the_attentions_build_compiles_it_and_it_says_what_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CC", build.LEAVE_OUT):
        monkeypatch.delenv(name, raising=False)
    reason = build.compile_into(tmp_path, drawing.SOURCE, ["-ffp-contract=off", "-lm"])
    if reason is not None:
        assert "no C compiler was found" in reason or "Windows" in reason
        pytest.skip(reason)
    assert [file.name for file in tmp_path.iterdir()] == ["draw.lib"]
    made = ctypes.CDLL(str(tmp_path / "draw.lib")).longctx_source
    made.restype = ctypes.c_char_p
    assert made().decode() == build.source_hash(drawing.SOURCE)
