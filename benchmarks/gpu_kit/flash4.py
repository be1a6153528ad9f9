"""Section 6: FlashAttention-4 (flash_attn.cute), where `make gpu-wheels` has brought it along.

May be absent, and may fail. It is held to what the other kernels are held to, and timed beside
torch's.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import gpu_checks
import torch
from gpu_checks import normal

from gpu_kit.kit import Kit
from longctx.attention import kernels
from longctx.attention.kernels.base import Kernel

WHEELS = Path(__file__).resolve().parent.parent.parent / "wheels"


def run(kit: Kit) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _unpack(Path(folder))
        kernel = kernels.get("flash_attn_4")
        reason = kernel.unavailable(kit.device, kit.dtype)
        if reason is not None:
            kit.row("flash_attn_4", "cannot run", note=reason[:300])
        else:
            for name, shape in kit.sizes.shapes.items():
                what = f"{name} {kernel.name}"
                task = partial(
                    gpu_checks.shape_checks,
                    *(what, kernel, shape, kit.sizes.filled, kit.dtype, kit.device),
                )
                kit.attempt_checks(what, task, need_s=3)
            kit.attempt("prefill", partial(timed, kit, kernel), need_s=3)


def _unpack(folder: Path) -> None:
    """Make importable what `make gpu-wheels` has brought."""
    for wheel in sorted(WHEELS.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)
    sys.path.insert(0, str(folder))
    for data in folder.glob("*.data/*lib"):
        sys.path.insert(0, str(data))
    # nvidia-cutlass-dsl keeps its packages a folder deeper and names it in a .pth file.
    for listing in folder.glob("*.pth"):
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("import ", "#")):
                sys.path.insert(0, str(folder / line.strip()))
    importlib.invalidate_caches()


def timed(kit: Kit, kernel: Kernel) -> None:
    length = kit.sizes.lengths[0]
    shape = kit.sizes.shapes["7B"]
    q, k, v = (
        normal(1, heads, length, shape.dim, dtype=kit.dtype, seed=s, device=kit.device)
        for s, heads in enumerate((shape.heads, shape.kv_heads, shape.kv_heads))
    )
    plain = kernels.resolve("auto", kit.device, kit.dtype)
    arms = {
        each.name: [partial(each, q, k, v, causal=True, scale=shape.dim**-0.5)]
        for each in (plain, kernel)
    }
    with torch.inference_mode():
        times = kit.medians_ms(arms, kit.sizes.timed_s)
    flops = 2.0 * shape.heads * shape.dim * length * (length + 1)
    for arm, ms in times.items():
        note = f"{flops / ms / 1e9:.0f} TFLOP/s"
        floor = kit.ceilings().ms_of_flops(flops)
        kit.row(f"7B prefill of {length}, {arm}", ms, "ms", floor, note=note)
