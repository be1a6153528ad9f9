"""Host numbers to a device, without waiting for what the device is at.

A copy from ordinary memory waits until all earlier work of the device is done; in the middle of a
step that is work which the host should be running ahead of.
"""

from __future__ import annotations

import torch


def upload(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`host` on `device`; itself where that is the host."""
    if device.type == "cuda" and torch.cuda.is_available():
        # Pinned memory is not used again before the copy is done: torch's allocator sees to it.
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)
