"""The engine over trained weights: needles are found whatever else is being served."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from longctx import tiny
from longctx.engine import Engine, EngineRequest
from longctx.eval.texts.prose import paragraphs
from longctx.models.source import load_config, load_model, load_tokenizer, locate

LENGTHS = (120, 2300, 300, 700, 512, 1200, 513, 140)  # window and chunk: 512
KEYS = ("anchor", "beacon", "compass", "falcon", "glacier", "island", "kettle", "lantern")
TOKENS = 9


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    source = locate(tiny.EMBEDDED)
    model = load_model(source, load_config(source), torch.float32, "cpu")
    return model, load_tokenizer(source)


@pytest.fixture(scope="module")
def prompts(loaded: tuple[Any, Any]) -> list[list[int]]:
    _, tokenizer = loaded
    found = []
    for seed, length in enumerate(LENGTHS):
        key, value = f"amber-{KEYS[seed]}", 1_300_571 + 977_431 * seed
        needle = f" One of the special magic numbers for {key} is: {value}."
        question = (
            f"\nWhat is the special magic number for {key} mentioned in the provided text? The "
            f"special magic number for {key} mentioned in the provided text is"
        )
        text = " ".join(itertools.islice(paragraphs(seed), length // 20 + 5))
        inner, *rest = (
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (text, needle, question)
        )
        room = length - sum(map(len, rest))
        assert room > 0 and len(inner) > room
        found.append([*inner[: room // 3], *rest[0], *inner[room // 3 : room], *rest[1]])
    return found


def ask(engine: Engine, ids: list[int], **options: Any) -> tuple[int, ...]:
    handle = engine.submit(EngineRequest(ids, max_new_tokens=TOKENS, **options))
    engine.run_until_idle()
    return handle.result(timeout=0).token_ids


def open_engine(loaded: tuple[Any, Any], method: str, budget: int = 4096) -> Engine:
    options = {"kv_budget_bytes": 1 << 28, "max_context": 8192, "chunk_budget": budget}
    return Engine(*loaded, method, **options)


@pytest.fixture(scope="module", params=["none", "yarn+dca"])
def alone(request: Any, loaded: Any, prompts: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Each prompt by itself, in one piece, nothing cached."""
    with open_engine(loaded, request.param) as engine:
        answers = [ask(engine, ids, share_prefix=False) for ids in prompts]
    texts = [loaded[1].decode(answer) for answer in answers]
    right = [str(1_300_571 + 977_431 * at) in text for at, text in enumerate(texts)]
    # Longer than its window: 2,300, 700, 1,200 and 513 tokens, the needle at a third.
    assert right == [True] * 8 if request.param == "yarn+dca" else not right[1]
    return request.param, answers


@pytest.mark.parametrize("budget", [64, 256])
def test_company_arrival_and_a_cancelled_neighbour_change_nothing(
    loaded: Any, prompts: Any, alone: Any, budget: int
) -> None:
    method, want = alone
    with open_engine(loaded, method, budget) as engine:
        handles, cancelled = [], engine.submit(EngineRequest(prompts[1][:-5], max_new_tokens=50))
        for at, ids in enumerate(prompts):
            handles.append(engine.submit(EngineRequest(ids, max_new_tokens=TOKENS)))
            for _ in range(at % 4):
                engine.step()
            if at == 3:
                cancelled.cancel()
        engine.run_until_idle()
        assert [handle.result(timeout=0).token_ids for handle in handles] == want
        assert cancelled.result(timeout=0).finish_reason == "cancelled"


def test_a_cached_prefix_and_a_crossed_bucket_change_nothing(
    loaded: Any, prompts: Any, alone: Any
) -> None:
    """1,200 and 1,210 tokens lie below the edge at 512 * 2^(10/8) = 1,217.7, 2,300 do not."""
    method, want = alone
    with open_engine(loaded, method) as engine:
        longer = prompts[5] + prompts[5][:10]
        assert ask(engine, prompts[5]) == want[5]
        fresh = ask(engine, longer, share_prefix=False)
        handle = engine.submit(EngineRequest(longer, max_new_tokens=TOKENS))
        engine.run_until_idle()
        answer = handle.result(timeout=0)
        assert answer.token_ids == fresh
        assert answer.usage.cached_tokens >= 1199
        other = prompts[5] + prompts[1][:1100]  # another bucket under yarn+dca
        handle = engine.submit(EngineRequest(other, max_new_tokens=TOKENS))
        engine.run_until_idle()
        answer = handle.result(timeout=0)
        assert answer.token_ids == ask(engine, other, share_prefix=False)
        assert (answer.usage.cached_tokens > 0) == (method == "none")


def test_prompts_within_a_chunk_are_answered_as_by_the_unextended_model(
    loaded: Any, prompts: Any
) -> None:
    short = [ids for ids in prompts if len(ids) <= 512 - TOKENS]
    assert len(short) == 3
    with open_engine(loaded, "none") as engine:
        want = [ask(engine, ids) for ids in short]
    for method in ("dca", "yarn+dca"):
        with open_engine(loaded, method) as engine:
            assert [ask(engine, ids) for ids in short] == want
