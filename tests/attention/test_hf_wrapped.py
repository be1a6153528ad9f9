"""Models under autocast, inside an adapter, and on the meta device."""

import copy

import pytest
import torch
from dropin_helpers import ARGUMENTS, IDS, logits
from oracle import relative_error
from tiny_models import FAMILIES, build, kv
from torch import nn
from transformers import DynamicCache, StaticCache

from longctx.attention import DCA_METHODS, active, extend


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", DCA_METHODS)
def test_autocast_gives_what_the_model_gives_without_it(family, method) -> None:
    """Queries and keys leave the rotation in float32, values come in bfloat16."""
    model = build(family)
    extend(model, method, **ARGUMENTS[method])
    expected = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        got = logits(model)
    assert got.dtype == torch.bfloat16
    assert relative_error(got, expected) < 5e-2


def test_autocast_within_a_chunk_is_bit_equal_to_the_unextended_model(model_qwen2) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = logits(model_qwen2, IDS[:, :48])
        with extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
            assert torch.equal(logits(model_qwen2, IDS[:, :48]), expected)


@pytest.mark.parametrize("autocast_first", [True, False])
def test_a_cache_may_be_filled_under_autocast_and_read_without_it(
    model_qwen2, autocast_first
) -> None:
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    expected = logits(model_qwen2)[:, 200:]
    cache = DynamicCache()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast_first):
        logits(model_qwen2, IDS[:, :200], **kv(cache))
    with torch.autocast("cpu", torch.bfloat16, enabled=not autocast_first):
        got = logits(model_qwen2, IDS[:, 200:], **kv(cache))
    assert relative_error(got, expected) < 5e-2


def test_a_static_cache_under_autocast(model_qwen2) -> None:
    """It keeps keys in float32 and values in bfloat16."""
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    expected = logits(model_qwen2)[:, 200:]
    cache = StaticCache(config=model_qwen2.config, max_cache_len=400)
    with torch.autocast("cpu", torch.bfloat16):
        logits(model_qwen2, IDS[:, :200], **kv(cache))
        got = logits(model_qwen2, IDS[:, 200:], **kv(cache))
    assert relative_error(got, expected) < 5e-2


def test_autocast_of_a_padded_batch_and_generate(model_qwen2) -> None:
    extend(model_qwen2, "yarn+dca", **ARGUMENTS["yarn+dca"])
    mask = torch.ones(2, 130, dtype=torch.long)
    mask[0, :30] = 0
    with torch.autocast("cpu", torch.bfloat16):
        out = model_qwen2.generate(
            IDS[:, :130].repeat(2, 1), attention_mask=mask, max_new_tokens=3, do_sample=False
        )
    assert out.shape == (2, 133)


class Adapter(nn.Module):
    """As PEFT wraps a model: not a PreTrainedModel, `base_model` is a wrapper too."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = inner

    def get_base_model(self):
        return self.base_model.model

    def forward(self, *args, **kwargs):
        return self.base_model.model(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.base_model.model.generate(*args, **kwargs)


@pytest.mark.parametrize("method", ARGUMENTS)
def test_a_model_inside_an_adapter_is_extended(model_qwen2, method) -> None:
    with extend(copy.deepcopy(model_qwen2), method, **ARGUMENTS[method]) as handle:
        expected = logits(handle._parts.model if handle._parts else model_qwen2)
    wrapped = Adapter(Adapter(model_qwen2))
    plain = logits(wrapped)
    with extend(wrapped, method, **ARGUMENTS[method]) as handle:
        assert torch.equal(logits(wrapped), expected)
        if method != "none":
            assert active(wrapped) is handle and "Qwen2ForCausalLM" in repr(handle)
            with pytest.raises(RuntimeError, match="extended already"):
                extend(wrapped, method, **ARGUMENTS[method])
        wrapped.generate(IDS[:, :100], max_new_tokens=2, do_sample=False)
    assert active(wrapped) is None and torch.equal(logits(wrapped), plain)


def test_a_wrapper_without_the_way_in_is_told_what_to_pass(model_qwen2) -> None:
    wrapper = nn.DataParallel(model_qwen2)
    with pytest.raises(TypeError, match=r"got DataParallel: .* pass the model inside"):
        extend(wrapper, "dca")


def test_a_wrapper_that_wraps_itself_is_an_error_not_a_loop() -> None:
    class Circle(nn.Module):
        def get_base_model(self):
            return self

    with pytest.raises(TypeError, match="got Circle"):
        extend(Circle(), "dca")


@pytest.mark.parametrize("method", [name for name in ARGUMENTS if name != "none"])
@pytest.mark.parametrize("buffers", [True, False])
def test_a_model_on_the_meta_device_is_told_to_load(model_qwen2, method, buffers) -> None:
    if buffers:
        model_qwen2.to("meta")
    else:  # as accelerate's init_empty_weights leaves it
        for module in model_qwen2.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    with pytest.raises(ValueError, match=r"Qwen2ForCausalLM is on the meta device.*load") as error:
        extend(model_qwen2, method, **ARGUMENTS[method])
    assert "\n" not in str(error.value) and active(model_qwen2) is None
