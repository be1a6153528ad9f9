"""Layers over GPUs: where most tokens fit, as planned, as loaded, as the engine finds them."""

from __future__ import annotations

import itertools
from typing import Any

import fake_cuda_models
import pytest
import torch
from fake_cuda import FakeCuda
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from longctx.engine import Engine, memory
from longctx.errors import UserError
from longctx.models import plan as planning
from longctx.models import qwen2
from longctx.models.placed import over_gpus
from longctx.models.placement import Sizes, device_map, spread
from longctx.options.engine import EngineSettings

GiB = 1 << 30
TOTAL = int(79.6 * GiB)


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("sizes", [Sizes(7, 10, 25, 11, 1), Sizes(6, 10, 0, 40, 3)])
def test_no_other_way_holds_more_tokens(sizes: Sizes, gpus: int) -> None:
    usable = [200, 140, 170][:gpus]

    def tokens(counts: Any) -> int:
        """Of one placement; below 0 where the weights do not fit."""
        ends = [sizes.first, *[0] * (gpus - 2), sizes.last]
        ends = [sizes.first + sizes.last] if gpus == 1 else ends
        lefts = [
            room - 5 - end - count * sizes.layer
            for room, end, count in zip(usable, ends, counts, strict=True)
        ]
        if min(lefts) < 0:
            return -1
        return min(
            left // (count * sizes.kv_layer)
            for left, count in zip(lefts, counts, strict=True)
            if count
        )

    every = itertools.product(range(sizes.layers + 1), repeat=gpus)
    best = max(tokens(counts) for counts in every if sum(counts) == sizes.layers)
    found = spread(sizes, usable, 5)
    assert found is not None
    assert tokens([device.layers for device in found]) == best
    shares = [memory.DeviceShare(device.left, device.layers) for device in found]
    assert memory.kv_budget(shares) // (sizes.layers * sizes.kv_layer) == best
    assert spread(sizes, [40] * gpus, 5) is None


def config_of(name: str) -> Any:
    member = qwen2.find(name)
    assert member is not None
    made = member.config()
    return AutoConfig.for_model(made.pop("model_type"), **made)


@pytest.mark.parametrize("name", ["Qwen2-7B", "Qwen2-57B-A14B", "Qwen2-72B"])
def test_plan_and_engine_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's numbers: what is free where the weights lie as they are loaded."""
    config = config_of(name)
    rows = memory.step_rows(EngineSettings.max_running)
    planned = planning.model_of(
        name,
        config,
        context=32 * 1024,
        weights="bf16",
        step_tokens=EngineSettings.chunk_budget,
        logit_rows=rows,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    step = memory.step_bytes(config, 2, EngineSettings.chunk_budget, rows)
    for count in (1, 2, 4, 8):
        gpus = planning.Gpus(count, 80)
        option = planning.options_for(planned, gpus)[0 if count == 1 else 1]
        where: Any = {"": 0}
        if count > 1:
            with FakeCuda(count):
                monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _=0: (TOTAL, TOTAL))
                where = over_gpus(name, config, torch.bfloat16)
            monkeypatch.undo()
        weights = dict.fromkeys(range(count), 0)
        layers: dict[int, set[str]] = {device: set() for device in range(count)}
        for path, parameter in model.named_parameters() if where != "auto" else ():
            parts = path.split(".")
            device = next(
                where[key]
                for depth in range(len(parts) + 1)
                if (key := ".".join(parts[:depth])) in where
            )
            weights[device] += 2 * parameter.numel()
            if "layers" in parts:
                layers[device].add(parts[2])
        free = {device: TOTAL - size for device, size in weights.items()}
        shares = [
            memory.DeviceShare(memory.left_on_gpu(TOTAL, free[n], step), len(layers[n]))
            for n in range(count)
        ]
        if where == "auto" or min(share.left for share in shares) <= 0:
            assert option.longest == 0, (name, count)  # the weights alone do not fit
            continue
        tokens = memory.kv_budget(shares) // planned.kv_bytes_per_token
        assert tokens == pytest.approx(option.longest, rel=0.05), (name, count)
        assert option.longest > 0


def test_each_of_two_gpus_has_its_own_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 layers on two GPUs, of which the second has less to spare."""
    free = {0: 700_000_000, 1: 500_000_000}
    with FakeCuda(2) as cuda:
        model = fake_cuda_models.place(fake_cuda_models.build(), cuda.devices)
        told = lambda device=0: (free[torch.device(device).index], 1_000_000_000)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "mem_get_info", told)
        with Engine(model) as engine:
            runner = engine._runner
            assert [device.index for device in runner.layer_devices] == [0, 0, 1, 1]
            step = runner.step_bytes(EngineSettings.chunk_budget, 256)
            # The second holds half of every token's keys and values, and 500 MB less a tenth.
            want = 2 * (400_000_000 - step)
            assert engine.stats().kv_budget_bytes == pytest.approx(want, abs=4)
        free[1] = 100_000_000
        with pytest.raises(UserError, match="bytes are free on cuda:1, and one step needs"):
            Engine(model)


@pytest.mark.parametrize("tied", [False, True])
def test_models_are_loaded_where_most_tokens_fit(tied: bool) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2000}
    config = Qwen2Config(**sizes, **heads, tie_word_embeddings=tied)
    with FakeCuda(2):
        where = over_gpus("x", config, torch.bfloat16)
    with FakeCuda(1):
        assert over_gpus("x", config, torch.bfloat16) == "auto"
    assert over_gpus("x", config, torch.bfloat16) == "auto"
    assert isinstance(where, dict)
    assert where["model.embed_tokens"] == where["model.rotary_emb"] == 0
    assert (where["model.norm"], where["lm_head"]) == (1, 0 if tied else 1)
    assert [where[f"model.layers.{n}"] for n in range(6)] == [0, 0, 0, 1, 1, 1]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert device_map(model, [3, 3], tied=tied) == where
    model.other = torch.nn.Linear(1, 1)
    assert device_map(model, [3, 3], tied=tied) is None
