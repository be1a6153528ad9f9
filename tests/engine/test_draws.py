"""Draws without sorting the vocabulary: the distribution, the kept tokens, one answer a seed.

The references are plain: float64, a full stable sort, one row after the other.
"""

from __future__ import annotations

import math
from typing import Any

import drawing_ways
import numpy as np
import pytest
import torch
from engine_helpers import engine_for, prompt_of, run

from longctx.engine import EngineRequest, Sampling, candidates, noise
from longctx.engine.sampling import Drawn, RowSampler, draw


def reference(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities [V], float64."""
    scaled_V = (logits_V.double() - logits_V.max()) / sampling.temperature
    values_V, ids_V = scaled_V.softmax(0).sort(descending=True, stable=True)
    if sampling.top_k:
        values_V[sampling.top_k :] = 0
    values_V /= values_V.sum()
    before_V = values_V.cumsum(0) - values_V
    if sampling.top_p < 1:
        gone_V = before_V >= sampling.top_p
        gone_V[0] = False
        values_V[gone_V] = 0
    values_V[values_V < sampling.min_p * values_V[0]] = 0
    return torch.zeros_like(values_V).scatter(0, ids_V, values_V / values_V.sum())


def penalised(
    logits_V: torch.Tensor, sampling: Sampling, prompt: list[int], answer: list[int]
) -> torch.Tensor:
    """By the definition, token by token."""
    found_V = logits_V.clone()
    for token in {*prompt, *answer} if sampling.repetition_penalty != 1 else ():
        by = sampling.repetition_penalty
        found_V[token] = found_V[token] / by if found_V[token] > 0 else found_V[token] * by
    for token in set(answer):
        found_V[token] -= sampling.presence_penalty
        found_V[token] -= sampling.frequency_penalty * answer.count(token)
    return found_V


def tokens_of(logits_RV: torch.Tensor, samplers: list[RowSampler]) -> list[int]:
    drawn = draw(logits_RV, samplers)
    assert all(isinstance(each, Drawn) for each in drawn)
    return [each.token for each in drawn if isinstance(each, Drawn)]


def peaked(rows: int, vocabulary: int, seed: int = 0, steep: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits_V = 8 - steep * torch.arange(1.0, vocabulary + 1).log()
    order_RV = torch.rand(rows, vocabulary, generator=generator).argsort(-1)
    jitter_RV = torch.randn(rows, vocabulary, generator=generator) * 0.1
    return logits_V.expand(rows, -1).gather(1, order_RV) + jitter_RV


SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=2.0),
    Sampling(temperature=0.7, top_p=0.8, top_k=20),
    Sampling(temperature=1.0, top_p=0.9),
    Sampling(temperature=3.0, top_p=0.95),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=1.5, top_k=300, min_p=0.001),
    Sampling(temperature=1.2, top_k=50, top_p=0.9, min_p=0.01),
    Sampling(temperature=1.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2),
    Sampling(temperature=1.0, top_k=30, repetition_penalty=1.3, frequency_penalty=0.2),
    Sampling(temperature=1.0, top_k=30, repetition_penalty=0.7, presence_penalty=-1.0),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=repr)
def test_draws_have_the_references_distribution(sampling: Sampling) -> None:
    """A chi-square over 3,000 draws; small expectations are pooled, as is the custom."""
    logits_1V = peaked(1, 400)
    prompt, answer = list(range(0, 400, 3)), [1, 1, 1, 4, 30]
    want_V = reference(penalised(logits_1V[0], sampling, prompt, answer), sampling)
    found_V = torch.zeros(400, dtype=torch.float64)
    rows = 1000
    settings = {name: getattr(sampling, name) for name in sampling.__dataclass_fields__}
    for first in range(0, 3000, rows):
        samplers = [
            RowSampler(Sampling(**{**settings, "seed": first + row}), prompt) for row in range(rows)
        ]
        for sampler in samplers:
            for token in answer:
                sampler.note(token)
        tokens = torch.tensor(tokens_of(logits_1V.expand(rows, -1), samplers))
        found_V += torch.bincount(tokens, minlength=400)
    assert not found_V[want_V == 0].any()
    expected_V = want_V * found_V.sum()
    large_V = expected_V >= 5
    pooled = torch.cat([expected_V[large_V], expected_V[~large_V].sum()[None]])
    counted = torch.cat([found_V[large_V], found_V[~large_V].sum()[None]])
    there = pooled > 0
    statistic = float(((counted - pooled)[there] ** 2 / pooled[there]).sum())
    freedom = int(there.sum()) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom), (statistic, freedom)


def kept_of(logits_1V: torch.Tensor, sampling: Sampling) -> set[int]:
    """As the engine finds them: with more candidates until these are certainly all."""
    vocabulary = logits_1V.shape[1]
    maxima_1B = candidates.block_maxima(logits_1V)
    for size in candidates.sizes_for(sampling, vocabulary):
        found = candidates.ordered(candidates.top(logits_1V, maxima_1B, size))
        rule = candidates.Filters.of([candidates.RowFilter.of(sampling)], logits_1V.device)
        given = map(torch.as_tensor, (found.values_RK, found.bound_R1, rule.temperature))
        others = candidates.others(logits_1V, *given).numpy()
        kept = candidates.keep(found, rule, others)
        if kept.sure_R.all():
            return set(kept.ids_RK[0, kept.weights_RK[0] > 0].tolist())
    raise AssertionError("the whole vocabulary settles every row")


@pytest.mark.parametrize("vocabulary", [130, 5_000, 8_192, 20_011])
@pytest.mark.parametrize("ties", [False, True], ids=["float32", "bfloat16"])
def test_the_kept_tokens_are_those_of_a_full_sort(vocabulary: int, ties: bool) -> None:
    """Equal logits included: of them the lowest ids stay."""
    grown = 0
    for seed, steep in enumerate((0.0, 0.3, 1.0, 2.0)):
        logits_1V = peaked(1, vocabulary, seed, steep)
        logits_1V[0, ::7] = -torch.inf
        if ties:
            logits_1V = logits_1V.bfloat16().float()
        for sampling in [
            *(Sampling(temperature=0.7, top_k=k) for k in (1, 20, 64, 65, 1000, vocabulary)),
            *(Sampling(temperature=1.3, top_p=p) for p in (1e-6, 0.5, 0.8, 0.99)),
            *(Sampling(temperature=1.0, min_p=p) for p in (0.001, 0.1, 1.0)),
            Sampling(temperature=0.9, top_k=200, top_p=0.95, min_p=0.01),
        ]:
            want = set(reference(logits_1V[0], sampling).nonzero()[:, 0].tolist())
            assert kept_of(logits_1V, sampling) == want, (steep, sampling)
            grown += len(want) > candidates.SIZES[0]
    assert grown > 3 or vocabulary == 130


def mixed() -> tuple[torch.Tensor, list[Sampling]]:
    settings = [Sampling(), *SETTINGS, Sampling(temperature=1.0, top_k=600, seed=3), Sampling()]
    return peaked(len(settings), 3001, seed=5, steep=1.0), [
        Sampling(**{**{n: getattr(s, n) for n in s.__dataclass_fields__}, "seed": 40 + row})
        for row, s in enumerate(settings)
    ]


def test_neighbours_order_and_repetition_change_no_draw() -> None:
    logits_RV, settings = mixed()
    given_RV = logits_RV.clone()
    samplers = [RowSampler(each, range(0, 3000, 5)) for each in settings]
    for _ in range(4):
        tokens = tokens_of(logits_RV, samplers)
        assert tokens == tokens_of(logits_RV, samplers)  # a step is repeated where it failed
        assert tokens[::-1] == tokens_of(logits_RV.flip(0), samplers[::-1])
        alone = [tokens_of(logits_RV[[row]], [sampler])[0] for row, sampler in enumerate(samplers)]
        assert tokens == alone
        assert torch.equal(logits_RV, given_RV)
        for sampler, token in zip(samplers, tokens, strict=True):
            sampler.note(token)


@pytest.mark.parametrize("vocabulary", [130, 5_003, 30_016])
@pytest.mark.parametrize("ties", [False, True], ids=["float32", "bfloat16"])
def test_every_way_draws_the_same(
    vocabulary: int, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C library, the host's arrays and a device's: the same tokens of thousands of rows."""
    rules = [*SETTINGS, Sampling(), Sampling(repetition_penalty=1.05), Sampling(presence_penalty=1)]
    rules.append(Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05))
    rows, tokens = {130: 40, 5_003: 10, 30_016: 2}[vocabulary] * len(rules), set[int]()
    for step, steep in enumerate((0.0, 0.2, 1.0, 1.5)):
        logits_RV = peaked(rows, vocabulary, step, steep)
        logits_RV[:, ::11] = -torch.inf
        logits_RV[:, 5::11].clamp_(-0.0, 0.0)
        if ties:
            logits_RV = logits_RV.bfloat16().float()
        drawn = {}
        for way in drawing_ways.WAYS:
            drawing_ways.take(way, monkeypatch)
            samplers = []
            for row in range(rows):
                made = {
                    n: getattr(rules[row % len(rules)], n) for n in Sampling.__dataclass_fields__
                }
                samplers.append(RowSampler(Sampling(**{**made, "seed": row}), range(0, 99, 2)))
                for token in (1, 1, 4, row % 100):
                    samplers[-1].note(token)
            drawn[way] = [tokens_of(logits_RV, samplers)]
            for sampler, token in zip(samplers, drawn[way][0], strict=True):
                sampler.note(token)
            drawn[way].append(tokens_of(logits_RV, samplers))
            assert drawn[way] == drawn[drawing_ways.WAYS[0]], way
        tokens.update(*drawn[way])
    assert len(tokens) > min(rows, vocabulary) // 4


def test_equal_candidates_stand_in_the_order_of_their_ids() -> None:
    """Largest first; 0 and -0 are equal; numpy and torch alike."""
    values = [0.0, -0.0, 1.5, -2.25, float("-inf"), 1.5, 2.0**120, -(2.0**-149), 2.0**-149]
    ids = [9, 3, 8, 151_935, 1, 2, 7, 6, 5]
    want = sorted(zip(values, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
    values_1K, ids_1K = torch.tensor([values]), torch.tensor([ids])
    for arrayed in ((values_1K, ids_1K), (values_1K.numpy(), ids_1K.numpy())):
        found_1K, order_1K, _ = candidates.ordered(candidates.Top(*arrayed, None))
        assert list(zip(found_1K[0].tolist(), order_1K[0].tolist(), strict=True)) == want


def test_a_seed_draws_anew_at_every_position() -> None:
    flat_1V = torch.zeros(1, 1000)
    sampler = RowSampler(Sampling(temperature=1.0, seed=9))
    tokens = []
    for _ in range(200):
        tokens += tokens_of(flat_1V, [sampler])
        sampler.note(tokens[-1])
    assert len(set(tokens)) > 150
    again = RowSampler(Sampling(temperature=1.0, seed=9))
    for token in tokens[:100]:  # a request that goes on behind tokens it had
        again.note(token)
    assert tokens_of(flat_1V, [again]) == tokens[100:101]


def test_penalties_of_candidates_are_those_of_the_whole_row() -> None:
    """Where they only lower, they are put on the candidates; tokens as if on all."""
    settings = [
        Sampling(repetition_penalty=1.5, presence_penalty=1.0),
        Sampling(repetition_penalty=50.0),  # more candidates are needed
        Sampling(temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=1),
        Sampling(temperature=0.8, top_k=20, frequency_penalty=2.0, seed=2),
    ]
    for seed in range(10):
        logits_RV = peaked(4, 3000, seed, steep=1.0)
        likely = logits_RV.topk(400).indices[0].tolist()
        samplers = [RowSampler(each, likely) for each in settings]
        assert all(sampler.late for sampler in samplers)
        answer = [*likely[:3], *likely[:2]]
        for sampler in samplers:
            for token in answer:
                sampler.note(token)
        want = torch.stack(
            [penalised(logits_RV[row], each, likely, answer) for row, each in enumerate(settings)]
        )
        plain = [
            RowSampler(Sampling(each.temperature, each.top_k, each.top_p, seed=each.seed))
            for each in settings
        ]
        for sampler in plain:
            for token in answer:
                sampler.note(token)
        assert tokens_of(logits_RV, samplers) == tokens_of(want, plain)


def test_what_top_p_takes_its_share_of_is_certain_too() -> None:
    """Penalties leave 199 of the 200 largest below others: these are what top_k keeps."""
    logits_V = torch.zeros(64 * 400)
    logits_V[::64] = 4.9
    logits_V[: 64 * 200 : 64] = 5.0
    logits_V[0] = 6.0
    rules = {"temperature": 1.0, "top_k": 20, "top_p": 0.5, "repetition_penalty": 2.0}
    seen = list(range(64, 64 * 200, 64))
    samplers = [RowSampler(Sampling(**rules, seed=seed), seen) for seed in range(400)]
    tokens = tokens_of(logits_V.expand(400, -1), samplers)
    # exp(6), and as many of 19 times exp(4.9) as half of all that takes
    assert set(tokens) == {0, *(64 * block for block in range(200, 208))}
    assert 0.2 < tokens.count(0) / 400 < 0.35


@pytest.mark.parametrize("way", drawing_ways.WAYS)
def test_what_a_penalty_hides_is_looked_for(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest but one are all penalised below what min_p keeps; behind them it keeps many."""
    drawing_ways.take(way, monkeypatch)
    logits_V = torch.zeros(64 * 2000)
    logits_V[::64] = 7.9
    logits_V[: 64 * 150 : 64] = 8.0
    logits_V[0] = 10.0
    rules = {"temperature": 1.0, "min_p": 0.06, "repetition_penalty": 2.0}
    seen = list(range(64, 64 * 150, 64))
    samplers = [RowSampler(Sampling(**rules, seed=seed), seen) for seed in range(200)]
    tokens = tokens_of(logits_V.expand(200, -1), samplers)
    # exp(10) and 1850 times exp(7.9)
    assert len(set(tokens)) > 150 and not set(tokens) & set(seen)


class Only:
    """A grammar of a few tokens."""

    def __init__(self, allowed: list[int]) -> None:
        self.allowed = allowed

    def mask(self, logits_V: torch.Tensor) -> None:
        mask_V = torch.ones_like(logits_V, dtype=torch.bool)
        mask_V[self.allowed] = False
        logits_V.masked_fill_(mask_V, -torch.inf)

    def accept(self, token: int) -> bool:
        return False


@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_biases_come_before_penalties_and_grammars_rule_all(heat: float) -> None:
    logits_V = torch.zeros(3000)
    logits_V[[5, 6, 7]] = torch.tensor([10.0, 9.0, 8.0])
    rules = {"temperature": heat, "top_k": 1, "repetition_penalty": 2.0}
    # 5 and 6 are halved to 5 and 4.5; with its bias 2900 is 15 and halved to 7.5, below 7's 8.
    biased = Sampling(**rules, logit_bias=((2900, 15.0),))
    assert tokens_of(logits_V[None], [RowSampler(biased, [5, 6, 2900])]) == [7]
    more = Sampling(**rules, logit_bias=((2900, 17.0),))
    assert tokens_of(logits_V[None], [RowSampler(more, [5, 6, 2900])]) == [2900]
    held = RowSampler(more, [5, 6, 2900], constraint=Only([6, 1999]))
    assert tokens_of(logits_V[None], [held]) == [6]
    banned = RowSampler(more, [5, 6, 2900], constraint=Only([6, 1999]), banned=[6], banned_for=1)
    assert tokens_of(logits_V[None], [banned]) == [1999]


def test_numbers_are_those_of_splitmix64() -> None:
    def one(key: int, token: int) -> float:
        word = (key + (token + 1) * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        return ((word ^ word >> 31) // 2**12 + 0.5) / 2**52

    keys = [
        noise.key_of(noise.start_of(seed), position)
        for seed in (0, 1, -7, 2**70 + 5)
        for position in (0, 1, 99)
    ]
    assert len(set(keys)) == len(keys) and all(-(2**63) <= key < 2**63 for key in keys)
    ids_RK = torch.tensor([[151_935, 0, 7, 42]]).expand(len(keys), -1)
    want = [[one(key, token) for token in (151_935, 0, 7, 42)] for key in keys]
    assert noise.uniform(torch.tensor(keys), ids_RK).tolist() == want
    assert noise.uniform(np.array(keys), ids_RK.numpy()).tolist() == want


def test_numbers_are_even_and_of_one_another_free() -> None:
    keys = torch.tensor(
        [noise.key_of(noise.start_of(seed), at) for seed in range(20) for at in range(50)]
    )
    found = noise.uniform(keys, torch.arange(200).expand(1000, -1))
    assert found.min() > 0 and found.max() < 1
    counts = torch.histc(found, 100, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 99 + 4 * math.sqrt(2 * 99)
    for shifted in (found[:, 1:], found[1:]):  # neighbouring tokens, positions
        same = found[: len(shifted), : shifted.shape[1]]
        correlation = torch.corrcoef(torch.stack([same.flatten(), shifted.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(same.numel())


@pytest.mark.parametrize("budget", [16, 256])
def test_a_seeded_answer_does_not_depend_on_chunks_or_arrival(model: Any, budget: int) -> None:
    rules = {"temperature": 0.9, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}
    requests = [
        EngineRequest(
            prompt_of(20 + 9 * n, n), max_new_tokens=10, sampling=Sampling(**rules, seed=n)
        )
        for n in range(5)
    ]
    with engine_for(model) as engine:
        alone = [run(engine, each)[0].token_ids for each in requests]
    with engine_for(model, chunk_budget=budget) as engine:
        handles = []
        for at, each in enumerate(reversed(requests)):
            handles.append(engine.submit(each))
            for _ in range(at % 3):
                engine.step()
        engine.run_until_idle()
        assert [handle.result(timeout=0).token_ids for handle in handles] == alone[::-1]
