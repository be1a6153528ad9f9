"""The engine behind the harness's protocol."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from engine_helpers import CHUNKS, engine_for, expected, prompt_of, scheme_of

from longctx.attention import active, extend
from longctx.engine.target import EngineTarget, engine_arm
from longctx.eval.protocol import ContextOverflowError, Request


class Ids:
    eos_token_id = None

    def __len__(self) -> int:
        return 97

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(f"{n}," for n in ids)


def test_a_cell_is_answered_at_its_nominal_length() -> None:
    model = tiny_models.build()
    prompt = prompt_of(64)  # 32 * 2: its own bucket's edge
    arm = engine_arm(model, Ids(), scheme_of(model, "yarn+dca"), max_context=400)
    assert arm.method == "yarn+dca" and arm.backend == "torch_cpu" and active(model) is None
    with arm.open() as target:
        for cached in (0, 63):
            completion = target.generate(Request(prompt, 5, request_length=64))
            assert (completion.finish_reason, completion.cached_tokens) == ("length", cached)
            assert 0 < completion.ttft_s <= completion.total_s
        texts = {
            length: target.generate(Request(prompt, 5, request_length=length)).text
            for length in (64, 128)
        }
    assert texts[64] == Ids().decode(list(expected(model, "yarn+dca", prompt, 5)))
    with extend(model, "yarn+dca", request_length=128, **CHUNKS):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
    assert texts[128] == Ids().decode(out[0, 64:].tolist())


def test_logprobs_are_those_of_the_drop_in() -> None:
    model = tiny_models.build()
    ids = prompt_of(300)
    with engine_for(model, "dca", Ids()).start() as engine:
        found = EngineTarget(engine).logprobs(ids, request_length=300)
        assert EngineTarget(engine).logprobs([1], request_length=1).shape == (0,)
    with extend(model, "dca", **CHUNKS), torch.no_grad():
        want = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    want = want[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    assert np.abs(found - want.numpy()).max() < 1e-3


def test_what_does_not_fit_is_an_overflow() -> None:
    with engine_for(tiny_models.build(), "dca", Ids()) as engine:
        target = EngineTarget(engine)
        with pytest.raises(ContextOverflowError, match="the context is 400"):
            target.generate(Request(prompt_of(399), 5, request_length=399))
