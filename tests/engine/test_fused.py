"""Modules that compute in C while an engine owns them: the same numbers, and only where known."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, expected, greedy, prompt_of
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    apply_rotary_pos_emb,
)

from longctx.attention.native import build, library
from longctx.engine import fused, layer_ops
from longctx.engine.fused import FusedModules
from longctx.engine.layer_ops import LayerOps

LOADED = layer_ops.load()
if isinstance(LOADED, str):
    pytest.skip(f"the library of layer.c {LOADED}", allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16]
LEVELS = range(LOADED.level + 1)
WIDTHS = [1, 15, 16, 48, 64, 100, 576, 1000]


def ops_of(level: int) -> LayerOps:
    assert isinstance(LOADED, LayerOps)
    return LayerOps(level, LOADED.parallel, LOADED.functions)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def close(got: torch.Tensor, want: torch.Tensor, roundings: int) -> None:
    """float32: to 1e-6 of the number; bfloat16: the same number, or its neighbour in few places."""
    assert got.dtype == want.dtype and got.shape == want.shape
    if got.dtype == torch.float32:
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-30)
        return
    apart = (got.view(torch.int16).int() - want.view(torch.int16).int()).abs()
    assert apart.max() <= roundings
    assert (apart > 0).float().mean() < 0.01


# -- the functions of layer.c ---------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_norm_is_that_of_the_model(width: int, dtype: torch.dtype, level: int) -> None:
    norm = LlamaRMSNorm(width, eps=1e-5).to(dtype)
    norm.weight = nn.Parameter(random(width, seed=1).to(dtype), requires_grad=False)
    for scale in (1e-4, 1.0, 300.0):
        x = (random(1, 9, width) * scale).to(dtype)
        close(ops_of(level).rms_norm(x, norm.weight, 1e-5), norm(x), roundings=2)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 16, 34, 64, 128])
def test_a_rotation_has_the_bits_of_the_model(dim: int, dtype: torch.dtype, level: int) -> None:
    q, k = random(1, 9, 3 * dim).to(dtype), random(1, 9, 2 * dim, seed=1).to(dtype)
    angle = random(1, 9, dim // 2, seed=2).repeat(1, 1, 2) * 7
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    heads = [x.view(1, 9, -1, dim).transpose(1, 2) for x in (q, k)]
    want = apply_rotary_pos_emb(*heads, cos, sin)
    got = ops_of(level).rotate(q, k, cos, sin)
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine, theirs) and mine.stride() == theirs.stride()


def all_of(ops: LayerOps, x: torch.Tensor) -> list[torch.Tensor]:
    """[T, ...] each: what layer.c makes of rows [T, 128]."""
    weight, angle = random(128, seed=5).to(x.dtype), random(1, 1, 64, seed=6).to(x.dtype)
    turns = angle.expand(1, len(x), 64).contiguous()
    q, k = ops.rotate(x[None], x[None, :, :64], turns, turns)
    return [
        ops.rms_norm(x, weight, 1e-6),
        q[0].transpose(0, 1),
        k[0].transpose(0, 1),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_depends_on_itself_alone_to_the_last_bit(dtype: torch.dtype) -> None:
    """Whatever else is in the step, however many threads share it, whichever instructions."""
    x = random(700, 128).to(dtype)
    before = torch.get_num_threads()
    together = all_of(ops_of(LOADED.level), x)
    for level in LEVELS:
        for first, stop in ((0, 1), (13, 14), (300, 309)):
            alone = all_of(ops_of(level), x[first:stop])
            for one, many in zip(alone, together, strict=True):
                assert torch.equal(one, many[first:stop])
    torch.set_num_threads(3)
    try:
        shared = all_of(ops_of(LOADED.level), x)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, shared, together))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_lie_apart_are_read_where_they_lie(dtype: torch.dtype) -> None:
    """As the parts of a product that several layers share."""
    ops, whole = ops_of(LOADED.level), random(1, 5, 400).to(dtype)
    q, k = whole[..., :96], whole[..., 200:296]
    turns = random(1, 5, 32, seed=1).to(dtype)
    together = q.contiguous(), k.contiguous()
    for given in (q, k), (whole[..., 0:384:4], k), (q.view(1, 5, 3, 32), k.view(1, 5, 3, 32)):
        want = ops.rotate(*(x.reshape(1, 5, 96).contiguous() for x in given), turns, turns)
        assert all(map(torch.equal, ops.rotate(*given, turns, turns), want))
    assert all(
        map(torch.equal, ops.rotate(q, k, turns, turns), ops.rotate(*together, turns, turns))
    )
    every_second = whole[..., ::4]
    assert torch.equal(
        ops.rms_norm(every_second, turns.new_ones(100), 1e-6),
        ops.rms_norm(every_second.contiguous(), turns.new_ones(100), 1e-6),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none_and_in_its_row(bad: float, dtype: torch.dtype) -> None:
    x = random(3, 128).to(dtype)
    x[1, 40] = bad
    for level in LEVELS:
        for made in all_of(ops_of(level), x)[:2]:
            assert made[[0, 2]].isfinite().all()
            assert not made[1].isfinite().all()


# -- which modules --------------------------------------------------------------------------------


class Holder(nn.ModuleList):
    dtype = torch.float32

    def __init__(self, module: nn.Module) -> None:
        super().__init__([module])


def kinds(model: nn.Module) -> dict[str, int]:
    found = FusedModules(model)
    counts: dict[str, int] = {}
    for module in found._fused:
        kind = fused._kind(module)
        counts[kind] = counts.get(kind, 0) + 1
    found.undo()
    return counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("llama", {"norm": 5, "attention": 2}),
        ("qwen2", {"norm": 5, "attention": 2}),
        ("qwen3", {"norm": 9, "attention": 2}),
        ("qwen2_moe", {"norm": 5, "attention": 2}),
    ],
)
def test_the_proved_families_are_known(
    family: str, counts: dict[str, int], dtype: torch.dtype
) -> None:
    assert kinds(tiny_models.build(family).to(dtype)) == counts


def test_other_arithmetic_under_the_same_names_is_left_alone() -> None:
    class TimesRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> Any:
            return 1.5 * super().forward(hidden_states)

    class LateRMSNorm(LlamaRMSNorm):
        """Rounds behind the weight, as OLMo 2's: known in float32, where that is the same."""

        def forward(self, hidden_states: torch.Tensor) -> Any:
            wide = hidden_states.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return (self.weight * wide).to(hidden_states.dtype)

    ops = ops_of(LOADED.level)
    for norm, dtype, known in (
        (LlamaRMSNorm(48), torch.float32, True),
        (GemmaRMSNorm(48), torch.float32, False),
        (TimesRMSNorm(48), torch.float32, False),
        (LateRMSNorm(48), torch.float32, True),
        (LateRMSNorm(48).to(torch.bfloat16), torch.bfloat16, False),
        (LlamaRMSNorm(48).to(torch.bfloat16), torch.float32, False),
    ):
        assert (fused._forward(ops, norm, dtype) is not None) == known, (type(norm), dtype)


def test_attention_that_does_more_is_left_alone() -> None:
    ops, attention = ops_of(LOADED.level), tiny_models.build("llama").model.layers[0].self_attn
    kind = type(attention)

    class Scaled(kind):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: torch.Tensor, *more: Any, **named: Any) -> Any:
            return super().forward(hidden_states * 2, *more, **named)

    class After(kind):  # type: ignore[misc, valid-type]
        def forward(self, *more: Any, **named: Any) -> Any:
            out, weights = super().forward(*more, **named)
            return out * 2, weights

    class Hands(kind):  # type: ignore[misc, valid-type]
        def forward(self, *more: Any, **named: Any) -> Any:
            return super().forward(*more, softcap=3.0, **named)

    class Unturned(kind):  # type: ignore[misc, valid-type]
        def forward(self, *more: Any, position_embeddings: Any, **named: Any) -> Any:
            cos, sin = position_embeddings
            still = torch.ones_like(cos), torch.zeros_like(sin)
            return super().forward(*more, position_embeddings=still, **named)

    assert fused._forward(ops, attention, torch.float32) is not None
    for other in (Scaled, After, Hands, Unturned):
        module = other(attention.config, 0)
        assert fused._forward(ops, module, torch.float32) is None, other
    attention.sinks = nn.Parameter(torch.ones(6))
    assert fused._forward(ops, attention, torch.float32) is None


def test_another_architecture_keeps_its_own_code() -> None:
    sizes = {**tiny_models.SIZES, "head_dim": 8}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes)).eval()
    assert kinds(model) == {}


def test_other_dtypes_offloaded_weights_and_wrapped_modules_are_left_alone() -> None:
    model = tiny_models.build("llama")
    assert kinds(model.to(torch.float16)) == {}
    model = tiny_models.build("llama")
    first, second = model.model.layers
    first.self_attn.forward = types.MethodType(type(first.self_attn).forward, first.self_attn)
    first.input_layernorm.to("meta")
    second.self_attn.q_proj.to("meta")
    assert kinds(model) == {"norm": 4}


def test_undo_leaves_nothing_and_a_failure_on_the_way_does_so_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_models.build("llama")
    found = FusedModules(model)
    assert len(found) == 7 and sum("forward" in vars(each) for each in model.modules()) == 7
    found.undo()
    assert len(found) == 0 and not any("forward" in vars(each) for each in model.modules())
    made, forward = [], fused._forward

    def third_fails(*given: Any) -> Any:
        made.append(forward(*given))
        if len([each for each in made if each]) == 3:
            raise MemoryError
        return made[-1]

    monkeypatch.setattr(fused, "_forward", third_fails)
    with pytest.raises(MemoryError):
        FusedModules(model)
    assert not any("forward" in vars(each) for each in model.modules())


# -- as the model runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen2_moe"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_engine_has_the_model_in_c_and_gives_it_back(family: str, dtype: torch.dtype) -> None:
    model = tiny_models.build(family).to(dtype)
    prompt = prompt_of(80)
    with engine_for(model, "dca") as engine:
        assert len(engine._runner._fused) >= 7
        states = engine._runner.hidden(prompt)
        engine._runner._fused.undo()
        plain = engine._runner.hidden(prompt)
    assert not any("forward" in vars(each) for each in model.modules())
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    assert (states - plain).abs().max() <= tolerance * plain.abs().max()


def test_the_answer_is_that_of_transformers() -> None:
    for family in ("llama", "qwen3"):
        model = tiny_models.build(family)
        with engine_for(model) as engine:
            assert len(engine._runner._fused)
            answer = greedy(engine, prompt_of(70))
        with torch.inference_mode(False):
            assert answer == expected(model, "none", prompt_of(70))


def test_the_fused_code_runs_in_prompts_and_in_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, set[int]] = {}

    def count(name: str) -> None:
        original = getattr(LayerOps, name)

        def counted(self: LayerOps, x: torch.Tensor, *more: Any) -> Any:
            rows.setdefault(name, set()).add(x.shape[1])
            return original(self, x, *more)

        monkeypatch.setattr(LayerOps, name, counted)

    count("rms_norm")
    count("rotate")
    with engine_for(tiny_models.build("llama")) as engine:
        greedy(engine, prompt_of(40), 3)
    assert rows == {"rms_norm": {1, 40}, "rotate": {1, 40}}


def test_gradients_take_the_plain_path() -> None:
    with torch.inference_mode(False):
        norm = LlamaRMSNorm(1000)
        x = random(1, 30, 1000).requires_grad_()
        plain = norm(x)
        found = FusedModules(Holder(norm))
        assert len(found) == 1
        out = norm(x)
        out.sum().backward()
        assert torch.equal(out, plain) and x.grad is not None
    assert not torch.equal(norm(x), plain)  # in C: it sums in another order


def test_compiled_code_takes_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = LlamaRMSNorm(1000)
    x = random(1, 30, 1000)
    plain = norm(x)
    FusedModules(Holder(norm))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(norm(x), plain)


def test_hooks_of_what_is_inside_are_called() -> None:
    model, seen = tiny_models.build("qwen3"), []
    layer = model.model.layers[0]
    inside = [layer.self_attn, layer.self_attn.q_norm, layer.self_attn.o_proj, model.model.norm]
    with engine_for(model) as engine:
        for module in inside:
            module.register_forward_hook(lambda module, *_: seen.append(module))
        greedy(engine, prompt_of(5), 1)
    assert set(seen) == set(inside)


@pytest.mark.parametrize("names", [("k_proj",), ("q_proj",), ("q_proj", "k_proj", "v_proj")])
def test_a_projection_that_answers_in_another_dtype_is_rotated_in_it(names: Any) -> None:
    """As an adapter that computes in float32 does: layer.c would read other numbers as its own."""
    model = tiny_models.build("llama").to(torch.bfloat16)
    prompt = prompt_of(70)
    with engine_for(model) as engine:
        for layer in model.model.layers:
            attention = layer.self_attn
            for name in names:
                attention._modules[name].register_forward_hook(lambda *given: given[2].float())
            attention.o_proj.register_forward_pre_hook(lambda _, given: given[0].bfloat16())
        states = engine._runner.hidden(prompt)
        engine._runner._fused.undo()
        plain = engine._runner.hidden(prompt)
    assert (states - plain).abs().max() <= 0.1 * plain.abs().max()


def test_a_copy_made_while_an_engine_owns_the_model_has_weights_of_its_own() -> None:
    model, x = tiny_models.build("llama"), random(1, 3, 48)
    with engine_for(model):
        norm = copy.deepcopy(model.model.norm)
        attention = copy.deepcopy(model.model.layers[0].self_attn)
    norm.weight.data.zero_()
    assert not norm(x).any() and model.model.norm(x).any()
    assert vars(attention)["forward"].__self__ is attention


def test_a_weight_that_takes_less_room_than_its_shape_is_read_by_torch() -> None:
    model, x = tiny_models.build("llama"), random(1, 3, 48)
    norm = model.model.norm
    norm.weight = nn.Parameter(torch.tensor([2.0]).expand(48), requires_grad=False)
    plain = norm(x)
    with engine_for(model):
        assert torch.equal(norm(x), plain)


def test_rows_of_another_width_are_an_error_as_ever() -> None:
    model = tiny_models.build("llama")
    with engine_for(model), pytest.raises(RuntimeError, match="must match the size"):
        model.model.norm(random(1, 3, 47))


def test_a_model_is_given_back_whole_where_somebody_took_a_forward_off() -> None:
    model = tiny_models.build("llama")
    before = model.config._attn_implementation
    engine = engine_for(model)
    del vars(model.model.norm)["forward"]
    engine.close()
    assert not any("forward" in vars(each) for each in model.modules())
    assert model.config._attn_implementation == before


def test_without_the_library_the_model_computes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "load", lambda: "is not built")
    model = tiny_models.build("llama")
    with engine_for(model) as engine:
        assert len(engine._runner._fused) == 0
        answer = greedy(engine, prompt_of(20))
    with torch.inference_mode(False):
        assert answer == expected(model, "none", prompt_of(20))


def test_the_library_says_what_it_was_made_of() -> None:
    functions = library.opened(layer_ops.SOURCE)
    assert not isinstance(functions, str)
    assert functions.longctx_source().decode() == build.source_hash(layer_ops.SOURCE)
