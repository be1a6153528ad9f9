"""What the engine's attention does not compute, it says."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from longctx.attention import extend, resolve
from longctx.attention.kernels import get
from longctx.attention.step import plan_step
from longctx.engine.batch_attention import BatchPlan, batch_attention
from longctx.engine.runner import Runner
from longctx.errors import UserError

EMPTY = BatchPlan((), (), plan_step([]), get("reference"), torch.zeros(0, dtype=torch.long))


def call(**more: object) -> None:
    module = tiny_models.build().model.layers[0].self_attn
    x = torch.zeros(1, 2, 3, 8)
    arguments = {"attention_mask": None, "longctx_batch": EMPTY, **more}
    batch_attention(module, x, x, x, **arguments)


def test_calls_without_a_plan_are_refused() -> None:
    with pytest.raises(RuntimeError, match="submit requests to it, or close"):
        call(longctx_batch=None)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias", "sliding_window"])
def test_other_attention_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"does not support {name}=4"):
        call(**{name: 4})


def test_masks_of_a_model_are_refused() -> None:
    with pytest.raises(ValueError, match="makes an attention mask of its own"):
        call(attention_mask=torch.zeros(1, 1, 3, 3))


def test_an_extended_model_is_refused() -> None:
    model = tiny_models.build()
    scheme = resolve(model.config, "none")
    with extend(model, "dca"), pytest.raises(RuntimeError, match="remove"):
        Runner(model, scheme)
    Runner(model, scheme).close()


def test_a_kernel_that_cannot_run_there_leaves_the_model_as_it_was() -> None:
    model = tiny_models.build()
    config = model.config
    with pytest.raises(ValueError, match="kernel='torch_cuda' cannot run"):
        Runner(model, resolve(config, "none"), "torch_cuda")
    assert model.config is config and model.config._attn_implementation == "sdpa"
    model.train()
    runner = Runner(model, resolve(config, "none"), "reference")
    assert runner.kernel_name == "reference" and not model.training
    runner.close()
    assert model.training


def test_refusals_are_user_errors() -> None:
    from longctx import engine

    for name in ("ContextLengthError", "InsufficientMemoryError", "QueueFullError"):
        assert issubclass(getattr(engine, name), UserError)
