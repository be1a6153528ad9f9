"""extend and remove: bit-equality, isolation from other models, and one clear error each."""

import copy
import math

import pytest
import torch
from dropin_helpers import ARGUMENTS, IDS, logits
from oracle import DenseModel, dca_positions, plain_positions, relative_error
from tiny_models import FAMILIES, SIZES, build
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longctx.attention import DCA_METHODS, METHODS, active, extend, rope


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 17, 48])
def test_one_forward_within_a_chunk_is_bit_equal_to_sdpa(family, method, dtype, length) -> None:
    model = build(family).to(dtype)
    assert model.config._attn_implementation == "sdpa"
    expected = logits(model, IDS[:, :length])
    extend(model, method, **ARGUMENTS[method])
    assert torch.equal(logits(model, IDS[:, :length]), expected)
    ones = torch.ones(1, length, dtype=torch.long)
    assert torch.equal(logits(model, IDS[:, :length], attention_mask=ones), expected)


@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_decode_within_a_chunk_equals_the_unextended_model(model_qwen2, method) -> None:
    """Other kernels are at work for one token, so equal within rounding, and equal tokens."""
    options = {
        "max_new_tokens": 30,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    expected = model_qwen2.generate(IDS[:, :18], **options)
    extend(model_qwen2, method, **ARGUMENTS[method])
    got = model_qwen2.generate(IDS[:, :18], **options)
    assert torch.equal(got.sequences, expected.sequences)
    assert relative_error(torch.stack(got.logits), torch.stack(expected.logits)) < 1e-5


def test_up_to_chunk_size_equals_the_unextended_model(model_qwen2) -> None:
    expected = logits(model_qwen2, IDS[:, :64])
    for method in ("dca", "yarn+dca"):
        with extend(model_qwen2, method, **ARGUMENTS[method]):
            assert relative_error(logits(model_qwen2, IDS[:, :64]), expected) < 1e-5


def snapshot(model):
    return (
        {name: value.clone() for name, value in model.named_buffers()},
        {
            name: id(module.config)
            for name, module in model.named_modules()
            if hasattr(module, "config")
        },
        {
            name: len(m._forward_pre_hooks) + len(m._forward_hooks)
            for name, m in model.named_modules()
        },
        dict(model.config.to_dict()),
        model.config._attn_implementation,
        model.model.rotary_emb.attention_scaling,
        sorted(set(model.__dict__) - {"generation_config"}),
        sorted(model.model.__dict__),
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ARGUMENTS)
def test_remove_restores_bit_for_bit(family, method) -> None:
    model = build(family)
    before, expected = snapshot(model), logits(model)
    handle = extend(model, method, **ARGUMENTS[method])
    changed = logits(model)
    assert torch.equal(changed, expected) == (method == "none")
    handle.remove()
    after = snapshot(model)
    for name, value in before[0].items():
        assert torch.equal(after[0][name], value)
    assert after[1:] == before[1:]
    assert torch.equal(logits(model), expected)
    handle.remove()
    assert not handle.active and active(model) is None
    with extend(model, method, **ARGUMENTS[method]):
        assert torch.equal(logits(model), changed)
    assert torch.equal(logits(model), expected)


def test_an_exception_inside_the_block_still_removes(model_qwen2) -> None:
    with pytest.raises(KeyError), extend(model_qwen2, "dca", **ARGUMENTS["dca"]):
        raise KeyError
    assert active(model_qwen2) is None


def test_another_model_is_never_touched_even_with_the_same_config_object() -> None:
    config = Qwen2Config(**SIZES)
    torch.manual_seed(0)
    first, second = Qwen2ForCausalLM(config).eval(), Qwen2ForCausalLM(config).eval()
    assert first.config is second.config
    expected = logits(second)
    handle = extend(first, "dca", **ARGUMENTS["dca"])
    logits(first)
    assert torch.equal(logits(second), expected)
    assert second.config._attn_implementation == "sdpa" and "generate" not in second.__dict__
    second.generate(IDS[:, :5], max_new_tokens=2, do_sample=False)
    handle.remove()
    assert first.config is second.config is config


def test_two_models_with_different_schemes_side_by_side() -> None:
    first, second = build("qwen2"), build("llama")
    alone = []
    for model, chunk in ((first, 64), (second, 96)):
        with extend(model, "dca", chunk_size=chunk, local_size=16):
            alone.append(logits(model))
    extend(first, "dca", chunk_size=64, local_size=16)
    extend(second, "dca", chunk_size=96, local_size=16)
    assert torch.equal(logits(first), alone[0]) and torch.equal(logits(second), alone[1])


def test_a_deep_copy_is_extended_on_its_own(model_qwen2) -> None:
    plain = logits(model_qwen2)
    handle = extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    extended = logits(model_qwen2)
    twin = copy.deepcopy(model_qwen2)
    handle.remove()
    assert torch.equal(logits(model_qwen2), plain) and torch.equal(logits(twin), extended)
    twin_handle = active(twin)
    assert twin_handle is not None and twin_handle is not handle
    twin_handle.remove()
    assert torch.equal(logits(twin), plain)


# What each method is, said once more: frequencies, relative positions, what logits are scaled by.
BASE_F, L0 = rope.base_inv_freq(1e4, 8), 128
YARN_F = rope.yarn_inv_freq(BASE_F, 2, theta=1e4, original_length=L0)  # itself: test_rope.py
PLAIN, CHUNKED = plain_positions(333), dca_positions(333, 64, 16, 64)
ORACLES = {
    "none": (BASE_F, PLAIN, 1.0),
    "pi": (BASE_F / 2, PLAIN, 1.0),
    "ntk": (rope.base_inv_freq(1e4 * 2 ** (8 / 6), 8), PLAIN, 1.0),
    "yarn": (YARN_F, PLAIN, (0.1 * math.log(2) + 1) ** 2),
    "dca": (BASE_F, CHUNKED, 1.0),
    "yarn+dca": (BASE_F, CHUNKED, (0.1 * math.log(333 / L0) + 1) ** 2),
    "yarn-freqs+dca": (YARN_F, CHUNKED, (0.1 * math.log(2) + 1) ** 2),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_its_oracle(model_qwen2, method) -> None:
    assert method in ORACLES, "say above what it computes, from the paper's formulas"
    inv_freq_F, positions, scale = ORACLES[method]
    expected = DenseModel(model_qwen2, inv_freq_F).logits(IDS, positions, scale)
    extend(model_qwen2, method, original_length=L0, **ARGUMENTS[method])
    assert relative_error(logits(model_qwen2), expected) < 1e-5


def test_yarn_is_what_transformers_loads_from_a_yarn_config(model_qwen2) -> None:
    parameters = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    theirs = Qwen2ForCausalLM(Qwen2Config(**SIZES, rope_parameters=parameters)).eval()
    theirs.load_state_dict(model_qwen2.state_dict())
    expected = logits(theirs)
    extend(model_qwen2, "yarn", factor=4)
    torch.testing.assert_close(logits(model_qwen2), expected, rtol=1e-5, atol=1e-6)
    with extend(theirs, "yarn"):
        torch.testing.assert_close(logits(theirs), expected, rtol=1e-5, atol=1e-6)


def test_trained_llama3_frequencies_are_kept() -> None:
    config = LlamaConfig(
        **{**SIZES, "max_position_embeddings": 4096},
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    trained_F, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    assert not torch.allclose(trained_F, rope.base_inv_freq(5e5, 8))
    handle = extend(model, "dca", chunk_size=64, local_size=16)
    assert torch.equal(model.model.rotary_emb.inv_freq, trained_F)
    expected = DenseModel(model, trained_F).logits(IDS, dca_positions(333, 64, 16, 64))
    assert relative_error(logits(model), expected) < 1e-5
    handle.remove()
    extend(model, "pi", factor=2)
    assert torch.equal(model.model.rotary_emb.inv_freq, trained_F / 2)


def test_none_is_a_no_op_handle(model_qwen2) -> None:
    before = snapshot(model_qwen2)[1:]
    with extend(model_qwen2, "none") as handle:
        assert snapshot(model_qwen2)[1:] == before
        assert not handle.active and handle.scheme.method == "none" and handle.kernel_name is None


def test_mistral_without_sliding_window_works() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)).eval()
    expected = DenseModel(model).logits(IDS, dca_positions(333, 64, 16, 64))
    extend(model, "dca", **ARGUMENTS["dca"])
    assert relative_error(logits(model), expected) < 1e-5


@pytest.mark.parametrize("method", DCA_METHODS)
def test_the_bare_decoder_can_be_extended(model_qwen2, method) -> None:
    with extend(model_qwen2, method, **ARGUMENTS[method]):
        expected = logits(model_qwen2)
    with extend(model_qwen2.model, method, **ARGUMENTS[method]):
        assert torch.equal(logits(model_qwen2), expected)
        hidden = model_qwen2.model(IDS, None, None, DynamicCache())  # positional arguments
    assert torch.equal(model_qwen2.lm_head(hidden.last_hidden_state), expected)


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "offloaded"])
def test_a_dispatched_or_offloaded_model_gives_the_same(device_map, tmp_path) -> None:
    """accelerate's hooks stay on the rotary: cpu offload and disk offload."""
    from accelerate import dispatch_model

    source = build("qwen2")
    with extend(source, "yarn+dca", **ARGUMENTS["dca"]):
        expected = logits(source)
        tokens = source.generate(IDS[:, :100], max_new_tokens=5, do_sample=False)
    source.save_pretrained(tmp_path / "model")
    if device_map == "offloaded":
        model = dispatch_model(
            source,
            device_map={
                "model.embed_tokens": "cpu",
                "model.layers.0": "cpu",
                "model.layers.1": "disk",
                "model.norm": "disk",
                "model.rotary_emb": "disk",
                "lm_head": "disk",
            },
            main_device="cpu",
            offload_dir=str(tmp_path / "offload"),
            force_hooks=True,
        )
        assert model.model.layers[1].self_attn.q_proj.weight.device.type == "meta"
    else:
        model = Qwen2ForCausalLM.from_pretrained(tmp_path / "model", device_map=device_map).eval()
    plain = logits(model)
    with extend(model, "yarn+dca", **ARGUMENTS["dca"]):
        assert relative_error(logits(model), expected) < 1e-6
        got = model.generate(IDS[:, :100], max_new_tokens=5, do_sample=False)
        assert torch.equal(got, tokens)
    assert torch.equal(logits(model), plain)


def test_a_model_that_is_cast_later_is_turned_in_its_precision(model_qwen2) -> None:
    """Tables are kept from one forward to the next: not those of another dtype."""
    handle = extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    single = logits(model_qwen2)
    model_qwen2.double()
    double = logits(model_qwen2)
    handle.remove()
    extend(model_qwen2, "dca", **ARGUMENTS["dca"])
    assert torch.equal(double, logits(model_qwen2))
    assert 1e-9 < relative_error(single, double) < 1e-4
