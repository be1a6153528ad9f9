"""Drawing tokens: distributions, determinism, penalties, log-probabilities, grammars."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, prompt_of, run

from longctx.attention import extend
from longctx.engine import ConstraintError, EngineRequest, Sampling, candidates
from longctx.engine.constraint import JsonConstraints
from longctx.engine.sampling import Drawn, RowSampler, draw
from longctx.errors import UserError


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.build()


def tokens_of(logits: list[float], sampling: Sampling, draws: int, **options: Any) -> list[int]:
    sampler = RowSampler(sampling, **options)
    found = []
    for _ in range(draws):
        (drawn,) = draw(torch.tensor([logits]), [sampler])
        assert isinstance(drawn, Drawn)
        found.append(drawn.token)
        sampler.note(drawn.token)
    return found


def kept_of(
    logits_RV: torch.Tensor, found: candidates.Top, settings: list[Sampling]
) -> candidates.Kept:
    """What filters keep of candidates; for every row the sum of the others."""
    rule = candidates.Filters.of(list(map(candidates.RowFilter.of, settings)), logits_RV.device)
    given = [torch.as_tensor(x) for x in (found.values_RK, found.bound_R1, rule.temperature)]
    return candidates.keep(found, rule, candidates.others(logits_RV, *given).numpy())


def probabilities(logits_RV: torch.Tensor, settings: list[Sampling], size: int) -> torch.Tensor:
    """[R, V] after the filters, looking at `size` candidates."""
    found = candidates.ordered(candidates.top(logits_RV, candidates.block_maxima(logits_RV), size))
    kept = kept_of(logits_RV, found, settings)
    assert kept.sure_R.all()
    probs_RV = torch.zeros(logits_RV.shape, dtype=torch.float64)
    weights_RK = torch.from_numpy(kept.weights_RK)
    shares_RK = weights_RK / weights_RK.sum(1, keepdim=True)
    return probs_RV.scatter_(1, torch.from_numpy(kept.ids_RK), shares_RK)


LOGITS = torch.tensor([[0.5, 0.25, 0.15, 0.07, 0.03]]).log()


def test_draws_follow_the_distribution() -> None:
    tokens = tokens_of(LOGITS[0].tolist(), Sampling(temperature=1.0, seed=1), 4000)
    shares = torch.bincount(torch.tensor(tokens), minlength=5) / 4000
    assert torch.allclose(shares, LOGITS.exp()[0], atol=0.025)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), [0.5, 0.25, 0.15, 0.07, 0.03]),
        (Sampling(temperature=1.0, top_k=2), [2 / 3, 1 / 3, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [2 / 3, 1 / 3, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=1e-6), [1, 0, 0, 0, 0]),
        # of the three that are left, 0.5 / 0.9 is below 0.56, so two stay
        (Sampling(temperature=1.0, top_k=3, top_p=0.56), [2 / 3, 1 / 3, 0, 0, 0]),
        (Sampling(temperature=1.0, min_p=0.2), [5 / 9, 2.5 / 9, 1.5 / 9, 0, 0]),
        (Sampling(temperature=0.5, top_k=2), [0.8, 0.2, 0, 0, 0]),
        (Sampling(temperature=1e-6), [1, 0, 0, 0, 0]),
        # 0 in float32, where the softmax of 0 / 0 would be no number
        (Sampling(temperature=1e-50), [1, 0, 0, 0, 0]),
    ],
)
def test_filters_keep_what_they_say(sampling: Sampling, kept: list[float]) -> None:
    probs = probabilities(LOGITS, [sampling], 5)
    assert torch.allclose(probs, torch.tensor([kept]).double(), atol=1e-6)


def test_a_rows_draw_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 50) * 3
    settings = [
        Sampling(temperature=0.8, seed=1),
        Sampling(temperature=1.2, top_p=0.9, seed=2),
        Sampling(),
        Sampling(temperature=1.0, top_k=5, min_p=0.1, repetition_penalty=1.3, seed=3),
    ]
    together = draw(logits.clone(), [RowSampler(s, [1, 2, 3]) for s in settings])
    alone = [
        draw(logits[row : row + 1].clone(), [RowSampler(s, [1, 2, 3])])[0]
        for row, s in enumerate(settings)
    ]
    assert together == alone


def test_penalties_change_the_logits_as_defined() -> None:
    sampler = RowSampler(
        Sampling(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25), [0, 1]
    )
    for token in (2, 2, 3):
        sampler.note(token)
    logits = torch.tensor([4.0, -4.0, 4.0, 4.0, 4.0])
    sampler.adjust(logits)
    assert logits.tolist() == [2.0, -8.0, 2.0 - 0.5 - 0.5, 2.0 - 0.5 - 0.25, 4.0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -1.0, "temperature=-1.0 must be at least 0"),
        ("temperature", float("nan"), "temperature=nan"),
        ("temperature", float("inf"), "temperature=inf"),
        ("top_p", 0.0, "top_p=0.0 must be above 0 and at most 1"),
        ("top_k", -1, "top_k=-1 must be at least 0"),
        ("min_p", 1.5, "min_p=1.5"),
        ("repetition_penalty", 0.0, "repetition_penalty=0.0 must be above 0"),
        ("presence_penalty", 2.5, "presence_penalty=2.5 must be at least -2 and at most 2"),
        ("frequency_penalty", -2.5, "frequency_penalty=-2.5"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**{name: value})


def test_one_seed_gives_one_answer_whatever_the_batch(model: Any) -> None:
    hot = Sampling(temperature=1.5, top_p=0.95, seed=7)
    with engine_for(model) as engine:
        alone = run(engine, EngineRequest(prompt_of(30), max_new_tokens=20, sampling=hot))[0]
        batch = run(
            engine,
            *(
                EngineRequest(
                    prompt_of(30),
                    max_new_tokens=20,
                    sampling=Sampling(temperature=1.5, top_p=0.95, seed=seed),
                )
                for seed in (5, 7, 9)
            ),
        )
        assert batch[1].token_ids == alone.token_ids != batch[0].token_ids
        unseeded = [
            run(
                engine,
                EngineRequest(prompt_of(30), max_new_tokens=20, sampling=Sampling(temperature=1.5)),
            )[0].token_ids
            for _ in range(2)
        ]
        assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("method", ["none", "dca"])
def test_logprobs_are_the_models(model: Any, method: str) -> None:
    prompt = prompt_of(50)
    request = EngineRequest(
        prompt, max_new_tokens=6, logprobs=True, top_logprobs=3, prompt_logprobs=True
    )
    with engine_for(model, method, chunk_budget=16) as engine:
        answer = run(engine, request)[0]
        only = EngineRequest(prompt, max_new_tokens=0, prompt_logprobs=True)
        scored = run(engine, only)[0]
    ids = torch.tensor([[*prompt, *answer.token_ids]])
    chunks = {} if method == "none" else {"chunk_size": 32, "local_size": 8, "original_length": 32}
    with extend(model, method, **chunks), torch.no_grad():
        want = torch.log_softmax(model(ids).logits[0].double(), -1)
    chosen = want[:-1].gather(1, ids[0, 1:, None])[:, 0]
    assert answer.prompt_logprobs is not None and len(answer.prompt_logprobs) == 49
    assert torch.allclose(torch.tensor(answer.prompt_logprobs).double(), chosen[:49], atol=1e-4)
    assert scored.prompt_logprobs == pytest.approx(answer.prompt_logprobs, abs=1e-4)
    assert scored.token_ids == () and scored.finish_reason == "length"
    told = torch.tensor([each.logprob for each in answer.logprobs]).double()
    assert torch.allclose(told, chosen[49:], atol=1e-4)
    for row, each in enumerate(answer.logprobs, start=49):
        assert [token for token, _ in each.top] == want[row].topk(3).indices.tolist()
        assert each.top[0] == (each.token_id, each.logprob)


class Even:
    """Even tokens only; over after four."""

    def __init__(self, broken: bool = False) -> None:
        self.count, self.broken = 0, broken

    def mask(self, logits_V: torch.Tensor) -> None:
        if self.broken:
            raise ConstraintError("no token may follow")
        logits_V[1::2] = -torch.inf

    def accept(self, token: int) -> bool:
        self.count += 1
        return self.count == 4


def test_a_constraint_rules_its_own_row_only(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_for(model) as engine:
        free = EngineRequest(prompt_of(30), max_new_tokens=12)
        want = run(engine, free)[0].token_ids
        made = {1: Even(), 2: Even(broken=True)}
        monkeypatch.setattr(
            engine, "_constraint", lambda r: made.get((r.json_schema or {}).get("n", 0))
        )
        handles = [
            engine.submit(EngineRequest(prompt_of(30), max_new_tokens=12, json_schema={"n": n}))
            for n in range(3)
        ]
        engine.run_until_idle()
        assert handles[0].result(timeout=0).token_ids == want
        even = handles[1].result(timeout=0)
        assert all(token % 2 == 0 for token in even.token_ids)
        assert len(even.token_ids) == 4 and even.finish_reason == "stop"
        with pytest.raises(ConstraintError, match="no token may follow"):
            handles[2].result(timeout=0)


def test_without_llguidance_a_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ConstraintError, match="needs the package llguidance"):
        JsonConstraints(None, 97)


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: n for n, character in enumerate(alphabet)} | {"<eos>": 256}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def test_json_schemas_are_kept_by_a_random_model() -> None:
    pytest.importorskip("llguidance")
    tiny_models.SIZES["vocab_size"] = 260
    try:
        model = tiny_models.build()
    finally:
        tiny_models.SIZES["vocab_size"] = 97
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"enum": ["x"]}},
        "required": ["n", "b"],
        "additionalProperties": False,
    }
    with engine_for(model, tokenizer=byte_tokenizer()) as engine:
        hot = Sampling(temperature=1.0, seed=3)
        requests = [
            EngineRequest(prompt_of(20), max_new_tokens=200, json_schema=schema, sampling=hot),
            EngineRequest(prompt_of(20), max_new_tokens=200, json_schema=schema),
        ]
        for answer in run(engine, *requests):
            assert answer.finish_reason == "stop"
            value = json.loads(answer.text)
            assert value["b"] == "x" and 0 <= value["n"] <= 9
        with pytest.raises(ConstraintError, match="cannot be compiled"):
            engine.submit(EngineRequest([1], json_schema={"type": "nonsense"}))
