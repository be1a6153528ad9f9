"""The drop-in on one GPU and on two, without any: where its tensors lie, when the host waits.

The model's own code runs on tensors that say they are on a GPU (tests/support/fake_cuda.py), by the
kernel that `auto` picks there. What is computed is compared with the same model on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from typing import Any

import fake_cuda_models
import pytest
import tiny_models
import torch
from dropin_helpers import ARGUMENTS
from fake_cuda import FakeCuda, real
from transformers import StaticCache

from longctx.attention import extend, kernels
from longctx.attention.chunks import Turns
from longctx.attention.config import DCA_METHODS
from longctx.attention.positions import ChunkMap
from longctx.attention.step import Run, StepRow, attend_step, plan_step

IDS = torch.randint(1, 97, (2, 150), generator=torch.Generator().manual_seed(5))
LEFT = torch.ones_like(IDS)
LEFT[1, :37] = 0
HOLES = LEFT.clone()
HOLES[0, 70:75] = 0
MANY = LEFT.clone()
MANY[0, 20:120:5] = 0  # so many that keys are copied without them

PADDING = "longctx.attention.padding."
MASK_READ = ("read", PADDING + "_real_tokens")
POSITIONS_TO_DEVICE = ("upload", PADDING + "read_padding")
PROMPT_READ = ("read", "longctx.attention.hf.prompt_length.prompt_lengths")  # for its temperature

# How often the host waits for a device in one forward of Dual Chunk Attention, and who asks for it.
# All of it is before the layers, and only where a mask or a StaticCache has to be read.
OUTSIDE: dict[str, dict[tuple[str, str], int]] = {
    "prompt": {},
    "decode": {},
    "block": {},
    **{
        name + then: {MASK_READ: 1, POSITIONS_TO_DEVICE: 1}
        for name in ("left padding", "holes", "many holes")
        for then in ("", ", decode")
    },
    "static": {},
    # Its length lies on the device.
    "static, decode": {("read", "longctx.attention.hf.handle.Handle._before_forward"): 1},
    # Three tokens: transformers hands over positions on the device, which are checked.
    "generate": {("read", PADDING + "_check_positions"): 3},
    "generate, padded": {
        MASK_READ: 3,
        ("read", PADDING + "_check_positions"): 3,
        POSITIONS_TO_DEVICE: 3,
    },
}


Answers = Generator[tuple[str, torch.Tensor], None, None]


def outside(name: str, method: str) -> dict[tuple[str, str], int]:
    """What is expected of a method; the plain ones are transformers' own code."""
    if method not in DCA_METHODS:
        return {}
    more = {PROMPT_READ: 1} if method == "yarn+dca" and name.startswith("generate") else {}
    return {**OUTSIDE[name], **more}


def answers(model: Any, method: str, device: str, kernel: str = "auto") -> Answers:
    """Everything that OUTSIDE lists, on one model."""
    ids, left, holes, many = (x.to(device) for x in (IDS, LEFT, HOLES, MANY))
    with extend(model, method, kernel=kernel, **ARGUMENTS[method]) as handle, torch.no_grad():
        if method in DCA_METHODS and kernel == "auto":
            assert (handle.kernel_name == "torch_cuda") is (device != "cpu")
        with handle.request(IDS.shape[1]):
            yield from _forwards(
                model, ids, {"left padding": left, "holes": holes, "many holes": many}
            )
        for name, more in (("generate", {}), ("generate, padded", {"attention_mask": left})):
            some = ids if more else ids[:1]
            torch.manual_seed(1)
            yield name, model.generate(some, max_new_tokens=3, do_sample=bool(more), **more)


def _forwards(model: Any, ids: torch.Tensor, masks: dict[str, torch.Tensor]) -> Answers:
    yield "prompt", (out := model(ids[:, :-8])).logits
    cache = tiny_models.kv(tiny_models.made_by(out))
    yield "decode", model(ids[:, -8:-7], **cache).logits
    yield "block", model(ids[:, -7:], **cache).logits
    for name, mask in masks.items():
        out = model(ids[:, :-1], attention_mask=mask[:, :-1])
        yield name, out.logits * mask[:, :-1, None].to(out.logits.device)
        cache = tiny_models.kv(tiny_models.made_by(out))
        yield name + ", decode", model(ids[:, -1:], attention_mask=mask, **cache).logits
    cache = tiny_models.kv(StaticCache(model.config, max_cache_len=200))
    yield "static", model(ids[:, :-1], **cache).logits
    yield "static, decode", model(ids[:, -1:], **cache).logits


def check(model: Any, on_cpu: Any, method: str, devices: int, kernel: str = "auto") -> FakeCuda:
    """Run both, compare, and count who of longctx made the host wait."""
    expected = list(answers(on_cpu, method, "cpu"))
    with FakeCuda(devices) as cuda, closing(answers(model, method, "cuda:0", kernel)) as found:
        fake_cuda_models.place(model, cuda.devices)
        for name, want in expected:
            with cuda.during() as waits:
                _, got = next(found)
            assert got.device == cuda.devices[0]  # by the hooks, wherever it was computed
            if method not in DCA_METHODS:  # the very same operators
                assert torch.equal(real(got), want), name
            elif got.is_floating_point():
                off = (real(got).float() - want.float()).norm() / want.float().norm()
                assert off < 0.03, f"{name}: {off}"
            ours = [wait for wait in waits if wait.place.startswith("longctx.")]
            assert not [wait for wait in ours if wait.inside], name
            assert Counter((wait.kind, wait.place) for wait in ours) == outside(name, method), name
    return cuda


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("method", ARGUMENTS)
def test_dense(method: str, devices: int) -> None:
    cuda = check(fake_cuda_models.build(), fake_cuda_models.build(), method, devices)
    assert not cuda.of("read", inside=True)
    # transformers puts an empty StaticCache on the device in its first forward.
    places = {wait.place for wait in cuda.of("upload", inside=True)}
    assert places == {"transformers.cache_utils.StaticLayer.lazy_initialization"}


@pytest.mark.parametrize("devices", [1, 2])
def test_a_kernel_of_packed_sequences(devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packing = fake_cuda_models.PackingOnDevice()
    monkeypatch.setitem(kernels._KERNELS, packing.name, packing)
    models = fake_cuda_models.build(), fake_cuda_models.build()
    cuda = check(*models, "yarn+dca", devices, packing.name)
    assert packing.calls
    assert not cuda.of("read", inside=True)


@pytest.mark.parametrize("experts", [None, "batched_mm"])
@pytest.mark.parametrize("devices", [1, 2])
def test_experts(devices: int, experts: str | None) -> None:
    """By default transformers computes them in groups, whose sizes stay on the device."""
    model, on_cpu = (fake_cuda_models.build("qwen2_moe", experts) for _ in range(2))
    assert model.config._experts_implementation == (experts or "grouped_mm")
    cuda = check(model, on_cpu, "yarn+dca", devices)
    assert not cuda.of("read", inside=True)


def test_the_loop_over_experts_reads_in_every_layer() -> None:
    """What `experts_implementation="eager"` costs; none of it is ours."""
    model = fake_cuda_models.build("qwen2_moe", "eager")
    with FakeCuda() as cuda, torch.no_grad():
        fake_cuda_models.place(model, cuda.devices)
        with extend(model, "dca", **ARGUMENTS["dca"]):
            model(IDS.to("cuda:0"))
    reads = cuda.of("read", inside=True)
    assert {wait.place for wait in reads} == {
        "transformers.models.qwen2_moe.modeling_qwen2_moe.Qwen2MoeExperts.forward"
    }
    # Which experts are hit; of each of four: whether it is the last, its tokens, its two weights.
    asked = {"nonzero": 1 + 4, "_local_scalar_dense": 4 * 4}
    for layer in range(fake_cuda_models.LAYERS):
        assert Counter(wait.op for wait in reads if wait.layer == layer) == asked


def test_a_row_with_gaps_brings_its_columns_once() -> None:
    """A prompt's block of one row beside another's token, in two layers of the second GPU."""
    apart = (*range(5), *range(9, 60))
    rows = [
        StepRow(0, len(apart), (Run(0, 0, len(apart), 0),), 1.2, columns=apart),
        StepRow(40, 1, (Run(0, 0, 41, 100),), columns=slice(7, 8)),
    ]
    with FakeCuda(2) as cuda:
        where = cuda.devices[1]
        plan = plan_step(rows, Turns(ChunkMap(32, 8), torch.rand(8, device=where)))
        kernel = kernels.resolve("auto", where, torch.bfloat16)
        q_BHLD = torch.ones(1, 6, 60, 16, dtype=torch.bfloat16, device=where)
        kv_BKMD = torch.ones(1, 2, 150, 16, dtype=torch.bfloat16, device=where)
        for _ in range(2):
            out_BLHD = attend_step(plan, q_BHLD, [kv_BKMD], [kv_BKMD], kernel, 0.25)
    assert out_BLHD.device == where and not cuda.waits
    assert real(out_BLHD)[0, :, 0, 0].tolist() == [n in (7, *apart) for n in range(60)]
