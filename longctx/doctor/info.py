"""What `longctx info` tells: versions, devices, and what runs on them, each with its reason.

Asks the kernels and the processor themselves; it knows no kernel by name and runs none of them.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata

from longctx import __version__

# Distributions, by the name that `pip list` shows. Metadata is read and nothing is imported: a
# broken flash-attn must not take down the command that is there to diagnose it.
DISTRIBUTIONS = (
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "flash-attn",
    "flash-attn-4",
    "triton",
    "gguf",
    "vllm",
)

# The dtypes that models run in; a kernel may take one and refuse another.
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Device:
    """One place where attention can run."""

    device: str
    detail: str


@dataclass(frozen=True)
class KernelStatus:
    """One kernel on one device in one dtype; `reason` says why not, None where it runs."""

    device: str
    kernel: str
    dtype: str
    available: bool
    reason: str | None


@dataclass(frozen=True)
class AutoChoice:
    """What `kernel="auto"` means on one device in one dtype; None where nothing fast runs."""

    device: str
    dtype: str
    kernel: str | None


@dataclass(frozen=True)
class Feature:
    """Something other than a kernel that a device has or lacks; `reason` is there either way."""

    device: str
    name: str
    dtype: str | None
    available: bool
    reason: str


@dataclass(frozen=True)
class Info:
    """Everything the command prints; `to_json` is this object, field by field."""

    versions: dict[str, str | None]
    devices: list[Device]
    kernels: list[KernelStatus]
    auto: list[AutoChoice]
    features: list[Feature]


def collect(*, processor: bool = True) -> Info:
    """Look at this environment. Imports torch.

    Args:
        processor: ask for the processor's features too, for which oneDNN computes a small product.
    """
    import torch

    from longctx.attention import kernels

    devices = _devices()
    statuses: list[KernelStatus] = []
    auto: list[AutoChoice] = []
    for entry in devices:
        device = torch.device(entry.device)
        for dtype_name in DTYPES:
            dtype = getattr(torch, dtype_name)
            for name in kernels.names():
                reason = kernels.get(name).unavailable(device, dtype)
                statuses.append(
                    KernelStatus(entry.device, name, dtype_name, reason is None, reason)
                )
            try:
                choice = kernels.auto(device, dtype).name
            except ValueError:  # its reasons are the statuses above
                choice = None
            auto.append(AutoChoice(entry.device, dtype_name, choice))
    features = _features() if processor else []
    return Info(versions(), devices, statuses, auto, features)


def to_json(info: Info) -> str:
    """One line for programs."""
    return json.dumps(asdict(info), ensure_ascii=False)


def show(info: Info) -> None:
    """Tables for people, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()

    table = Table("package", "version", box=box.SIMPLE_HEAD)
    for name, version in info.versions.items():
        table.add_row(name, version or "not installed")
    console.print(table)

    table = Table("device", "is", box=box.SIMPLE_HEAD)
    for entry in info.devices:
        # Text, because rich would read a bracketed name as markup.
        table.add_row(entry.device, Text(entry.detail))
    console.print(table)

    chosen = {(choice.device, choice.dtype): choice.kernel for choice in info.auto}
    table = Table("device", "kernel", box=box.SIMPLE_HEAD)
    for column in (*DTYPES, "why not"):
        table.add_column(column)
    cells = {(s.device, s.kernel, s.dtype): s for s in info.kernels}
    for device, kernel in dict.fromkeys((s.device, s.kernel) for s in info.kernels):
        row = [cells[device, kernel, dtype] for dtype in DTYPES]
        marks = [
            "auto" if chosen[device, s.dtype] == kernel else "yes" if s.available else "no"
            for s in row
        ]
        reasons = "; ".join(dict.fromkeys(s.reason for s in row if s.reason))
        table.add_row(device, kernel, *marks, Text(reasons))
    console.print(table)
    console.print(" auto: it runs, and it is the one that kernel=auto picks", highlight=False)

    table = Table("device", "feature", "dtype", "here", "why", box=box.SIMPLE_HEAD)
    for feature in info.features:
        here = "yes" if feature.available else "no"
        table.add_row(feature.device, feature.name, feature.dtype or "", here, Text(feature.reason))
    console.print(table)


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"longctx": __version__, "python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _devices() -> list[Device]:
    import torch

    from longctx.attention import cpu

    devices = [Device("cpu", cpu.describe())]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            Device(
                f"cuda:{index}",
                f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
                f"compute capability {properties.major}.{properties.minor}",
            )
        )
    if torch.backends.mps.is_available():
        devices.append(Device("mps", _apple_gpu()))
    return devices


def _apple_gpu() -> str:
    """What runs there, asked of the kernels: today none does."""
    import torch

    from longctx.attention import kernels

    mps, dtypes = torch.device("mps"), [getattr(torch, name) for name in DTYPES]
    able = [
        name
        for name in kernels.names()
        if any(kernels.get(name).unavailable(mps, dtype) is None for dtype in dtypes)
    ]
    if able:
        return f"Apple GPU, attention kernels: {', '.join(able)}"
    # accelerate counts this device's memory and not the CPU's, so its `auto` places models here.
    return "Apple GPU, no attention kernel runs on it: --device-map auto uses the cpu"


def _features() -> list[Feature]:
    import torch

    from longctx.attention import cpu
    from longctx.attention.native import library
    from longctx.engine import drawing, layer_ops
    from longctx.models import int8_native

    native = cpu.native_bf16()
    features = [Feature("cpu", "native bf16", "bfloat16", native.available, native.reason)]
    loaded = library.load()
    there = not isinstance(loaded, str)
    features.append(Feature("cpu", "native kernel", None, there, str(loaded)))
    drawer = drawing.load()
    features.append(Feature("cpu", "native draws", None, not isinstance(drawer, str), str(drawer)))
    layers = layer_ops.load()
    features.append(Feature("cpu", "native layers", None, not isinstance(layers, str), str(layers)))
    for name in DTYPES:
        packs = cpu.packs_linear(getattr(torch, name))
        features.append(Feature("cpu", "packed linear", name, packs.available, packs.reason))
    int8 = cpu.multiplies_int8()
    features.append(Feature("cpu", "int8 linear", None, int8.available, int8.reason))
    few = int8_native.able()
    features.append(Feature("cpu", "native int8", None, few.available, few.reason))
    return features
