"""The local model behind the protocol: greedy, chunked, extended and put back, and proved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SIZES, build
from transformers import DynamicCache, LlamaConfig, Qwen2Config, Qwen2ForCausalLM

from longctx.attention import DCA_METHODS, METHODS, resolve
from longctx.attention.hf import extend
from longctx.attention.rope import temperature
from longctx.engine import NonFiniteLogitsError
from longctx.errors import UserError
from longctx.eval.protocol import Request
from longctx.models import plain
from longctx.models.plain import (
    PlainSession,
    crop,
    input_device,
    sharing_obstacle,
)
from longctx.models.proof import UnprovenMethodError
from longctx.models.source import load_config, load_model, locate


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    source = locate(str(tiny_model))
    return load_model(source, load_config(source), torch.float32, "cpu")


class Numbers:
    """A tokenizer whose text is the ids."""

    eos_token_id = 2

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


def session_of(
    model: Any,
    method: str,
    prefill_chunk: int = 2048,
    prefix_sharing: bool = True,
    **numbers: Any,
) -> PlainSession:
    return PlainSession(
        model,
        Numbers(),
        resolve(model.config, method, request_length=1024, **numbers),
        prefill_chunk=prefill_chunk,
        prefix_sharing=prefix_sharing,
    )


def ids(count: int, model: Any) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    found: list[int] = torch.randint(
        3, model.config.vocab_size, (count,), generator=generator
    ).tolist()
    return found


def test_greedy_as_transformers_does_it(model: Any) -> None:
    prompt = ids(100, model)
    with session_of(model, "none") as session:
        answer = session.generate(Request(prompt, 12, 100))
    expected = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 100, dtype=torch.long),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=2,
        pad_token_id=0,
    )[0, 100:].tolist()
    assert answer.text == " ".join(str(token) for token in expected if token != 2)
    assert answer.finish_reason == ("stop" if 2 in expected else "length")
    assert 0 < answer.ttft_s <= answer.total_s


def test_an_end_token_stops_and_is_not_part_of_the_answer(model: Any) -> None:
    prompt = ids(50, model)
    with session_of(model, "none") as session:
        first = session.generate(Request(prompt, 1, 50))
        assert first.finish_reason == "length"
        session._stop_ids = frozenset({int(first.text)})  # type: ignore[attr-defined]
        stopped = session.generate(Request(prompt, 5, 50))
    assert (stopped.text, stopped.finish_reason) == ("", "stop")


@pytest.mark.parametrize("method", ["none", "yarn", "dca", "yarn+dca"])
def test_blocks_of_any_size_answer_alike(model: Any, method: str) -> None:
    prompt = ids(1000, model)
    answers = set()
    for chunk in (2048, 300, 64):
        with session_of(model, method, chunk) as session:
            answers.add(session.generate(Request(prompt, 8, 1024)).text)
    assert len(answers) == 1


def test_methods_leave_no_trace(model: Any) -> None:
    prompt = ids(900, model)
    none = session_of(model, "none")
    with none as session:
        before = session.logprobs(prompt, request_length=900)
    with session_of(model, "yarn+dca") as session:
        changed = session.logprobs(prompt, request_length=900)
    with none as session:
        after = session.logprobs(prompt, request_length=900)
    assert np.array_equal(before, after)
    assert np.abs(before[600:] - changed[600:]).max() > 1e-3


def test_log_probabilities(model: Any) -> None:
    prompt = ids(700, model)  # more than one block
    with session_of(model, "none", prefill_chunk=300) as session:
        found = session.logprobs(prompt, request_length=700)
    logits = model(torch.tensor([prompt])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[torch.arange(699), torch.tensor(prompt[1:])]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_computes_no_numbers_fails(value: float) -> None:
    broken = build()
    with session_of(broken, "none") as session:
        with torch.no_grad():
            broken.lm_head.weight[5] = value
        with pytest.raises(NonFiniteLogitsError, match="are not finite"):
            session.generate(Request([1, 5, 9], 4, 3))
        with pytest.raises(NonFiniteLogitsError, match="are not finite"):
            session.logprobs([1, 5, 9], request_length=3)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_every_method_is_proved(model: Any, method: str) -> None:
    session = session_of(model, method)
    assert session.proof["verified"], session.proof
    assert session.scheme["method"] == method
    assert session.backend
    if method in ("dca", "yarn+dca"):
        assert session.proof["short_change"] < 1e-5


def test_a_silent_no_op_does_not_pass(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_extend", lambda model, scheme, kernel: extend(model, "none"))
    with pytest.raises(UnprovenMethodError, match="--methods dca: it is not at work"):
        session_of(model, "dca")


def test_a_method_that_changes_short_prompts_does_not_pass(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plain, "_extend", lambda model, scheme, kernel: extend(model, "pi", factor=8.0)
    )
    with pytest.raises(UnprovenMethodError, match="within one chunk it must not"):
        session_of(model, "dca")


def test_the_proof_puts_the_model_back(model: Any) -> None:
    layers = model.config.num_hidden_layers
    session_of(model, "dca")
    assert model.config.num_hidden_layers == layers == len(model.base_model.layers)
    with extend(model, "dca"):
        pass  # extending twice would raise


@pytest.mark.parametrize("method", METHODS)
def test_the_scheme_that_was_settled_is_the_scheme_that_runs(model: Any, method: str) -> None:
    """Also where L0 of the temperature is the chunk and the ramp's is the trained window."""
    for numbers in ({}, {"original_length": 300}):
        scheme = resolve(model.config, method, request_length=1024, **numbers)
        with plain._extend(model, scheme, "auto") as handle:
            assert handle.scheme == scheme


def test_what_cannot_be_extended_is_a_user_error(model: Any) -> None:
    scheme = resolve(model.config, "dca")
    with pytest.raises(UserError, match=r"--methods dca: .*no-such-kernel"):
        PlainSession(model, Numbers(), scheme, kernel="no-such-kernel")


def test_the_device_of_an_offloaded_model(model: Any) -> None:
    assert input_device(model) == torch.device("cpu")


def test_blocks_in_bfloat16(model: Any, tiny_model: Path) -> None:
    source = locate(str(tiny_model))
    half = load_model(source, load_config(source), torch.bfloat16, "cpu")
    prompt = ids(1000, half)
    for method in ("none", "yarn", "dca", "yarn+dca"):
        with session_of(half, method, 100) as session:
            assert session.generate(Request(prompt, 2, 1024)).text


NEEDLE = list(range(90, 96))  # no other token of these prompts


def column(length: int = 700, depths: tuple[int, ...] = (0, 25, 50, 75, 100)) -> list[list[int]]:
    """Prompts that differ in where the needle is, as the cells of a column do."""
    generator = torch.Generator().manual_seed(2)
    hay = torch.randint(3, 90, (length - len(NEEDLE),), generator=generator).tolist()
    places = (4 + depth * (len(hay) - 8) // 100 for depth in depths)
    return [hay[:place] + NEEDLE + hay[place:] for place in places]


@contextmanager
def logits_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """What the model says of every next token, forward by forward."""
    seen: list[torch.Tensor] = []
    hook = model.register_forward_hook(lambda *call: seen.append(call[-1].logits[0, -1].clone()))
    try:
        yield seen
    finally:
        hook.remove()


DCA = {"chunk_size": 128, "local_size": 32}
SHARED = [(method, DCA if method in DCA_METHODS else {}) for method in METHODS]


@pytest.mark.parametrize(("method", "numbers"), SHARED)
@pytest.mark.parametrize("chunk", [2048, 96])
def test_cells_that_share_prefill_answer_alike(
    method: str, numbers: dict[str, Any], chunk: int
) -> None:
    """The answers' tokens and every logit behind them, over a column."""
    model = build("llama")
    prompts, decoded = column(), 6
    answers: dict[bool, list[str]] = {}
    rows: dict[bool, torch.Tensor] = {}
    for sharing in (True, False):
        session = session_of(model, method, chunk, sharing, **numbers)
        with session, logits_of(model) as seen:
            done, said = [], []
            for prompt in prompts:
                done.append(session.generate(Request(prompt, decoded, 1024)))
                said += seen[-decoded:]
        answers[sharing], rows[sharing] = [answer.text for answer in done], torch.stack(said)
        expected = [0, 4, 175, 347, 518] if sharing else [0] * 5
        assert [answer.cached_tokens for answer in done] == expected
    assert answers[True] == answers[False]
    largest = rows[False].abs().max()
    assert (rows[True] - rows[False]).abs().max() < 1e-5 * largest
    # The prompts matter: another cell's cache would be seen.
    first = rows[False][::decoded]
    assert ((first - first.roll(1, 0)).abs().amax(1) > 1e-3 * largest).all()


def test_only_one_request_length_shares(model: Any) -> None:
    """YaRN's temperature follows it, and deeper keys follow the temperature."""
    first, second = column(depths=(50, 100))
    with session_of(model, "yarn+dca", **DCA) as session:
        asked = [session.generate(Request(first, 3, length)) for length in (1024, 2048)]
        asked.append(session.generate(Request(second, 3, 2048)))
    assert [answer.cached_tokens for answer in asked] == [0, 0, 347]


def test_one_token_is_always_computed(model: Any) -> None:
    prompt = column()[0]
    with session_of(model, "dca", **DCA) as session, logits_of(model) as seen:
        whole = session.generate(Request(prompt, 4, 700))
        again = session.generate(Request(prompt, 4, 700))
        part = session.generate(Request(prompt[:300], 1, 700))  # shorter than what is cached
        longer = session.generate(Request(prompt, 4, 700))  # goes on where a whole prompt ended
    cached = [answer.cached_tokens for answer in (whole, again, part, longer)]
    assert cached == [0, 699, 299, 300]
    assert whole.text == again.text == longer.text
    torch.testing.assert_close(seen[0], seen[4], atol=1e-5, rtol=1e-5)


def test_the_cache_keeps_its_tag(model: Any) -> None:
    """The extended model itself would refuse a cache of another scheme or temperature."""
    with session_of(model, "yarn+dca", **DCA) as session:
        assert isinstance(session, PlainSession)
        for prompt in column(depths=(50, 100)):
            session.generate(Request(prompt, 3, 1024))
            assert session._last is not None
            tag = session._last.cache._longctx_cache  # type: ignore[attr-defined]
            assert tag.scheme == session._handle.scheme
            assert tag.logit_scales == (temperature(1024, 128) ** 2,)


def test_a_failed_request_leaves_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> int:
        raise MemoryError

    first, second = column(depths=(50, 100))
    with session_of(model, "none") as session:
        session.generate(Request(first, 3, 1024))
        monkeypatch.setattr(PlainSession, "_next", no_room)
        with pytest.raises(MemoryError):
            session.generate(Request(second, 3, 1024))
        monkeypatch.undo()
        assert session.generate(Request(second, 3, 1024)).cached_tokens == 0
        session.logprobs(first, request_length=1024)
        assert session.generate(Request(second, 3, 1024)).cached_tokens == 0


@pytest.mark.parametrize(
    "rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}, {}]
)
def test_keys_of_fixed_frequencies_may_be_shared(rope: dict[str, Any]) -> None:
    assert sharing_obstacle(LlamaConfig(**SIZES, rope_parameters=rope or None)) is None


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope", "of tomorrow"])
def test_keys_that_follow_the_length_are_not_shared(rope_type: str) -> None:
    config = LlamaConfig(**SIZES)
    for rope in ({"rope_type": rope_type}, {"full_attention": {"rope_type": rope_type}}):
        config.rope_parameters = rope
        reason = sharing_obstacle(config)
        assert reason is not None and repr(rope_type) in reason


def test_layers_that_forget_are_not_shared_and_not_cropped() -> None:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=64, max_window_layers=1)
    assert "DynamicSlidingWindowLayer" in str(sharing_obstacle(config))
    with pytest.raises(TypeError, match="DynamicSlidingWindowLayer cannot be cropped to 5 tokens"):
        crop(DynamicCache(config=config), 5)


@pytest.mark.parametrize("case", ["dynamic", "sliding"])
def test_sharing_is_off_where_it_would_be_wrong(case: str) -> None:
    if case == "dynamic":
        rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        config = Qwen2Config(**SIZES, rope_parameters=rope)
    else:
        window = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
        config = Qwen2Config(**SIZES, **window)
    torch.manual_seed(0)
    with session_of(Qwen2ForCausalLM(config).eval(), "none") as session:
        for prompt in column(depths=(50, 100)):
            assert session.generate(Request(prompt, 3, 1024)).cached_tokens == 0
