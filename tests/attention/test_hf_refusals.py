"""Models that look like the supported ones and are not; drop-in corners of generate and remove."""

import copy
import io
import pickle
import re
import subprocess
import sys

import pytest
import torch
from oracle import relative_error
from tiny_models import SIZES, build, kv, made_by
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
)

from longctx.attention import active, extend
from longctx.attention.hf import cache as drop_in_cache
from longctx.attention.hf import hooks as drop_in_hooks
from longctx.attention.hf.cache import cache_argument
from longctx.attention.hf.model import PROVED_FAMILIES

IDS = torch.randint(1, 97, (1, 333), generator=torch.Generator().manual_seed(5))
DCA = {"chunk_size": 64, "local_size": 16}


def logits(model, ids=IDS, **extra):
    with torch.no_grad():
        return model(ids, **extra).logits


def make(model_type: str, **more):
    """A tiny random model of any family."""
    sizes = {k: v for k, v in SIZES.items() if v is not None}
    config = AutoConfig.for_model(model_type, **{**sizes, **more})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ACCEPTED = {
    "qwen2": {},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 32},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {**MOE, "head_dim": 16},
    "llama": {},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4},
    "granite": {},
    "gemma": {"head_dim": 16},
    "olmo2": {},
}


@pytest.mark.parametrize("model_type", ACCEPTED)
def test_accepted_families_equal_themselves_within_the_window(model_type) -> None:
    """S < L <= C: all distances are true, so a difference is a wrong rotation."""
    model = make(model_type, **ACCEPTED[model_type])
    expected = logits(model, IDS[:, :64])
    with extend(model, "dca", **DCA):
        assert relative_error(logits(model, IDS[:, :64]), expected) < 1e-5


def test_every_family_that_skips_the_probe_is_tested_above() -> None:
    assert set(PROVED_FAMILIES) <= set(ACCEPTED)


@pytest.mark.parametrize(
    ("model_type", "more", "why"),
    [
        ("smollm3", {"no_rope_layers": [1, 0]}, "layer 1 is a SmolLM3Attention: rotation is not"),
        ("hunyuan_v1_dense", {"head_dim": 16}, "rotation is not the last thing it does"),
        ("cohere", {}, "CohereForCausalLM cannot be extended"),
        ("stablelm", {}, "its rotary turns 2 of 8 head dimensions"),
    ],
)
def test_families_that_rotate_otherwise_are_refused_by_name(model_type, more, why) -> None:
    model = make(model_type, **more)
    with pytest.raises(ValueError, match="cannot be extended") as error:
        extend(model, "dca", **DCA)
    assert why in str(error.value) and "\n" not in str(error.value)
    assert active(model) is None and model.config._attn_implementation == "sdpa"


def second_rotary(model):
    model.model.layers[0].self_attn.rotary_emb = copy.deepcopy(model.model.rotary_emb)


def two_dimensional(model):
    model.model.rotary_emb.inv_freq = torch.ones(2, 4)


def not_causal(model):
    model.model.layers[1].self_attn.is_causal = False


def sliding(model):
    model.model.layers[1].self_attn.sliding_window = 32


def other_head_dim(model):
    model.model.layers[1].self_attn.head_dim = 16


def no_scaling(model):
    del model.model.layers[1].self_attn.scaling


def no_attention(model):
    del model.model.layers[1].self_attn


def foreign_attention(model):
    class Foreign(nn.Module):
        pass

    foreign = Foreign()
    foreign.__dict__.update(model.model.layers[1].self_attn.__dict__)
    model.model.layers[1].self_attn = foreign


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (second_rotary, "it has 2 rotary modules (layers.0.self_attn.rotary_emb, rotary_emb"),
        (two_dimensional, "Qwen2RotaryEmbedding has no 1-D `inv_freq`"),
        (not_causal, "its attention is not causal"),
        (sliding, "sliding_window=32 is active in its layers"),
        (other_head_dim, "its rotary turns 8 of 16 head dimensions"),
        (no_scaling, "its Qwen2Attention has no `scaling`"),
        (no_attention, "its layers have no `self_attn`"),
        (foreign_attention, "its Foreign does not use the attention interface"),
    ],
)
def test_every_structural_refusal(model_qwen2, spoil, why) -> None:
    spoil(model_qwen2)
    with pytest.raises(ValueError, match=re.escape(why)):
        extend(model_qwen2, "dca", **DCA)


def test_ramp_without_theta_is_refused(model_qwen2) -> None:
    del model_qwen2.config.rope_parameters["rope_theta"]
    with pytest.raises(ValueError, match="method 'yarn' needs rope_theta"):
        extend(model_qwen2, "yarn", factor=2)
    assert active(model_qwen2) is None
    extend(model_qwen2, "pi", factor=2)  # nothing of the refused one is left


def test_an_attention_mask_that_a_layer_makes_itself_is_refused(model_qwen2) -> None:
    from longctx.attention.hf.forward import attention_forward

    handle = extend(model_qwen2, "dca", **DCA)
    _, call = handle._before_forward(model_qwen2.model, (IDS,), {})
    q, mask = torch.randn(1, 6, 333, 8), torch.zeros(1, 1, 333, 333)
    layer = model_qwen2.model.layers[0].self_attn
    with pytest.raises(ValueError, match="Qwen2Attention makes an attention mask of its own"):
        attention_forward(layer, q, q[:, :2], q[:, :2], mask, longctx_plan=call["longctx_plan"])


# -- generate ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_padded_batch_with_prefill_in_chunks(model_qwen2, cache) -> None:
    """A row may be all padding in the first chunk."""
    extend(model_qwen2, "yarn+dca", **DCA)
    ids, mask = torch.ones(2, 130, dtype=torch.long), torch.zeros(2, 130, dtype=torch.long)
    for row, n in enumerate((60, 130)):
        ids[row, -n:], mask[row, -n:] = IDS[0, :n], 1
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache}
    got = model_qwen2.generate(ids, attention_mask=mask, prefill_chunk_size=31, **options)
    for row, n in enumerate((60, 130)):
        alone = model_qwen2.generate(IDS[:, :n], **options)
        assert torch.equal(got[row, -6:], alone[0, -6:])


def test_settings_of_a_generation_config_object_count(model_qwen2) -> None:
    """Fields it leaves open come from the model, as transformers does it."""
    extend(model_qwen2, "yarn+dca", **DCA)
    ids = IDS[:, :120].clone()
    ids[:, ::3] = 0
    more = {"output_logits": True, "return_dict_in_generate": True}
    options = {"max_new_tokens": 3, "do_sample": False}
    model_qwen2.generation_config.pad_token_id = 0
    by_keyword = model_qwen2.generate(ids, **options, **more)
    by_object = model_qwen2.generate(ids, GenerationConfig(**options, **more))
    assert torch.equal(torch.stack(by_keyword.logits), torch.stack(by_object.logits))
    real = model_qwen2.generate(ids[ids != 0][None], **options, **more)
    assert relative_error(torch.stack(by_object.logits), torch.stack(real.logits)) < 1e-5


def test_a_pad_id_that_is_an_eos_id_is_no_padding(model_qwen2) -> None:
    extend(model_qwen2, "yarn+dca", **DCA)
    ids = IDS[:, :120].clone()
    ids[:, ::3] = 0
    more = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 1}
    for eos in (0, [0, 5], torch.tensor([5, 0])):
        got = model_qwen2.generate(ids, eos_token_id=eos, do_sample=False, **more)
        assert relative_error(got.logits[0], logits(model_qwen2, ids)[:, -1]) < 1e-5


def test_generate_takes_every_argument_that_it_took(model_qwen2) -> None:
    extend(model_qwen2, "yarn+dca", **DCA)
    config = GenerationConfig(max_new_tokens=2, do_sample=False)
    expected = model_qwen2.generate(IDS[:, :60], config)
    got = model_qwen2.generate(IDS[:, :60], config, LogitsProcessorList())
    assert torch.equal(got, expected)
    from_bos = model_qwen2.generate(bos_token_id=3, max_new_tokens=4, do_sample=False)
    assert from_bos.shape == (1, 5)
    with pytest.raises(ValueError, match="must be 2D"):
        model_qwen2.generate(IDS, attention_mask=torch.ones(1, 1, 333, 333), max_new_tokens=1)


def test_inputs_that_are_missing_are_reported_by_the_model(model_qwen2) -> None:
    extend(model_qwen2, "dca", **DCA)
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model_qwen2()


def test_all_positional_arguments_of_the_decoder_arrive(model_qwen2) -> None:
    extend(model_qwen2, "dca", **DCA)
    out = model_qwen2.model(IDS, None, None, None, None, False)
    assert made_by(out) is None


def test_assisted_decoding_with_an_extended_assistant(model_qwen2) -> None:
    extend(model_qwen2, "yarn+dca", **DCA)
    assistant = build("qwen2")
    extend(assistant, "yarn+dca", **DCA)
    options = {"max_new_tokens": 12, "do_sample": False}
    expected = model_qwen2.generate(IDS[:, :100], **options)
    got = model_qwen2.generate(IDS[:, :100], assistant_model=assistant, **options)
    assert torch.equal(got, expected)


# -- caches --------------------------------------------------------------------------------------


def test_a_cache_that_plain_rope_filled_is_refused_beyond_a_chunk(model_qwen2) -> None:
    caches = {n: DynamicCache() for n in (40, 200)}
    for n, cache in caches.items():
        logits(model_qwen2, IDS[:, :n], **kv(cache))
    extend(model_qwen2, "dca", **DCA)
    got = logits(model_qwen2, IDS[:, 40:100], **kv(caches[40]))
    assert relative_error(got, logits(model_qwen2, IDS[:, :100])[:, 40:]) < 1e-5
    with pytest.raises(ValueError, match=r"holds 200 tokens that were not written under 'dca'"):
        logits(model_qwen2, IDS[:, 200:], **kv(caches[200]))


def test_temperatures_are_compared_row_by_row(model_qwen2) -> None:
    handle = extend(model_qwen2, "yarn+dca", **DCA)
    mask = torch.ones(2, 300, dtype=torch.long)
    mask[0, :260] = 0
    rows, cache = IDS[:, :300].expand(2, -1), DynamicCache()
    logits(model_qwen2, rows, attention_mask=mask, **kv(cache))
    mask = torch.cat((mask, torch.ones(2, 1, dtype=torch.long)), dim=1)
    with (
        handle.request(300),
        pytest.raises(ValueError, match="the cache was filled with"),
    ):
        logits(model_qwen2, rows[:, :1], attention_mask=mask, **kv(cache))


def test_a_cache_is_tagged_without_a_return_dict_too(model_qwen2) -> None:
    handle = extend(model_qwen2, "yarn+dca", **DCA)
    with torch.no_grad():
        _, cache = model_qwen2.model(IDS[:, :100], return_dict=False, use_cache=True)
    with handle.request(5000), pytest.raises(ValueError, match="the cache was filled with"):
        logits(model_qwen2, IDS[:, 100:101], **kv(cache))


# -- remove --------------------------------------------------------------------------------------


def test_a_generate_of_the_models_own_survives(model_qwen2) -> None:
    def mine(*args, **kwargs):
        return "mine"

    model_qwen2.generate = mine
    with extend(model_qwen2, "dca", **DCA):
        assert model_qwen2.generate(IDS) == "mine"
    assert model_qwen2.generate is mine


def test_changes_made_meanwhile_survive(model_qwen2) -> None:
    config = model_qwen2.config
    handle = extend(model_qwen2, "dca", **DCA)
    model_qwen2.resize_token_embeddings(120)
    handle.remove()
    assert model_qwen2.config is config and config.vocab_size == 120
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize("method", ["dca", "yarn"])
def test_a_cast_meanwhile_survives(method) -> None:
    cast_plain = build().bfloat16()
    model = build()
    handle = extend(model, method, **(DCA if method == "dca" else {"factor": 2}))
    model.bfloat16()
    handle.remove()
    assert torch.equal(logits(model), logits(cast_plain))


def test_a_pickled_extended_model_works_in_a_new_process(model_qwen2, tmp_path) -> None:
    extend(model_qwen2, "dca", **DCA)
    expected = logits(model_qwen2)
    torch.save((model_qwen2, expected), tmp_path / "model.pt")
    code = (
        f"import torch; model, expected = torch.load({str(tmp_path / 'model.pt')!r}, "
        "weights_only=False)\n"
        f"ids = torch.tensor({IDS.tolist()})\n"
        "with torch.no_grad(): assert torch.equal(model(ids).logits, expected)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.equal(logits(pickle.load(io.BytesIO(pickle.dumps(model_qwen2)))), expected)


def test_saving_while_extended_leaves_no_trace_in_the_files(model_qwen2, tmp_path) -> None:
    expected = logits(model_qwen2)
    with extend(model_qwen2, "dca", **DCA):
        model_qwen2.save_pretrained(tmp_path)
    assert "longctx" not in (tmp_path / "config.json").read_text()
    assert torch.equal(logits(type(model_qwen2).from_pretrained(tmp_path).eval()), expected)


def test_kernel_is_settled_when_extending(model_qwen2, monkeypatch) -> None:
    from longctx.attention import kernels

    for name in ("native", "torch_cpu"):
        monkeypatch.setattr(type(kernels.get(name)), "unavailable", lambda *_: "is away")
    with pytest.raises(ValueError, match=r"no fast kernel for torch\.float32 on cpu"):
        extend(model_qwen2, "dca", **DCA)
    assert active(model_qwen2) is None


def test_a_cache_under_an_unknown_name_is_an_error_not_wrong_positions(
    model_qwen2, monkeypatch
) -> None:
    """transformers 5.24 renamed the argument: unseen, every decoded token stood at position 0."""
    extend(model_qwen2, "dca", **DCA)
    for module in (drop_in_hooks, drop_in_cache):
        monkeypatch.setattr(module, "given_cache", lambda kwargs: None)
    cache = DynamicCache()
    logits(model_qwen2, IDS[:, :70], **kv(cache))
    with pytest.raises(RuntimeError, match="71 keys for 1 queries, and the decoder was given no"):
        logits(model_qwen2, IDS[:, 70:71], **kv(cache))


def test_a_forward_without_a_cache_argument_is_refused() -> None:
    class Other:
        def forward(self, input_ids, memory): ...

    with pytest.raises(ValueError, match=r"Other cannot be extended: .*cache, past_key_values"):
        cache_argument(Other())
