"""The tiny Qwen2 with weights of 4 bits, as AutoGPTQ and AutoAWQ write them, and as what they mean.

A group of 32 inputs shares a scale. Eight values lie in a word: GPTQ packs inputs in their order,
AWQ outputs in the order of `_AWQ_ORDER`. Scales are numbers that bfloat16 and float16 both have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import vllm_helpers
from safetensors.torch import load_file, save_file

GROUP, BITS, MIDDLE = 32, 4, 8
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"bits": BITS, "group_size": GROUP, "desc_act": False, "sym": True},
    "awq": {"bits": BITS, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}


def save_models(directory: Path) -> dict[str, Path]:
    """By format, and "plain": the same numbers as ordinary weights."""
    kinds = {kind: directory / kind for kind in ("plain", *CONFIGS)}
    for kind, place in kinds.items():
        place.mkdir()
        vllm_helpers.save_model(place)
        file = place / "model.safetensors"
        made: dict[str, torch.Tensor] = {}
        for name, weight in load_file(file).items():
            if ".layers." in name and name.endswith("proj.weight"):
                made |= _written(kind, name.removesuffix("weight"), weight)
            else:
                made[name] = weight
        save_file({name: each.contiguous() for name, each in made.items()}, file, {"format": "pt"})
        if kind in CONFIGS:
            config = json.loads((place / "config.json").read_text(encoding="utf-8"))
            config["quantization_config"] = {"quant_method": kind, **CONFIGS[kind]}
            (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return kinds


def _written(kind: str, name: str, weight_OI: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs, inputs = weight_OI.shape
    groups = inputs // GROUP
    weight_GSO = weight_OI.T.reshape(groups, GROUP, outputs)
    scale_G1O = (weight_GSO.abs().amax(1, keepdim=True) / 7).bfloat16().float()
    code_GSO = (weight_GSO / scale_G1O).round().clamp(-MIDDLE, MIDDLE - 1) + MIDDLE
    if kind == "plain":
        return {name + "weight": ((code_GSO - MIDDLE) * scale_G1O).reshape(inputs, outputs).T}
    code_IO = code_GSO.reshape(inputs, outputs).long()
    made = {name + "scales": scale_G1O[:, 0].half()}
    zero_GO = torch.full((groups, outputs), MIDDLE)
    if kind == "awq":
        return made | {
            name + "qweight": _words(code_IO, 1, _AWQ_ORDER),
            name + "qzeros": _words(zero_GO, 1, _AWQ_ORDER),
        }
    return made | {
        name + "qweight": _words(code_IO, 0, tuple(range(8))),
        name + "qzeros": _words(zero_GO - 1, 1, tuple(range(8))),  # as its first version writes it
        name + "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def _words(codes: torch.Tensor, along: int, order: tuple[int, ...]) -> torch.Tensor:
    """int32, an eighth as many along a dimension; the first of `order` lies in the lowest bits."""
    codes = codes.movedim(along, -1)
    parts = codes.reshape(*codes.shape[:-1], -1, 8)
    word = sum(parts[..., index] << (BITS * at) for at, index in enumerate(order))
    signed = torch.where(word >= 2**31, word - 2**32, word)
    return signed.to(torch.int32).movedim(-1, along)
