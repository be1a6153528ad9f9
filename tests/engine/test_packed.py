"""Packed linear weights: the same numbers, in the place of the plain ones, and back again."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from longctx.attention import cpu
from longctx.engine import packed as packed_linears
from longctx.engine.packed import SMALLEST_FLOAT32, PackedLinears

IN, OUT = 253, 263  # odd, and large enough to be packed


def layers(*names: str) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(IN, OUT, bias=name == "biased") for name in names})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_a_packed_layer_computes_the_same(dtype: torch.dtype, tokens: int) -> None:
    model = layers("biased", "plain").to(dtype)
    x = torch.randn(1, tokens, IN).to(dtype)
    want = [layer(x).detach() for layer in model.values()]
    packed = PackedLinears(model)
    assert len(packed) == (2 if cpu.packs_linear(dtype) else 0)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    with torch.inference_mode():
        for layer, expected in zip(model.values(), want, strict=True):
            torch.testing.assert_close(layer(x), expected, rtol=tolerance, atol=tolerance)


def test_a_small_weight_of_float32_stays() -> None:
    """A row of it costs less by itself, and every number of rows would keep code of its own."""
    for features, dtype, expected in (
        (SMALLEST_FLOAT32 // 64 - 1, torch.float32, 0),
        (SMALLEST_FLOAT32 // 64, torch.float32, 1),
        (37, torch.bfloat16, 1),
    ):
        model = nn.ModuleList([nn.Linear(64, features)]).to(dtype)
        assert len(PackedLinears(model)) == (expected if cpu.packs_linear(dtype) else 0)


def test_whole_chunks_read_a_packed_copy_of_a_small_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not cpu.packs_linear(torch.float32):
        pytest.skip("the processor's library packs no float32 weight")
    computed: list[int] = []

    def counted() -> Any:
        compute = torch.ops.mkldnn._linear_pointwise.default

        def call(x: torch.Tensor, *rest: Any) -> Any:
            computed.append(x.shape[1])
            return compute(x, *rest)

        return call

    monkeypatch.setattr(packed_linears, "_linear", counted)
    torch.manual_seed(0)
    layer = nn.Linear(48, 40)
    model, weight = nn.ModuleList([layer]), layer.weight
    packed = PackedLinears(model)
    for rows in (1, 255, 256, 300, 512, 0):
        x_1TD = torch.randn(1, rows, 48)
        with torch.inference_mode():
            want = torch.nn.functional.linear(x_1TD, weight, layer.bias)
            torch.testing.assert_close(layer(x_1TD), want, rtol=1e-5, atol=1e-5)
    assert computed == [256, 512]
    assert layer.weight is weight
    packed.unpack()
    assert "forward" not in vars(layer)


GROWTH = """
import torch
from longctx.engine.packed import PackedLinears

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) >> 10

model = torch.nn.ModuleList([torch.nn.Linear(128, 384), torch.nn.Linear(384, 128)])
packed = PackedLinears(model)
with torch.inference_mode():
    for rows in (64, 999):
        model[1](model[0](torch.ones(rows, 128)))
    before = resident()
    for rows in range(200, 260):
        model[1](model[0](torch.ones(rows, 128)))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc as Linux has it")
def test_prompts_of_many_lengths_take_no_memory_of_a_small_model() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16  # packed, it is 0.4 a length and layer: 45


def test_unpacking_gives_the_parameters_back_bit_for_bit() -> None:
    model = layers("biased", "plain")
    parameters = dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    packed = PackedLinears(model)
    assert model["plain"].weight.shape == (OUT, IN) and model["plain"].weight.device.type == "meta"
    assert parameters["plain.weight"].numel() == 0  # no second copy is kept
    packed.unpack()
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
        assert torch.equal(parameter, before[name]) and parameter.requires_grad
    assert all("forward" not in vars(layer) for layer in model.values())
    assert len(packed) == 0


def test_a_copy_of_a_small_layer_computes_with_a_weight_of_its_own() -> None:
    layer = nn.Linear(48, 40)
    packed = PackedLinears(nn.ModuleList([layer]))
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        copied.weight.zero_()
        copied.bias.zero_()
        for rows in (1, packed_linears.WHOLE_ROWS):
            x = torch.ones(1, rows, 48)
            assert not copied(x).any() and layer(x).any()
    packed.unpack()


def test_unpacking_goes_on_where_somebody_took_a_forward_off() -> None:
    model = layers("biased", "plain")
    model["small"] = nn.Linear(48, 40)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    packed = PackedLinears(model)
    for layer in model.values():
        vars(layer).pop("forward", None)
    packed.unpack()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_what_is_shared_wrapped_or_of_another_kind_is_left_alone() -> None:
    class Adapter(nn.Linear):
        pass

    model = layers("tied", "hooked", "wrapped", "in_fp16", "free")
    model["adapter"] = Adapter(IN, OUT)
    model["embedding"] = nn.Embedding(OUT, IN)
    model["embedding"].weight = model["tied"].weight
    model["hooked"].register_forward_hook(lambda *_: None)
    model["wrapped"].forward = model["wrapped"].forward
    model["in_fp16"].to(torch.float16)
    packed = PackedLinears(model)
    assert len(packed) == 1 and model["free"].weight.device.type == "meta"
    assert model["tied"].weight is model["embedding"].weight


def test_what_the_processor_refuses_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "packs_linear", lambda dtype: cpu.Ability(False, "for this test"))
    model = layers("biased", "plain")
    before = dict(model.named_parameters())
    packed = PackedLinears(model)
    assert len(packed) == 0
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


_SERVE_BF16 = """
import torch
import tiny_models
from engine_helpers import engine_for, greedy, prompt_of
for method in ("none", "yarn+dca"):
    with engine_for(tiny_models.build().to(torch.bfloat16), method) as engine:
        print(len(greedy(engine, prompt_of(80))))
"""


def test_a_bf16_model_is_served_without_avx512() -> None:
    """oneDNN refuses bf16 weights there, which was a traceback at start."""
    done = subprocess.run(
        [sys.executable, "-c", _SERVE_BF16],
        env={
            **os.environ,
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["12", "12"]), done.stderr


def test_a_failure_on_the_way_leaves_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers("one", "two")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    pack, calls = PackedLinears._pack, []

    def second_fails(self: Any, layer: nn.Linear) -> None:
        calls.append(layer)
        if len(calls) == 2:
            raise MemoryError
        pack(self, layer)

    monkeypatch.setattr(PackedLinears, "_pack", second_fails)
    with pytest.raises(MemoryError):
        PackedLinears(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_an_engine_packs_what_it_owns_and_gives_it_back() -> None:
    torch.manual_seed(0)
    sizes = {**tiny_models.SIZES, "hidden_size": 256, "intermediate_size": 512}
    sizes["num_attention_heads"] = 4
    model = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = engine_for(model)
    packed = 5 if cpu.packs_linear(torch.float32) else 0  # of a layer; keys and values are small
    assert len(engine._runner._packed) == packed * model.config.num_hidden_layers
    engine.close()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


PEAK = """
import resource
import torch
from longctx.engine.packed import PackedLinears

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

# As loading leaves them: each beside what it was made from.
model = torch.nn.ModuleList()
for _ in range(150):
    half = torch.zeros(768, 768, dtype=torch.bfloat16)
    layer = torch.nn.Linear(768, 768, bias=False)
    layer.weight.data = half.float()
    model.append(layer)
before = peak()
packed = PackedLinears(model)
print(len(packed), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss and malloc_trim as Linux has them")
def test_packing_does_not_double_the_memory() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    layers, megabytes = map(int, done.stdout.split())
    assert layers in (0, 150)
    assert megabytes < 80  # the weights are 338
