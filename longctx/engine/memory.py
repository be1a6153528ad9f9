"""How much memory keys and values may take where nobody said it: what is free, less one step.

A model over several devices has a budget on each, by the layers that lie there; the tightest one
says how many tokens fit. `longctx plan` asks here too, with a data sheet's numbers. Estimates from
a config's numbers; knows no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from longctx.errors import UserError

_CGROUP = "/sys/fs/cgroup"
# The rest is for fragments, other processes and what an estimate leaves out.
CPU_SHARE, CUDA_SHARE = 0.5, 0.9
# Prompts get so many tokens of a step even where decoding fills the budget.
MIN_PREFILL = 16
# Rows of logits that a step makes of scored prompts: 256 x 152K float32 are 156 MB.
MAX_SCORED = 256
# What a request with penalties holds for each token id until it ends or gives its memory up: a mark
# for those that were seen, and a float32 for what their occurrences cost (`penalties.py`).
PENALTY_BYTES = 1 + 4


class DeviceShare(NamedTuple):
    """What one device has: bytes for keys and values, and so many of the model's layers."""

    left: int
    layers: int


def kv_budget(shares: Sequence[DeviceShare]) -> int:
    """Bytes for the keys and values of all layers together, below 0 where nothing is left.

    Every token takes room on every device, so the one that is full first decides.
    """
    layers = sum(share.layers for share in shares)
    return min(share.left * layers // share.layers for share in shares if share.layers)


def left_on_gpu(total: int, free: int, step: int) -> int:
    """Bytes for keys and values of a GPU on which the weights lie: nine tenths of it may be used.

    Args:
        total, free: bytes of the GPU.
        step: what one step takes beside keys and values.
    """
    return int(free - (1 - CUDA_SHARE) * total - step)


def step_rows(max_running: int) -> int:
    """Rows of logits in one step at most: of requests that draw, and of scored prompts."""
    return max(max_running + MIN_PREFILL, MAX_SCORED)


def step_bytes(config: Any, itemsize: int, tokens: int, logit_rows: int) -> int:
    """Activations of one packed step of `tokens`, and its logits.

    Per token: residual, its norm and a copy in float32; gate, up and their product; queries, keys,
    values and output with their float32 partial sums. Logits are there in the model's dtype, in
    float32, and as probabilities or sorted. Requests hold their penalties: 0.76 MB each at 152K
    ids, 49 MB where 64 run. They are counted for every row of logits, of which there are more than
    requests: 194 MB of the 1.0 GB that such a step of Qwen2-7B takes.
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
    return tokens * per_token + logit_rows * int(config.vocab_size) * (
        itemsize + 16 + PENALTY_BYTES
    )


def default_kv_budget(devices: Sequence[torch.device], step: int) -> int:
    """Bytes for keys and values of all layers: what the devices have beside the weights and a step.

    Args:
        devices: where each layer lies.
        step: bytes of one step's activations and logits, on each of them.

    Raises:
        UserError: nothing is left on one of them.
    """
    shares = []
    for device in dict.fromkeys(devices):
        left, free = _left(device, step)
        if left <= 0:
            raise UserError(
                f"{free} bytes are free on {device}, and one step needs about {step}: lower "
                "chunk_budget or max_running, or free memory"
            )
        shares.append(DeviceShare(left, list(devices).count(device)))
    return kv_budget(shares)


def _left(device: torch.device, step: int) -> tuple[int, int]:
    """Bytes that keys and values may take on a device, and all that are free there."""
    if device.type != "cuda":
        free = free_host_bytes()
        return int((free - step) * CPU_SHARE), free
    # What an engine before this one had is torch's still, and free.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free, total = torch.cuda.mem_get_info(device)
    return left_on_gpu(total, free + kept, step), free + kept


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
