"""The attention kernels, by name, and which one `auto` picks for a device.

The kernel asked for is the kernel used: `get` and `auto` never fall back without a word.
"""

from __future__ import annotations

import warnings

import torch

from longctx.attention.kernels.base import BROKEN, Kernel, Partial
from longctx.attention.kernels.flash_attn import FlashAttnKernel
from longctx.attention.kernels.flash_attn_4 import FlashAttn4Kernel
from longctx.attention.kernels.native import NativeKernel
from longctx.attention.kernels.reference import ReferenceKernel
from longctx.attention.kernels.torch_cpu import TorchCpuKernel
from longctx.attention.kernels.torch_cuda import TorchCudaKernel

__all__ = ["Kernel", "Partial", "auto", "get", "names", "resolve"]

# In the order in which `auto` prefers them.
_FAST: tuple[Kernel, ...] = (
    FlashAttnKernel(),
    TorchCudaKernel(),
    NativeKernel(),
    TorchCpuKernel(),
)
# Run where they are asked for by name: `auto` never picks them.
_BY_NAME: tuple[Kernel, ...] = (FlashAttn4Kernel(), ReferenceKernel())
_KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (*_FAST, *_BY_NAME)}


def names() -> list[str]:
    """Every kernel's name, in the order in which `auto` prefers them, then those it never picks."""
    return list(_KERNELS)


def get(name: str) -> Kernel:
    """The kernel called `name`.

    Raises:
        ValueError: there is no such kernel; the message lists those there are.
    """
    if name not in _KERNELS:
        raise ValueError(f"kernel={name!r} is unknown: choose auto or one of {', '.join(names())}")
    return _KERNELS[name]


def auto(device: torch.device, dtype: torch.dtype) -> Kernel:
    """The fastest kernel that runs there; never one that is slow on purpose, as the reference.

    A kernel whose package is installed but broken is passed over with a warning: a slower path
    must not be silent.

    Raises:
        ValueError: none runs there; the message gives every kernel's reason.
    """
    reasons = []
    for kernel in _FAST:
        reason = kernel.unavailable(device, dtype)
        if reason is None:
            return kernel
        if BROKEN in reason:
            warnings.warn(f"{kernel.name} {reason}", RuntimeWarning, stacklevel=2)
        reasons.append(f"{kernel.name} {reason}")
    raise ValueError(
        f"no fast kernel for {dtype} on {device.type}: {'; '.join(reasons)}; "
        "cast the model, or ask for kernel='reference'"
    )


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel `name` ("auto" included) for tensors of `dtype` on `device`.

    Raises:
        ValueError: unknown name, or a kernel that cannot run there, with the reason and the
            kernels that can.
    """
    if name == "auto":
        return auto(device, dtype)
    kernel = get(name)
    reason = kernel.unavailable(device, dtype)
    if reason is not None:
        usable = [n for n, k in _KERNELS.items() if k.unavailable(device, dtype) is None]
        raise ValueError(
            f"kernel={name!r} cannot run for {dtype} on {device.type}: {reason}; "
            f"usable there: {', '.join(usable)}"
        )
    return kernel
