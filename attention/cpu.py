"""What this processor computes natively: asked of torch and the processor, never assumed.

A processor without bf16 arithmetic computes bf16 products all the same, by converting every number:
ten times slower than float32, and some of oneDNN's operations refuse. Flags decide, not names and
not timings, which a busy machine would turn. Everything that depends on the processor asks here, so
that a test can put another one in its place. Knows no model.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

# oneDNN computes with no more than this, as its users may ask for ("Run-time CPU dispatcher
# control" in its guide). These have neither bf16 nor fp16 arithmetic.
_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_PLAIN_ISAS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
# Flags that mean products of such numbers, and what people call them; Arm's by the system's names.
_FLAGS = {
    torch.bfloat16: {
        "amx_bf16": "AMX-BF16",
        "avx512_bf16": "AVX512-BF16",
        "avx_ne_convert": "AVX-NE-CONVERT",
        "bf16": "Arm BF16",
    },
    torch.float16: {
        "amx_fp16": "AMX-FP16",
        "avx512_fp16": "AVX512-FP16",
        "avx_ne_convert": "AVX-NE-CONVERT",
        "asimdhp": "Arm FP16",
    },
}
_SUPPORTED = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}
_X86 = ("x86_64", "amd64")
_ARM = ("aarch64", "arm64")


@dataclass(frozen=True)
class Ability:
    """Whether something is there, true or false as a value, and the reason, as a clause."""

    available: bool
    reason: str

    def __bool__(self) -> bool:
        return self.available


def native(dtype: torch.dtype) -> Ability:
    """Whether this processor computes with such numbers itself, and oneDNN makes use of it."""
    name = str(dtype).removeprefix("torch.")
    if dtype not in _FLAGS:
        return Ability(True, f"every processor computes in {name}")
    if not torch.backends.mkldnn.is_available():
        return Ability(False, f"this build of torch has no oneDNN, which {name} products need")
    for variable in _ISA_LIMITS:
        limit = os.environ.get(variable, "").upper()
        if limit in _PLAIN_ISAS:
            return Ability(False, f"{variable}={limit} allows no {name} arithmetic")
    flags = _flags()
    found = [shown for flag, shown in _FLAGS[dtype].items() if flags.get(flag)]
    if not found:
        return Ability(False, f"the processor has no {name} arithmetic")
    supported = getattr(torch.ops.mkldnn, _SUPPORTED[dtype], None)
    if supported is not None and not supported():
        return Ability(False, f"{found[0]} is there, but oneDNN does not use it")
    return Ability(True, found[0])


def native_bf16() -> Ability:
    """`native(torch.bfloat16)`."""
    return native(torch.bfloat16)


@cache
def packs_linear(dtype: torch.dtype) -> Ability:
    """Whether oneDNN keeps the weight of a linear layer in its own layout, in this dtype.

    The library itself is asked, with a small weight: which processors it does this on differs
    from release to release.
    """
    if platform.machine().lower() not in _X86:
        return Ability(False, f"not tried on {platform.machine()}")
    if not torch.backends.mkldnn.is_available():
        return Ability(False, "this build of torch has no oneDNN")
    if dtype not in (torch.float32, torch.bfloat16):
        return Ability(False, f"not for {str(dtype).removeprefix('torch.')}")
    try:
        with torch.inference_mode():
            weight = torch.ones(16, 16, dtype=dtype)
            packed = torch.ops.mkldnn._reorder_linear_weight.default(weight)
            out = torch.ops.mkldnn._linear_pointwise.default(weight, packed, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return Ability(False, f"oneDNN refuses ({str(error).splitlines()[0].strip()})")
    if not bool((out == 16).all()):
        return Ability(False, "oneDNN gives wrong numbers here")
    return Ability(True, "oneDNN")


@cache
def multiplies_int8() -> Ability:
    """Whether oneDNN multiplies bytes, and how exactly. The library itself is asked, with numbers
    as large as there are."""
    if platform.machine().lower() not in _X86:
        return Ability(False, f"not tried on {platform.machine()}")
    if not torch.backends.mkldnn.is_available():
        return Ability(False, "this build of torch has no oneDNN")
    try:
        exact = _int8_is_exact(127)
        if not exact and not _int8_is_exact(64):
            return Ability(False, "oneDNN gives wrong numbers here")
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return Ability(False, f"oneDNN refuses ({str(error).splitlines()[0].strip()})")
    return Ability(True, "oneDNN" if exact else "oneDNN, with 7 bits of the weights")


def largest_int8_weight() -> int:
    """Processors without VNNI add pairs of products in 16 bits, where two of full size saturate."""
    return 64 if "7 bits" in multiplies_int8().reason else 127


def multiplies_tiles() -> bool:
    """Whether oneDNN multiplies bytes by tiles (AMX-INT8): many rows eight times as fast."""
    limited = any(variable in os.environ for variable in _ISA_LIMITS)
    return bool(_flags().get("amx_int8")) and not limited


def _int8_is_exact(largest: int) -> bool:
    rows, width = 2, 64
    x = torch.full((rows, width), 255, dtype=torch.uint8)
    weight = torch.full((16, width), largest, dtype=torch.int8)
    weight[1::2] = -largest
    scale, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    with torch.inference_mode():
        packed = torch.ops.onednn.qlinear_prepack.default(weight, None)
        nothing: Any = (None, 1.0, 0, torch.float32, "none", [], "")
        multiply = torch.ops.onednn.qlinear_pointwise.default
        out = multiply(x, 1.0, 128, packed, scale, zeros, *nothing)
    return bool((out == 127.0 * weight.sum(-1)).all())


def describe() -> str:
    """One clause: architecture, what torch's own kernels use, threads."""
    name = _flags().get("cpu_name")
    return ", ".join(
        (
            *((str(name),) if name else ()),
            platform.machine(),
            torch.backends.cpu.get_cpu_capability(),
            f"{torch.get_num_threads()} threads",
        )
    )


@cache
def _flags() -> Mapping[str, Any]:
    """The processor's features by torch's names; by the system's where torch tells none."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    found: dict[str, Any] = dict(ask()) if ask is not None else {}
    if ask is None or platform.machine().lower() in _ARM:
        found.update(dict.fromkeys(_cpuinfo(), True))
    return found


def _cpuinfo() -> list[str]:
    """Linux names its flags as torch does, on Arm `bf16`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() in ("flags", "Features"):
            return value.split()
    return []
