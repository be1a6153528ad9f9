"""Section 6: FlashAttention-4 (flash_attn.cute), where `make gpu-wheels` has brought it along.

May be absent, and may fail: nothing of longctx uses it yet. It is held to what the other kernels
are held to, and timed beside torch's.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_checks
import torch
from gpu_checks import normal

from gpu_kit.kit import Kit
from longctx.attention import kernels
from longctx.attention.kernels.base import Partial, check_shapes, empty_partial

WHEELS = Path(__file__).resolve().parent.parent.parent / "wheels"


class Flash4Kernel:
    """The package's function behind the kernels' interface."""

    name = "flash_attn.cute"

    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None if device.type == "cuda" else f"runs on cuda, not on {device.type}"

    def __call__(
        self,
        q_BHLD: torch.Tensor,
        k_BKMD: torch.Tensor,
        v_BKMD: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> Partial:
        check_shapes(q_BHLD, k_BKMD, v_BKMD, causal)
        if q_BHLD.numel() == 0 or k_BKMD.shape[2] == 0:
            return empty_partial(q_BHLD)
        q, k, v = (x.transpose(1, 2) for x in (q_BHLD, k_BKMD, v_BKMD))
        out_BLHD, lse_BHL, *_ = self._attend(
            q, k, v, softmax_scale=scale, causal=causal, return_lse=True
        )
        return Partial(out_BLHD.transpose(1, 2), lse_BHL)


def run(kit: Kit) -> None:
    with tempfile.TemporaryDirectory() as folder:
        attend = _load(kit, Path(folder))
        if attend is not None:
            kernel = Flash4Kernel(attend)
            for name, shape in kit.sizes.shapes.items():
                what = f"{name} {kernel.name}"
                task = partial(
                    gpu_checks.shape_checks,
                    *(what, kernel, shape, kit.sizes.filled, kit.dtype, kit.device),
                )
                kit.attempt_checks(what, task, need_s=3)
            kit.attempt("prefill", partial(timed, kit, kernel), need_s=3)


def _load(kit: Kit, folder: Path) -> Callable[..., Any] | None:
    """The function; None, with a row that says why, where it cannot be imported."""
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
    try:
        return importlib.import_module("flash_attn.cute").flash_attn_func  # type: ignore[no-any-return]
    except Exception as error:
        note = f"{type(error).__name__}: {str(error)[:300]}"
        kit.row("flash_attn.cute", "cannot be imported", note=note)
        return None


def timed(kit: Kit, kernel: Flash4Kernel) -> None:
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
