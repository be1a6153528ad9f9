"""Memory of keys and values: who waits for it, what is kept, and that all of it comes back."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, greedy, prompt_of

from longctx.attention import active
from longctx.engine import (
    ContextLengthError,
    Engine,
    EngineRequest,
    Finished,
    InsufficientMemoryError,
    Sampling,
    memory,
)
from longctx.engine.kv import KvPool
from longctx.errors import UserError

BYTES = 2 * 2 * 2 * 8 * 4  # per token: K and V, layers, heads, head_dim, float32


def test_over_long_requests_are_refused_with_the_numbers(model: Any) -> None:
    with engine_for(model, max_context=100) as engine:
        with pytest.raises(
            ContextLengthError, match="are 101 tokens, the context is 100"
        ) as caught:
            engine.submit(EngineRequest(prompt_of(95), max_new_tokens=6))
        assert (caught.value.limit, caught.value.asked) == (100, 101)
        assert (caught.value.prompt_tokens, caught.value.max_new_tokens) == (95, 6)
        assert len(greedy(engine, prompt_of(94), 6)) == 6


def test_requests_too_big_for_memory_are_refused_with_what_fits(model: Any) -> None:
    with engine_for(model, kv_budget_bytes=50 * BYTES) as engine:
        with pytest.raises(InsufficientMemoryError, match="holds 50 tokens") as caught:
            engine.submit(EngineRequest(prompt_of(45), max_new_tokens=6))
        assert caught.value.asked_tokens == 51 and caught.value.asked_bytes == 51 * BYTES
        assert caught.value.fitting_tokens == 50 and caught.value.budget_bytes == 50 * BYTES
        assert len(greedy(engine, prompt_of(44), 6)) == 6


def test_requests_wait_for_memory_and_prefixes_make_room(model: Any) -> None:
    prompts = [prompt_of(40, n) for n in range(5)]
    with engine_for(model) as engine:
        want = [greedy(engine, prompt, 6) for prompt in prompts]
    with engine_for(model, kv_budget_bytes=100 * BYTES) as engine:
        handles = [engine.submit(EngineRequest(p, max_new_tokens=6)) for p in prompts]
        while engine.step():
            assert engine.stats().running <= 2
            assert engine.stats().kv_used_bytes <= 100 * BYTES
        assert [handle.result(timeout=0).token_ids for handle in handles] == want
        assert engine.stats().retained_prefixes == 2
        # The prefix that a request goes on from stays, and what both need does not fit: it starts
        # from nothing rather than wait for ever.
        ids = prompts[-1] + prompt_of(54, 9)
        assert len(greedy(engine, ids, 6)) == 6


def test_a_large_request_is_not_overtaken_for_ever(model: Any) -> None:
    with engine_for(model, kv_budget_bytes=100 * BYTES) as engine:
        ended: list[str] = []

        def listen(name: str) -> Any:
            return lambda e: ended.append(name) if isinstance(e, Finished) else None

        engine.submit(EngineRequest(prompt_of(30), max_new_tokens=10), listen("first"))
        engine.step()
        engine.submit(EngineRequest(prompt_of(85, 1), max_new_tokens=5), listen("large"))
        for n in range(30):
            engine.submit(EngineRequest(prompt_of(20, n + 2), max_new_tokens=10), listen("small"))
        engine.run_until_idle()
        assert len(ended) == 32 and ended.index("large") < 15


def test_memory_is_all_given_back(model: Any) -> None:
    with engine_for(model, share_from=8) as engine:
        handles = [
            engine.submit(EngineRequest([*prompt_of(60), n], max_new_tokens=20)) for n in range(4)
        ]
        for _ in range(5):
            engine.step()
        handles[1].cancel()
        engine.run_until_idle()
        scheduler = engine._scheduler
        assert engine.stats().kv_used_bytes > 0 and not scheduler.running
        scheduler.prefixes.clear()
        assert engine.stats().kv_used_bytes == 0


def test_retained_buffers_are_trimmed() -> None:
    pool = KvPool(1, 10, 1000)
    buffer = pool.allocate(0, 50)
    k_KLD = torch.randn(2, 20, 4)
    buffer.write(0, 0, k_KLD, k_KLD)
    buffer.trim(20)
    assert pool.used_bytes == 200 and torch.equal(buffer.read(0, 0, 20)[0][0], k_KLD)
    buffer.release()
    assert pool.used_bytes == 0


def test_what_torch_keeps_of_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"mem_get_info": (1000, 9000), "memory_reserved": 5000, "memory_allocated": 2000}
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert memory.default_kv_budget([torch.device("cuda")], 500) == 1000 + 3000 - 900 - 500


def test_the_default_budget_leaves_room_for_a_step(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 10_000_000)
    # 97 logits of 20 bytes, and 5 for penalties; 4 x (3 x 48 + 3 x 64 + 4 x 48) + 4 x (2 x 48 +
    # 3 x 48) per token
    step = 256 * 97 * 25 + 100 * (4 * (144 + 192 + 192) + 4 * (96 + 144))
    assert memory.step_bytes(model.config, 4, 100, 256) == step
    with Engine(model, chunk_budget=100) as engine:
        assert engine.stats().kv_budget_bytes == (10_000_000 - step) // 2
    moe = tiny_models.build("qwen2_moe").config
    assert memory.step_bytes(moe, 2, 1, 0) == 2 * (144 + 3 * (2 * 32 + 32) + 192) + 4 * 240
    with pytest.raises(UserError, match="one step needs about"):
        Engine(model, chunk_budget=10_000)
    assert active(model) is None


def test_penalties_hold_what_the_plan_counts_while_requests_run(model: Any) -> None:
    """Those that end, and those whose memory is taken, give theirs back."""
    rules = Sampling(repetition_penalty=1.1, frequency_penalty=0.1)
    with engine_for(model, kv_budget_bytes=110 * BYTES) as engine:
        handles = [
            engine.submit(EngineRequest(prompt_of(30, n), max_new_tokens=30, sampling=rules))
            for n in range(3)
        ]
        states = list(engine._inbox)

        def held(state: Any) -> int:
            penalties = state.sampler.penalties
            return sum(
                table.nbytes
                for table in (penalties._seen_V, penalties._cost_V)
                if table is not None
            )

        most = 0
        while engine.step():
            running = engine._scheduler.running
            most = max(most, sum(map(held, states)))
            assert all(held(each) in (0, 97 * memory.PENALTY_BYTES) for each in running)
            assert not any(held(each) for each in states if each not in running)
        assert most == 3 * 97 * memory.PENALTY_BYTES
        assert engine.stats().counts.preempted > 0
        assert all(len(handle.result(timeout=0).token_ids) == 30 for handle in handles)
    rows = memory.step_rows(64)
    assert rows >= 64
    per_row = memory.step_bytes(model.config, 4, 1, rows) - memory.step_bytes(model.config, 4, 1, 0)
    assert per_row == rows * 97 * (4 + 16 + memory.PENALTY_BYTES)


def test_a_containers_limit_is_seen(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", str(tmp_path))
    whole = memory.free_host_bytes()
    assert whole > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300000\n")
    assert memory.free_host_bytes() > 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.free_host_bytes() == 700_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    assert memory.free_host_bytes() == 800_000
