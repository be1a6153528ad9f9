"""What must hold of whole models on a GPU: the drop-in, its caches, generate, the engine's steps.

A tiny random model in a GPU's dtype against a float64 oracle; allowed is half as much again as the
same model is off by without any scheme. For `tests/gpu` and `benchmarks/gpu.py`.

Shape legend: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tiny_models
import torch
from engine_helpers import CHUNKS, engine_for, prompt_of, run
from gpu_checks import FLOAT32, Check, distance
from oracle import DenseModel, dca_positions, plain_positions
from transformers import StaticCache

from longctx.attention import extend
from longctx.engine import EngineRequest

LENGTH, PADDING, NEW = 200, 30, 12
SHARE = 1.5
_MAP = (CHUNKS["chunk_size"], CHUNKS["local_size"], CHUNKS["chunk_size"])


class Prepared(NamedTuple):
    """The model on its device, its oracle, and what the plain model is off by."""

    model: Any
    oracle: DenseModel
    ids_1L: torch.Tensor
    relative: float
    greatest: float


def prepare(device: torch.device, dtype: torch.dtype) -> Prepared:
    model: Any = tiny_models.build()
    oracle = DenseModel(model)
    ids_1L = torch.tensor([prompt_of(LENGTH)])
    model = model.to(device, dtype)
    want = oracle.logits(ids_1L, plain_positions(LENGTH))
    with torch.no_grad():
        got = model(ids_1L.to(device)).logits.cpu()
    greatest = float((got.double() - want).abs().max())
    return Prepared(model, oracle, ids_1L, distance(got, want), greatest)


def drop_in_checks(device: torch.device, dtype: torch.dtype) -> list[Check]:
    """`extend()`: one forward, a padded row beside, a StaticCache in blocks, generate."""
    made = prepare(device, dtype)
    model, ids_1L = made.model, made.ids_1L
    want = made.oracle.logits(ids_1L, dca_positions(LENGTH, *_MAP))
    ids = ids_1L.to(device)
    with extend(model, "dca", **CHUNKS), torch.no_grad():
        forward = model(ids).logits
        padded = torch.cat((ids.new_zeros(1, PADDING), ids[:, :-PADDING]), dim=1)
        mask = torch.ones_like(padded)
        mask[:, :PADDING] = 0
        both = model(
            torch.cat((ids, padded)), attention_mask=torch.cat((torch.ones_like(ids), mask))
        ).logits
        cache = StaticCache(config=model.config, max_cache_len=2 * LENGTH)
        blocks = [
            model(ids[:, at : at + 50], **tiny_models.kv(cache)).logits
            for at in range(0, LENGTH, 50)
        ]
        answer = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        ).cpu()
    allowed = max(SHARE * made.relative, FLOAT32)
    found = [
        ("extend(), one forward", forward, want),
        ("extend(), beside a padded row", both[:1], want),
        ("extend(), the padded row", both[1:, PADDING:], want[:, :-PADDING]),
        ("extend(), StaticCache in blocks", torch.cat(blocks, dim=1), want),
    ]
    return [
        *(Check(name, distance(got.cpu(), right), allowed) for name, got, right in found),
        Check("extend(), generate: regret", regret(made.oracle, answer), _most_regret(made)),
    ]


def regret(oracle: DenseModel, answer_1L: torch.Tensor) -> float:
    """By how much the oracle's best logit is above that of a chosen token, at worst."""
    logits_LV = oracle.logits(answer_1L, dca_positions(answer_1L.shape[1], *_MAP))[0]
    ends = slice(LENGTH - 1, answer_1L.shape[1] - 1)
    chosen_N = logits_LV[ends].gather(1, answer_1L[0, LENGTH:, None])[:, 0]
    return float((logits_LV[ends].amax(-1) - chosen_N).max())


def _most_regret(made: Prepared) -> float:
    """Two logits, each off by as much as may be."""
    return max(2 * SHARE * made.greatest, FLOAT32)


def engine_checks(device: torch.device, dtype: torch.dtype) -> list[Check]:
    """Log-probabilities of a prompt that shares its steps, in small pieces and in one; greedy
    answers of several prompts at once."""
    made = prepare(device, dtype)
    prompt = made.ids_1L[0].tolist()
    ids_L1 = made.ids_1L[0, 1:, None]

    def scores(relative_LL: torch.Tensor) -> torch.Tensor:
        logits_LV = made.oracle.logits(made.ids_1L, relative_LL)[0, :-1]
        return logits_LV.log_softmax(-1).gather(1, ids_L1)[:, 0]

    with torch.no_grad():
        plain_LV = made.model(made.ids_1L.to(device)).logits[0, :-1].cpu().double()
    plain = plain_LV.log_softmax(-1).gather(1, ids_L1)[:, 0]
    off = float((plain - scores(plain_positions(LENGTH))).abs().mean())
    want = scores(dca_positions(LENGTH, *_MAP))
    found = []
    for budget in (32, 4096):
        with engine_for(made.model, "dca", chunk_budget=budget) as engine:
            scored = EngineRequest(prompt, max_new_tokens=0, prompt_logprobs=True)
            others = [EngineRequest(prompt_of(n, n), max_new_tokens=9) for n in (1, 70)]
            (answer, *_) = run(engine, scored, *others)
            chosen = run(engine, EngineRequest(prompt, max_new_tokens=NEW, ignore_eos=True))[0]
        got = torch.tensor(answer.prompt_logprobs, dtype=torch.float64)
        error = float((got - want).abs().mean())
        found.append(
            Check(f"engine, {budget} tokens a step: scores", error, max(SHARE * off, FLOAT32))
        )
        ids = torch.tensor([[*prompt, *chosen.token_ids]])
        found.append(
            Check(
                f"engine, {budget} tokens a step: regret",
                regret(made.oracle, ids),
                _most_regret(made),
            )
        )
    return found
