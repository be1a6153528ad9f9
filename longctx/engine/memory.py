"""How much memory keys and values may take where nobody said it: what is free, less one step.

Estimates from a config's numbers; knows no request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from longctx.errors import UserError

_CGROUP = "/sys/fs/cgroup"
# The rest is for fragments, other processes and what an estimate leaves out.
CPU_SHARE, CUDA_SHARE = 0.5, 0.9


def step_bytes(config: Any, itemsize: int, tokens: int, logit_rows: int) -> int:
    """Activations of one packed step of `tokens`, and its logits.

    Per token: residual, its norm and a copy in float32; gate, up and their product; queries, keys,
    values and output with their float32 partial sums. Logits are there in the model's dtype, in
    float32, and as probabilities or sorted.
    """
    hidden = int(config.hidden_size)
    wide = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    experts = int(getattr(config, "num_experts_per_tok", None) or 0)
    if experts:
        shared = int(getattr(config, "shared_expert_intermediate_size", None) or 0)
        wide = experts * int(getattr(config, "moe_intermediate_size", None) or wide) + shared
    heads = int(config.num_attention_heads)
    attention = heads * int(getattr(config, "head_dim", None) or hidden // heads)
    per_token = itemsize * (3 * hidden + 3 * wide + 4 * attention) + 4 * (
        2 * hidden + 3 * attention
    )
    return tokens * per_token + logit_rows * int(config.vocab_size) * (itemsize + 16)


def default_kv_budget(device: torch.device, step: int) -> int:
    """Bytes: half of what the machine has free, or nine tenths of what the GPU has, after a step.

    Raises:
        UserError: nothing is left.
    """
    if device.type == "cuda":
        # What an engine before this one had is torch's still, and free.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free, share = torch.cuda.mem_get_info(device)[0] + kept, CUDA_SHARE
    else:
        free, share = free_host_bytes(), CPU_SHARE
    budget = int((free - step) * share)
    if budget <= 0:
        raise UserError(
            f"{free} bytes are free on {device.type}, and one step needs about {step}: lower "
            "chunk_budget or max_running, or free memory"
        )
    return budget


def free_host_bytes() -> int:
    """What the system calls available, or what the container's limit leaves, if that is less."""
    free = int(psutil.virtual_memory().available)
    limit, used = _number(f"{_CGROUP}/memory.max"), _number(f"{_CGROUP}/memory.current")
    if limit is None or used is None:
        return free
    # The page cache counts as used, and yields.
    cache = _number(f"{_CGROUP}/memory.stat", "inactive_file") or 0
    return min(free, max(0, limit - used + cache))


def _number(path: str, label: str | None = None) -> int | None:
    """The number in a file, behind a label at the start of a line; None where there is none."""
    try:
        rows = [row.split() for row in Path(path).read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    for row in rows:
        if label is None or row[:1] == [label]:
            value = row[-1] if label is None else row[1]
            return int(value) if value.isdigit() else None  # no limit is "max"
    return None
