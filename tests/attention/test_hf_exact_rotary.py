"""cos and sin at positions where transformers' float32 angles are too coarse."""

import pytest
import torch
from oracle import relative_error, rotate_dense
from tiny_models import SIZES, kv
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from longctx.attention import extend, resolve
from longctx.attention.hf.model import find_parts
from longctx.attention.hf.patch import SchemePatch
from longctx.attention.hf.rope import EXACT_FROM

CHUNK, LOCAL = 262_144, 8_192
S = CHUNK - LOCAL
THETA = 1e7


def long_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": THETA}
    sizes = {**SIZES, "num_hidden_layers": 1, "max_position_embeddings": CHUNK}
    sizes |= {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    key = {"chunk_size": CHUNK, "local_size": LOCAL, "original_max_position_embeddings": CHUNK}
    return Qwen2ForCausalLM(
        Qwen2Config(**sizes, rope_parameters=rope, dual_chunk_attention_config=key)
    ).eval()


def exact(model, positions_L: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    angles_LF = positions_L.double()[:, None] * model.model.rotary_emb.inv_freq.double()
    return angles_LF.cos().repeat(1, 2), angles_LF.sin().repeat(1, 2)


@pytest.mark.parametrize("by_keyword", [True, False])
def test_cos_and_sin_are_exact_at_the_end_of_the_longest_chunk(by_keyword) -> None:
    """transformers' own float32 angles are up to 7.8e-3 off there."""
    model = long_model()
    positions = torch.cat((torch.arange(0, S, 997), torch.arange(S - 64, S)))
    x, ids = torch.zeros(1), positions[None]
    expected = exact(model, positions)
    plain = model.model.rotary_emb(x, ids)
    assert max((a[0] - b).abs().max() for a, b in zip(plain, expected, strict=True)) > 5e-3
    with extend(model, "dca"):
        rotary = model.model.rotary_emb
        got = rotary(x, position_ids=ids) if by_keyword else rotary(x, ids)
    for table, own, right in zip(got, plain, expected, strict=True):
        assert table.dtype == torch.float32 and table.shape == own.shape
        near = positions < EXACT_FROM
        assert (table[0] - right)[~near].abs().max() < 1e-6
        assert torch.equal(table[0][near], own[0][near])
    again = model.model.rotary_emb(x, ids)
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))


def test_the_engine_s_patch_is_exact_too_and_leaves_plain_methods_alone() -> None:
    model = long_model()
    ids = torch.tensor([[S - 1, 253_951 // 2]])
    plain = model.model.rotary_emb(torch.zeros(1), ids)
    for method in ("dca", "none"):
        patch = SchemePatch(find_parts(model), resolve(model.config, method), object(), None)
        got = model.model.rotary_emb(torch.zeros(1), ids)
        patch.remove()
        if method == "none":
            assert torch.equal(got[0], plain[0])
        else:
            assert (got[0][0] - exact(model, ids[0])[0]).abs().max() < 1e-5
    assert not model.model.rotary_emb._forward_hooks


def test_a_decoded_token_over_a_filled_cache_equals_the_oracle_at_that_chunk() -> None:
    """Float32 angles of one layer's new query and key, seen in the logits."""
    model = long_model().float()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.mul_(6.0)
    attention = model.model.layers[0].self_attn
    inv_freq_F = model.model.rotary_emb.inv_freq
    past = S - 1  # the new token stands at the last position of the chunk
    generator = torch.Generator().manual_seed(1)
    k, v = (torch.randn(1, 1, past, 64, generator=generator) for _ in range(2))
    cache = DynamicCache()
    cache.update(rotate_dense(k, torch.arange(past), inv_freq_F), v, 0)
    seen = {}
    hooks = [
        attention.o_proj.register_forward_pre_hook(lambda m, args: seen.update(out=args[0])),
        *(
            getattr(attention, name).register_forward_hook(
                lambda m, args, out, name=name: seen.update({name: out})
            )
            for name in ("q_proj", "k_proj", "v_proj")
        ),
    ]
    with extend(model, "dca"), torch.no_grad():
        model(torch.tensor([[5]]), **kv(cache))
    for hook in hooks:
        hook.remove()
    q_1H1D = seen["q_proj"].view(1, 1, 2, 64).transpose(1, 2)
    new_k, new_v = (seen[n].view(1, 1, 1, 64).transpose(1, 2) for n in ("k_proj", "v_proj"))
    keys = rotate_dense(torch.cat((k, new_k), 2).double(), torch.arange(S), inv_freq_F)
    values = torch.cat((v, new_v), 2).double()
    query = rotate_dense(q_1H1D.double(), torch.tensor([past]), inv_freq_F)
    weights = (query @ keys.repeat_interleave(2, 1).mT * 64**-0.5).softmax(-1)
    expected = (weights @ values.repeat_interleave(2, 1)).transpose(1, 2).reshape(1, 1, 128)
    assert relative_error(seen["out"], expected) < 1e-5
