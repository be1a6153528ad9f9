"""Misuse of the drop-in is one clear error and leaves no trace."""

import re

import pytest
import torch
from dropin_helpers import ARGUMENTS, IDS, logits
from tiny_models import SIZES, build
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longctx.attention import active, extend, kernels

AUTO = kernels.auto(torch.device("cpu"), torch.float32).name


def test_extending_twice_is_refused(model_qwen2) -> None:
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    for again in (model_qwen2, model_qwen2.model):
        with pytest.raises(RuntimeError, match=r"extended already \('dca'\): call .remove\(\)"):
            extend(again, "yarn", factor=2)


def test_the_handle_prints_scheme_sources_kernel_and_state(model_qwen2) -> None:
    handle = extend(model_qwen2, "yarn+dca", **ARGUMENTS["dca"])
    text = repr(handle)
    for part in ("Qwen2ForCausalLM", "method yarn+dca", "chunk_size 64 (argument)", AUTO):
        assert part in text
    assert text.endswith("active>")
    handle.remove()
    assert repr(handle).endswith("not active>")


def test_switching_the_attention_back_is_caught(model_qwen2) -> None:
    handle = extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    model_qwen2.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match=r"switched to 'sdpa' while 'dca' is active.*remove"):
        logits(model_qwen2)
    model_qwen2.set_attn_implementation("longctx_dca")
    expected = logits(model_qwen2)
    model_qwen2.set_attn_implementation("eager")
    handle.remove()
    assert model_qwen2.config._attn_implementation == "sdpa"
    assert not torch.equal(logits(model_qwen2), expected)


def test_selecting_the_attention_without_extend_is_caught(model_qwen2) -> None:
    with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        pass
    model_qwen2.set_attn_implementation("longctx_dca")
    with pytest.raises(RuntimeError, match="called without a plan"):
        logits(model_qwen2)


def test_a_backward_pass_is_an_error_and_forward_under_grad_works(model_qwen2) -> None:
    with torch.no_grad():
        handle = extend(model_qwen2, "dca", **ARGUMENTS["dca"])
        expected = model_qwen2(IDS).logits
    got = model_qwen2(IDS).logits
    assert got.requires_grad and torch.equal(got, expected)
    with pytest.raises(RuntimeError, match="inference only: it has no backward"):
        got.sum().backward()
    handle.remove()
    model_qwen2(IDS).logits.sum().backward()


def test_dropout_in_training_is_an_error() -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, attention_dropout=0.1)).train()
    extend(model, "dca", **ARGUMENTS["dca"])
    with pytest.raises(ValueError, match=r"dropout 0.1 is active.*model.eval\(\)"):
        logits(model)


def test_output_attentions_are_refused(model_qwen2) -> None:
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    with pytest.raises(ValueError, match="never forms the weights"):
        logits(model_qwen2, output_attentions=True)


def test_continuous_batching_is_refused_loudly(model_qwen2) -> None:
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    with pytest.raises(RuntimeError, match=r"generate_batch .* would drop 'dca'"):
        model_qwen2.generate_batch([IDS[0].tolist()], max_new_tokens=2)


@pytest.mark.parametrize(
    ("model", "method", "options", "message"),
    [
        (lambda: nn.Linear(2, 2), "dca", {}, "must be a transformers PreTrainedModel, got Linear"),
        (build, "dac", {}, "method='dac' is unknown"),
        (build, "dca", {"kernel": "fa9"}, "kernel='fa9' is unknown: choose auto or one of"),
        (build, "dca", {"kernel": "torch_cuda"}, "kernel='torch_cuda' cannot run"),
        (build, "yarn", {"factor": 2, "kernel": "torch_cpu"}, "kernel='torch_cpu' has no effect"),
        (build, "dca", {"chunk_size": 16, "local_size": 16}, "local_size=16 must lie between"),
        (build, "dca", {"chunk_size": 64, "local_size": 40}, "true distances would shrink"),
        (build, "dca", {"chunk_size": 1024}, "chunk_size=1024 exceeds the trained window of 512"),
        (build, "yarn", {}, "needs factor="),
        (
            lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=32)),
            "dca",
            {},
            "config.sliding_window=32 is active",
        ),
        (
            lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=9)),
            "dca",
            {},
            "GPT2LMHeadModel cannot be extended: it has no shared rotary",
        ),
        (
            lambda: GPTNeoXForCausalLM(
                GPTNeoXConfig(
                    hidden_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
                )
            ),
            "dca",
            {},
            "GPTNeoXForCausalLM cannot be extended",
        ),
    ],
)
def test_what_cannot_run_is_one_clear_error_and_leaves_no_trace(
    model, method, options, message
) -> None:
    made = model()
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as error:
        extend(made, method, **options)
    assert "\n" not in str(error.value)
    assert active(made) is None
    assert not any(m._forward_pre_hooks for m in made.modules())


def test_padding_that_contradicts_positions_is_an_error(model_qwen2) -> None:
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    packed = torch.cat((torch.arange(200), torch.arange(133)))[None]
    with pytest.raises(ValueError, match="packed sequences are not supported"):
        logits(model_qwen2, position_ids=packed)
    with pytest.raises(ValueError, match="2-D padding mask"):
        logits(model_qwen2, attention_mask=torch.ones(1, 1, 333, 333))
