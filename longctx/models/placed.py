"""The placement of a model that is about to be loaded onto the GPUs of this machine.

transformers' own `device_map="auto"` balances weights alone: of 72B on eight GPUs one gets the head
and no layer, and the others hold twelve. Keys and values lie with their layers, so that is what
limits the context; here the layers go where most tokens fit, as `longctx plan` says.
"""

from __future__ import annotations

from typing import Any

import torch

from longctx.engine.memory import CUDA_SHARE, step_bytes, step_rows
from longctx.models.parameters import count_parameters
from longctx.models.placement import Sizes, device_map, spread
from longctx.options.engine import EngineSettings


def over_gpus(name: str, config: Any, dtype: torch.dtype) -> dict[str, int] | str:
    """What `--device-map auto` means here: a map by module, or "auto" where transformers decides:
    on fewer than two GPUs, for packed weights and unknown parts, and where weights must be
    offloaded."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2 or getattr(config, "quantization_config", None):
        return "auto"
    from transformers import AutoModelForCausalLM

    counted = count_parameters(name, config, "bf16")
    wide = dtype.itemsize / 2
    layers, heads = int(config.num_hidden_layers), int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    sizes = Sizes(
        layers,
        int((counted.bytes - counted.first - counted.last) * wide) // layers,
        int(counted.first * wide),
        int(counted.last * wide),
        2 * kv_heads * head_dim * dtype.itemsize,
    )
    usable = []
    for number in range(count):
        free, total = torch.cuda.mem_get_info(number)
        usable.append(int(free - (1 - CUDA_SHARE) * total))
    rows = step_rows(EngineSettings.max_running)
    step = step_bytes(config, dtype.itemsize, EngineSettings.chunk_budget, rows)
    devices = spread(sizes, usable, step)
    if devices is None:
        return "auto"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return device_map(model, [device.layers for device in devices], tied=tied) or "auto"
