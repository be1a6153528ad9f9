"""How much memory keys and values may take where nobody said it."""

from __future__ import annotations

import os

import torch

# The rest is for activations, logits and whatever else runs there.
CPU_SHARE, CUDA_SHARE = 0.5, 0.8


def default_kv_budget(device: torch.device) -> int:
    """Bytes: half of what the machine has free, or four fifths of what the GPU has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * CUDA_SHARE)
    return int(_free_host_bytes() * CPU_SHARE)


def _free_host_bytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
