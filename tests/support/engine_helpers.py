"""Engines over tiny models, and what their answers are compared with."""

from __future__ import annotations

from typing import Any

import torch

from longctx.attention import Scheme, extend, resolve
from longctx.attention.methods import LENGTH_METHODS, TRAITS
from longctx.attention.rope import temperature_bucket
from longctx.engine import Answer, Engine, EngineRequest, Generation

CHUNKS = {"chunk_size": 32, "local_size": 8, "original_length": 32}
SCHEMES: dict[str, dict[str, Any]] = {
    name: (CHUNKS if method.chunks else {}) | ({"factor": 4.0} if method.has_factor else {})
    for name, method in TRAITS.items()
}


def scheme_of(model: Any, method: str) -> Scheme:
    return resolve(model.config, method, **SCHEMES[method])


def engine_for(model: Any, method: str = "none", tokenizer: Any = None, **options: Any) -> Engine:
    settings = {"kv_budget_bytes": 1 << 24, "max_context": 400, "chunk_budget": 64, **options}
    return Engine(model, tokenizer, scheme_of(model, method), **settings)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 97, (length,), generator=generator).tolist()


def run(engine: Engine, *requests: EngineRequest) -> list[Answer]:
    handles = [engine.submit(request) for request in requests]
    engine.run_until_idle()
    return [handle.result(timeout=0) for handle in handles]


def greedy(engine: Engine, prompt: list[int], tokens: int = 12) -> tuple[int, ...]:
    (answer,) = run(engine, EngineRequest(prompt, max_new_tokens=tokens))
    return answer.token_ids


def expected(model: Any, method: str, prompt: list[int], tokens: int = 12) -> tuple[int, ...]:
    """What transformers' generate gives under the drop-in, at the bucket's temperature."""
    bucket = temperature_bucket(len(prompt), 32) if method in LENGTH_METHODS else None
    with extend(model, method, request_length=bucket, **SCHEMES[method]):
        ids = torch.tensor([prompt])
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return tuple(out[0, len(prompt) :].tolist())


def drain(engine: Engine, handle: Generation) -> Answer:
    engine.run_until_idle()
    return handle.result(timeout=0)
