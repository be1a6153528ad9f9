"""Kernels with a known mistake, which `longctx doctor` has to find: each named by its mistake."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from typing import Any

import torch

from longctx.attention.kernels.base import Partial
from longctx.attention.kernels.torch_cpu import TorchCpuKernel


class Right(TorchCpuKernel):
    """No mistake, but it talks where the child's own lines go."""

    def __call__(self, *tensors: torch.Tensor, **how: Any) -> Partial:
        print('a library\'s words\n["and a list"]', flush=True)
        return super().__call__(*tensors, **how)


class ScaledKeys(TorchCpuKernel):
    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> Partial:
        return super().__call__(q, k * 1.1, v, **how)


class Base2(TorchCpuKernel):
    def __call__(self, *tensors: torch.Tensor, **how: Any) -> Partial:
        found = super().__call__(*tensors, **how)
        return found._replace(lse_BHL=found.lse_BHL / math.log(2))


class NotANumber(TorchCpuKernel):
    """In one number of one case."""

    def __call__(self, *tensors: torch.Tensor, **how: Any) -> Partial:
        found = super().__call__(*tensors, **how)
        if found.out_BHLD.shape[1:3] == (3, 33):
            found.out_BHLD[0, 2, 32, 0] = torch.nan
        return found


class AbortsInBf16(TorchCpuKernel):
    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> Partial:
        if q.dtype == torch.bfloat16 and q.shape[2] == 1:
            os.abort()
        return super().__call__(q, k, v, **how)


class Segfaults(TorchCpuKernel):
    def __call__(self, *tensors: torch.Tensor, **how: Any) -> Partial:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError("unreachable")


class Hangs(TorchCpuKernel):
    def __call__(self, *tensors: torch.Tensor, **how: Any) -> Partial:
        time.sleep(600)
        raise AssertionError("unreachable")


class RaisesInBf16(TorchCpuKernel):
    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> Partial:
        if q.dtype == torch.bfloat16:
            raise RuntimeError("no such\ninstruction")
        return super().__call__(q, k, v, **how)


class Quits(TorchCpuKernel):
    def __call__(self, *tensors: torch.Tensor, **how: Any) -> Partial:
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)


class UnanswerableKernel(TorchCpuKernel):
    """Dies when it is asked whether it runs."""

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        os.abort()


def kernel_on_a_bad_processor() -> TorchCpuKernel:
    """A right kernel, where asking oneDNN is an illegal instruction."""
    from longctx.attention import cpu

    cpu.packs_linear = lambda dtype: os.kill(os.getpid(), signal.SIGILL)  # type: ignore[assignment]
    return TorchCpuKernel()


def packs_nothing(layers: torch.nn.Module) -> list[torch.nn.Module]:
    return []


def packs_twice_the_weight(layers: torch.nn.Module) -> list[torch.nn.Module]:
    for parameter in layers.parameters():
        parameter.mul_(2)
    return list(layers.children())
