"""Keys and values in int8: half of bf16's memory, and one answer however it was computed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, greedy, prompt_of, run
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from longctx.attention.int8_keys import ROOM, widen
from longctx.attention.native import library
from longctx.engine import EngineRequest, runner
from longctx.engine.key_factors import key_factors
from longctx.errors import UserError
from longctx.models import quantize

INT8 = torch.int8
WIDE = {**tiny_models.SIZES, "hidden_size": 256, "num_attention_heads": 4}  # heads of 64
KERNELS = ["torch_cpu", *([] if isinstance(library.load(), str) else ["native"])]


def with_outliers(largest: float = 80.0) -> Qwen2ForCausalLM:
    """Biases of keys as Qwen2 has them: some of a hundred times the rest."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**WIDE)).eval()
    for layer in model.model.layers:
        attention = layer.self_attn
        with torch.no_grad():
            attention.q_proj.weight.mul_(3)
            attention.k_proj.weight.mul_(3)
            bias_KD = attention.k_proj.bias.view(2, 64).normal_()
            for head in range(2):
                signs = torch.tensor([1.0, -1.0, 1.0])
                bias_KD[head, torch.randperm(64)[:3]] = largest * (torch.rand(3) + 0.5) * signs
    return model


def scores(model: Any, kv_dtype: torch.dtype, method: str = "none", **options: Any) -> torch.Tensor:
    request = EngineRequest(prompt_of(200), max_new_tokens=0, prompt_logprobs=True)
    with engine_for(model, method, kv_dtype=kv_dtype, **options) as engine:
        return torch.tensor(run(engine, request)[0].prompt_logprobs)


def off(model: Any, kv_dtype: torch.dtype) -> float:
    """Of log-probabilities from those over float32 keys, root of the mean square."""
    wrong = scores(model, kv_dtype) - scores(model, torch.float32)
    return float(wrong.square().mean().sqrt())


# -- memory ----------------------------------------------------------------------------------------


def test_a_token_takes_a_byte_a_number_and_a_scale_for_each_key_and_value() -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**WIDE)).eval()
    fitting = {}
    for dtype in (torch.bfloat16, INT8):
        with engine_for(model, kv_dtype=dtype) as engine:
            assert engine.kv_dtype is dtype
            pool = engine._scheduler.pool
            fitting[dtype] = engine.fitting_tokens
            assert pool.bytes_per_token == 2 * 2 * 2 * (64 + ROOM if dtype is INT8 else 128)
            buffer = pool.allocate(0, 4)
            buffer.write(0, 0, torch.ones(2, 4, 64), torch.ones(2, 4, 64))
            assert sum(x.nbytes for x in buffer.read(0, 0, 4)) * model.config.num_hidden_layers == (
                4 * pool.bytes_per_token
            )
    assert 1.9 < fitting[INT8] / fitting[torch.bfloat16] <= 2


def test_what_was_rounded_is_copied_as_it_is() -> None:
    with engine_for(tiny_models.build(), kv_dtype=INT8) as engine:
        pool = engine._scheduler.pool
        x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
        first, second = pool.allocate(0, 6), pool.allocate(2, 4)
        for layer in range(pool.layers):
            first.write(layer, 0, x, -x)
        second.copy_from(first, 2, 6)
        for layer in range(pool.layers):
            for mine, theirs in zip(second.read(layer, 2, 6), first.read(layer, 2, 6), strict=True):
                assert torch.equal(mine, theirs)
        keys, values = first.read(0, 0, 6)
        assert torch.equal(widen(keys, torch.float32), -widen(values, torch.float32))


# -- one answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "qwen2_moe", "qwen3", "llama"])
@pytest.mark.parametrize("method", ["none", "yarn+dca"])
def test_scores_are_close_to_those_over_floats(family: str, method: str) -> None:
    model = tiny_models.build(family)
    wrong = scores(model, INT8, method) - scores(model, torch.float32, method)
    # Where experts are chosen, a token on the edge goes to others.
    assert 0 < wrong.abs().quantile(0.9) < 0.05


@pytest.mark.parametrize("method", ["none", "yarn", "dca", "yarn+dca"])
def test_any_batch_split_kernel_and_reuse_gives_the_same(method: str) -> None:
    model = tiny_models.build()
    prompts = [prompt_of(100 + seed, seed) for seed in range(3)]
    prompts.append(prompts[0] + prompt_of(30, 9))
    answers = []
    asked = [EngineRequest(prompt, max_new_tokens=8) for prompt in prompts]
    for kernel, budget in itertools.product(KERNELS, (33, 256)):
        options = {"kv_dtype": INT8, "chunk_budget": budget, "kernel": kernel}
        with engine_for(model, method, **options) as engine:
            answers.append([answer.token_ids for answer in run(engine, *asked)])
            # Now of what the engine keeps: all of a prompt but its end.
            again = run(engine, *asked)
            assert all(answer.usage.cached_tokens > 50 for answer in again)
            answers.append([answer.token_ids for answer in again])
        with engine_for(model, method, share_from=32, **options) as engine:
            answers.append([greedy(engine, prompt, 8) for prompt in prompts])
    assert all(answer == answers[0] for answer in answers)


def test_a_prompt_reads_its_own_keys_rounded_whatever_its_split() -> None:
    """Or a chunk would see keys that no later one, and no reuse, ever sees again."""
    model = with_outliers()
    splits = [scores(model, INT8, "yarn+dca", chunk_budget=budget) for budget in (16, 50, 256)]
    for other in splits[1:]:
        assert (other - splits[0]).abs().max() < 1e-4


def test_guesses_change_no_answer() -> None:
    model, prompt = tiny_models.build(), prompt_of(30) * 3
    found = []
    for speculate in ("off", "4"):
        with engine_for(model, "yarn+dca", kv_dtype=INT8, speculate=speculate) as engine:
            found.append(greedy(engine, prompt, 24))
    assert found[0] == found[1]


# -- outliers --------------------------------------------------------------------------------------


def test_large_biases_cost_no_more_than_twice_what_they_cost_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = with_outliers()
    bf16, int8 = off(model, torch.bfloat16), off(model, INT8)
    monkeypatch.setattr(runner, "key_factors", lambda *_: ())
    naive = off(model, INT8)
    assert int8 < 2.5 * bf16
    assert naive > 2.5 * int8


def test_factors_are_powers_of_two_alike_in_a_rotated_pair_and_cancel() -> None:
    model = with_outliers()
    for factors in key_factors(model.model.layers, 4, 2, 64):
        assert factors is not None
        queries_H1D, keys_K1D = factors
        assert queries_H1D.shape == (4, 1, 64) and keys_K1D.shape == (2, 1, 64)
        assert torch.equal(queries_H1D.log2(), queries_H1D.log2().round())
        assert torch.equal(queries_H1D[..., :32], queries_H1D[..., 32:])
        assert torch.equal(queries_H1D[::2] * keys_K1D, torch.ones(2, 1, 64))
        assert torch.equal(queries_H1D[0], queries_H1D[1])  # they share a key head
        assert 1 <= int((keys_K1D[0, 0, :32] != 1).sum()) <= 3  # the others stay


def test_weights_in_bytes_have_the_same_factors() -> None:
    model = with_outliers()
    before = key_factors(model.model.layers, 4, 2, 64)
    quantize.round_linears(model)
    for mine, theirs in zip(key_factors(model.model.layers, 4, 2, 64), before, strict=True):
        assert mine is not None and theirs is not None
        assert torch.equal(mine.queries_H1D, theirs.queries_H1D)


def test_a_norm_of_keys_with_large_weights_is_evened_out() -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**WIDE, head_dim=64)).eval()
    assert key_factors(model.model.layers, 4, 2, 64) == (None, None)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_norm.weight[5] = 40.0
    (factors, _) = key_factors(model.model.layers, 4, 2, 64)
    assert factors is not None
    assert factors.queries_H1D[:, 0, [5, 37]].unique().tolist() == [32.0]
    assert int((factors.queries_H1D != 1).sum()) == 4 * 2


def test_models_without_large_channels_are_left_alone() -> None:
    for family in ("llama", "qwen2"):
        model = tiny_models.build(family)
        parts = model.config
        dim = parts.hidden_size // parts.num_attention_heads
        found = key_factors(model.model.layers, parts.num_attention_heads, 2, dim)
        assert all(each is None for each in found)


# -- refusals --------------------------------------------------------------------------------------


def test_layers_on_a_gpu_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.build()
    devices = property(lambda _: [torch.device("cpu"), torch.device("cuda:0")])
    monkeypatch.setattr(runner.Runner, "layer_devices", devices)
    with pytest.raises(UserError, match="kv_dtype int8: layers lie on cuda"):
        engine_for(model, kv_dtype=INT8)
    monkeypatch.undo()
    with engine_for(model) as engine:  # the model is free again
        assert len(greedy(engine, prompt_of(20))) == 12
