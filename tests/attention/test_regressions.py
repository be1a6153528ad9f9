"""Every defect known from earlier implementations of Dual Chunk Attention, one test each.

The traps of torch's CPU op have theirs in test_kernels.py (`test_trap_*`).
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracle import DenseModel, dca_positions, relative_error, rotate_dense
from tiny_models import SIZES, build, kv
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    DynamicCache,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)

from longctx.attention import extend, kernels, rope
from longctx.attention.hf.forward import ATTENTION_NAME, attention_forward

IDS = torch.randint(1, 97, (1, 333), generator=torch.Generator().manual_seed(5))
S = 48


def dca(model, method="dca", **options):
    return extend(model, method, chunk_size=64, local_size=16, **options)


@torch.no_grad()
def logits(model, ids=IDS, **extra):
    return model(ids, **extra).logits


@contextlib.contextmanager
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the CPU kernel was asked to do."""
    cls, calls = type(kernels.get("torch_cpu")), []
    original = cls.__call__

    def spy(self: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        calls.append({"q": q.shape, "k": k.shape, "v": v.shape, **options})
        return original(self, q, k, v, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "__call__", spy)
        yield calls


class CountOps(TorchDispatchMode):
    """Counts operators, and those whose result is at least `large` elements."""

    def __init__(self, large: int = 0) -> None:
        super().__init__()
        self.large, self.ops, self.large_ops = large, Counter(), Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.ops[name] += 1
        if isinstance(out, torch.Tensor) and not out._is_view() and out.numel() >= self.large > 0:
            self.large_ops[name] += 1
        return out


@pytest.mark.parametrize("method", ["dca", "yarn+dca", "yarn-freqs+dca"])
def test_defect_keys_in_the_cache_are_scaled_or_rotated_at_p(model_qwen2, method) -> None:
    """Cached keys = k_proj's output rotated at p mod S, whatever the temperature."""
    handle = dca(model_qwen2, method, **({"factor": 8} if "freqs" in method else {}))
    projected: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda m, a, out: projected.append(out))
        for layer in model_qwen2.model.layers
    ]
    cache = DynamicCache()
    logits(model_qwen2, **kv(cache))
    for hook in hooks:
        hook.remove()
    r = torch.arange(333) % S
    for layer, k_BLE in zip(cache.layers, projected, strict=True):
        k_BKLD = k_BLE.view(1, 333, 2, 8).transpose(1, 2)
        expected = rotate_dense(k_BKLD, r, model_qwen2.model.rotary_emb.inv_freq)
        assert relative_error(layer.keys, expected) < 1e-6
    assert handle.active


def test_defect_temperature_leaks_into_the_next_request(model_qwen2) -> None:
    dca(model_qwen2, "yarn+dca")
    fresh = logits(model_qwen2, IDS[:, :100])
    logits(model_qwen2)
    assert torch.equal(logits(model_qwen2, IDS[:, :100]), fresh)
    answer = model_qwen2.generate(IDS[:, :100], max_new_tokens=5, do_sample=False)
    model_qwen2.generate(IDS, max_new_tokens=5, do_sample=False)
    again = model_qwen2.generate(IDS[:, :100], max_new_tokens=5, do_sample=False)
    assert torch.equal(again, answer)


def test_defect_temperature_leaks_when_a_request_fails(model_qwen2) -> None:
    handle = dca(model_qwen2, "yarn+dca")
    fresh = logits(model_qwen2, IDS[:, :100])
    with pytest.raises(KeyError), handle.request(5000):
        raise KeyError
    with pytest.raises(ValueError, match="2-D padding mask"):
        model_qwen2(IDS, attention_mask=torch.ones(1, 1, 333, 333))
    assert torch.equal(logits(model_qwen2, IDS[:, :100]), fresh)


def test_defect_the_answers_length_changes_the_temperature(model_qwen2) -> None:
    """m comes from the prompt: a larger max_new_tokens must not change the first tokens."""
    dca(model_qwen2, "yarn+dca")
    short = model_qwen2.generate(IDS[:, :60], max_new_tokens=3, do_sample=False)
    long = model_qwen2.generate(IDS[:, :60], max_new_tokens=90, do_sample=False)
    assert torch.equal(short, long[:, :63])
    expected = DenseModel(build()).greedy(
        IDS[:, :60], 3, lambda n: dca_positions(n, 64, 16, 64), scale=1.0
    )
    assert short[0, 60:].tolist() == expected


def test_defect_padding_is_ignored_in_prefill(model_qwen2) -> None:
    dca(model_qwen2)
    padded = torch.cat((IDS[:, :30].flip(1), IDS), dim=1)
    mask = torch.cat((torch.zeros(1, 30, dtype=torch.long), torch.ones_like(IDS)), dim=1)
    got = logits(model_qwen2, padded, attention_mask=mask)[:, 30:]
    assert relative_error(got, logits(model_qwen2)) < 1e-5
    assert relative_error(logits(model_qwen2, padded)[:, 30:], logits(model_qwen2)) > 1e-2


def test_defect_padding_counts_as_position(model_qwen2) -> None:
    """Positions default to arange, harmless for RoPE; here they would shift the chunk borders."""
    dca(model_qwen2)
    mask = torch.cat((torch.zeros(1, 20, dtype=torch.long), torch.ones_like(IDS)), dim=1)
    padded = torch.cat((IDS[:, :20], IDS), dim=1)
    arange = torch.arange(353)[None]
    got = logits(model_qwen2, padded, attention_mask=mask, position_ids=arange)[:, 20:]
    assert relative_error(got, logits(model_qwen2)) < 1e-5


def test_defect_batches_larger_than_one(model_qwen2) -> None:
    dca(model_qwen2, "yarn+dca")
    rows = torch.cat((IDS, IDS.flip(1), IDS.roll(7, 1)))
    together = logits(model_qwen2, rows)
    for row in range(3):
        assert (
            relative_error(together[row : row + 1], logits(model_qwen2, rows[row : row + 1])) < 1e-5
        )


def test_defect_grouped_heads_are_repeated(model_qwen2, monkeypatch) -> None:
    """Kernels get K and V with their own heads: repeated once or twice would show here."""
    dca(model_qwen2)
    with kernel_calls(monkeypatch) as calls:
        logits(model_qwen2)
    assert {(c["q"][1], c["k"][1], c["v"][1]) for c in calls} == {(6, 2, 2)}


def test_defect_merge_in_bf16() -> None:
    """A whole bf16 model stays as close to the float64 oracle as plain attention does."""
    model = build().bfloat16()
    plain = DenseModel(model).logits(IDS, dca_positions(333, 400, 16, 400))
    plain_error = relative_error(logits(model), plain)
    expected = DenseModel(model).logits(IDS, dca_positions(333, 64, 16, 64))
    dca(model)
    assert relative_error(logits(model), expected) <= 1.2 * plain_error


@pytest.mark.parametrize("cached", [1, 47, 48, 49, 63, 95, 96, 97, 200])
def test_defect_prefill_on_a_non_empty_cache(model_qwen2, cached) -> None:
    dca(model_qwen2)
    expected = logits(model_qwen2)[:, cached:]
    cache = DynamicCache()
    logits(model_qwen2, IDS[:, :cached], **kv(cache))
    got = logits(model_qwen2, IDS[:, cached:], **kv(cache))
    assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize("step", [2, 3, 5])
def test_defect_multi_token_decode_without_a_causal_mask(model_qwen2, step) -> None:
    """A later token of the block must not change an earlier one's logits."""
    dca(model_qwen2)
    for start in (40, 46, 95, 140):
        outs = []
        for last in (1, 2):
            cache = DynamicCache()
            logits(model_qwen2, IDS[:, :start], **kv(cache))
            block = IDS[:, start : start + step].clone()
            block[:, -1] = last
            outs.append(logits(model_qwen2, block, **kv(cache)))
        assert torch.equal(outs[0][:, :-1], outs[1][:, :-1])
        assert not torch.equal(outs[0][:, -1], outs[1][:, -1])


def test_defect_crash_without_original_max_position_embeddings() -> None:
    key = {"chunk_size": 64, "local_size": 16}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, dual_chunk_attention_config=key)).eval()
    handle = extend(model, "yarn+dca")
    assert handle.scheme.original_length == 64
    scale = rope.temperature(333, 64) ** 2
    expected = DenseModel(model).logits(IDS, dca_positions(333, 64, 16, 64), scale)
    assert relative_error(logits(model), expected) < 1e-5


def test_defect_python_loop_over_heads(monkeypatch) -> None:
    counts = []
    for heads, kv_heads in ((6, 2), (12, 4)):
        model = Qwen2ForCausalLM(
            Qwen2Config(**{**SIZES, "num_attention_heads": heads, "num_key_value_heads": kv_heads})
        ).eval()
        dca(model)
        with kernel_calls(monkeypatch) as calls:
            logits(model)
        counts.append(len(calls))
    assert counts[0] == counts[1]
    chunks = 7  # 333 tokens in chunks of 48: intra each, succ + past from 1 on, inter from 2 on
    assert counts[0] == 2 * (chunks + (chunks - 1) * 2 + (chunks - 2))


def test_defect_five_copies_of_the_queries(model_qwen2, monkeypatch) -> None:
    """Queries enter kernels once for intra, and at most twice more for what lies behind."""
    dca(model_qwen2)
    with kernel_calls(monkeypatch) as calls:
        logits(model_qwen2)
    rows = sum(c["q"][2] for c in calls) / 2
    assert rows < 3 * 333


def test_defect_rope_scaling_is_silently_ignored() -> None:
    parameters = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, rope_parameters=parameters))
    with pytest.raises(ValueError, match=r"rope_type 'yarn'.*conflicts with method 'dca'"):
        dca(model)


def test_defect_whole_cache_is_concatenated_per_token(model_qwen2) -> None:
    """One decoded token over a StaticCache makes no tensor of the cache's size."""
    dca(model_qwen2)
    cache = StaticCache(config=model_qwen2.config, max_cache_len=400)
    logits(model_qwen2, IDS[:, :300], **kv(cache))
    with CountOps(large=250 * 2 * 8) as counter:
        logits(model_qwen2, IDS[:, 300:301], **kv(cache))
    assert not {"cat", "stack", "clone", "index_select", "_to_copy", "repeat"} & set(
        counter.large_ops
    ), counter.large_ops


@pytest.mark.parametrize("padded", [False, True])
def test_defect_host_synchronisation_per_layer(padded) -> None:
    """As many host reads with six layers as with two: the plan is made once."""
    syncs = []
    for layers in (2, 6):
        model = Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "num_hidden_layers": layers})).eval()
        dca(model, "yarn+dca", request_length=200)
        cache, mask = DynamicCache(), torch.ones(1, 201, dtype=torch.long)
        mask[:, :5] = 0
        extra = [{"attention_mask": mask[:, :n]} if padded else {} for n in (200, 201)]
        logits(model, IDS[:, :200], **kv(cache), **extra[0])
        with CountOps() as counter:
            logits(model, IDS[:, 200:201], **kv(cache), **extra[1])
        syncs.append(sum(counter.ops[n] for n in ("_local_scalar_dense", "nonzero", "equal")))
    assert syncs[0] == syncs[1]


# -- what transformers does around the attention function ----------------------------------------


def test_the_registered_name_is_not_taken_for_a_download() -> None:
    assert "flash" not in ATTENTION_NAME and "/" not in ATTENTION_NAME


def test_the_mask_function_is_registered(model_qwen2) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    dca(model_qwen2)
    assert ATTENTION_NAME in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()


def test_heads_come_from_the_tensors_not_from_the_config(model_qwen2) -> None:
    """Under tensor parallelism a rank holds some of the heads."""
    handle = dca(model_qwen2)
    _, call = handle._before_forward(model_qwen2.model, (IDS,), {})
    plan = call["longctx_plan"]
    q, k, v = (torch.randn(1, h, 333, 8) for h in (6, 2, 2))
    module = model_qwen2.model.layers[0].self_attn
    whole, _ = attention_forward(module, q, k, v, None, longctx_plan=plan)
    half, _ = attention_forward(module, q[:, 3:], k[:, 1:], v[:, 1:], None, longctx_plan=plan)
    torch.testing.assert_close(half, whole[:, :, 3:])


@pytest.mark.parametrize("feature", ["softcap", "s_aux", "position_bias"])
def test_attention_features_that_are_not_computed_are_refused(model_qwen2, feature) -> None:
    handle = dca(model_qwen2)
    _, call = handle._before_forward(model_qwen2.model, (IDS,), {})
    q = torch.randn(1, 6, 333, 8)
    module = model_qwen2.model.layers[0].self_attn
    with pytest.raises(ValueError, match=f"does not support {feature}"):
        attention_forward(
            module,
            q,
            q[:, :2],
            q[:, :2],
            None,
            longctx_plan=call["longctx_plan"],
            **{feature: torch.ones(1)},
        )


def test_nothing_is_patched_before_extend() -> None:
    import subprocess
    import sys

    code = (
        "import longctx.attention.hf.forward as f\n"
        "from transformers import AttentionInterface\n"
        "assert f.ATTENTION_NAME not in AttentionInterface().valid_keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
