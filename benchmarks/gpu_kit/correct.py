"""Section 1: what machine this is, and whether its numbers are right."""

from __future__ import annotations

import platform
import subprocess
from functools import partial
from typing import Any

import gpu_checks
import gpu_model_checks
import gpu_step_checks
import torch
from packing_kernel import PackingReference

from gpu_kit.kit import Kit
from longctx.attention import kernels


def run(kit: Kit) -> None:
    kit.attempt("environment", partial(environment, kit))
    kit.attempt("ceilings", partial(show_ceilings, kit))
    kit.attempt("kernels", partial(show_kernels, kit))
    found = [each for each, reason in kernels_of(kit) if reason is None]
    for kernel in found:
        check_kernel(kit, kernel)
    device, dtype = kit.device, kit.dtype
    kit.attempt_checks("extend()", partial(gpu_model_checks.drop_in_checks, device, dtype))
    kit.attempt_checks("engine", partial(gpu_model_checks.engine_checks, device, dtype))
    for kernel in found:
        for name, shape in kit.sizes.shapes.items():
            far = partial(
                gpu_checks.far_checks, kernel, shape, kit.sizes.far_elements, dtype, device
            )
            what = f"{name} {kernel.name}, {kit.sizes.far_elements:.1e} numbers"
            kit.attempt_checks(what, far, need_s=8)


def check_kernel(kit: Kit, kernel: Any) -> None:
    """Calls, packed sequences and Dual Chunk steps, at each shape."""
    sizes, device, dtype = kit.sizes, kit.device, kit.dtype
    steps = {
        "ragged decode": gpu_step_checks.ragged(sizes.filled, sizes.fold),
        "block across a border": gpu_step_checks.across_a_border(
            sizes.filled, sizes.fold, sizes.border_queries
        ),
    }
    for shape_name, shape in sizes.shapes.items():
        name = f"{shape_name} {kernel.name}"
        tasks = {
            "calls": partial(
                gpu_checks.shape_checks, name, kernel, shape, sizes.filled, dtype, device
            )
        }
        if gpu_checks.ways_of(kernel, shape.dim):
            for slots in (300, sizes.filled):
                tasks[f"packed, {slots} slots"] = partial(
                    gpu_checks.packing_checks, name, kernel, shape, slots, dtype, device
                )
        for what, rows in steps.items():
            told = f"{name}, {what}, {len(rows)} rows to {sizes.filled}"
            tasks[what] = partial(
                gpu_step_checks.dca_checks, told, kernel, shape, sizes.fold, rows, dtype, device
            )
        for what, task in tasks.items():
            kit.attempt_checks(f"{name}, {what}", task, need_s=2)


def kernels_of(kit: Kit) -> list[tuple[Any, str | None]]:
    """Every kernel but the slow one, and why it does not run; a dry run has one that packs."""
    found: list[Any] = [kernels.get(name) for name in kernels.names() if name != "reference"]
    reasons = [kernel.unavailable(kit.device, kit.dtype) for kernel in found]
    return [*zip(found, reasons, strict=True), *([(PackingReference(), None)] if kit.dry else [])]


def show_kernels(kit: Kit) -> None:
    for kernel, reason in kernels_of(kit):
        runs = "runs" if reason is None else "does not run"
        kit.row(f"kernel {kernel.name}", runs, note=reason or "")


def environment(kit: Kit) -> None:
    import transformers

    about = kit.results.about
    about["python"] = platform.python_version()
    about["torch"] = torch.__version__
    about["transformers"] = transformers.__version__
    about["machine"] = platform.platform()
    if kit.cuda:
        facts = torch.cuda.get_device_properties(kit.device)
        about["device"] = (
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {facts.multi_processor_count} "
            f"multiprocessors, capability {facts.major}.{facts.minor}, CUDA {torch.version.cuda}"
        )
        about["driver"] = _driver()
    else:
        about["device"] = f"cpu, {torch.get_num_threads()} threads"
    for name in ("device", "torch", "transformers", "python"):
        kit.row(name, str(about[name]))


def _driver() -> str:
    query = [
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.sm,clocks.mem",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip() or done.stderr.strip()


def show_ceilings(kit: Kit) -> None:
    kit.results.about.pop("ceilings", None)  # of an earlier run, maybe of another card
    found = kit.ceilings()
    kit.row(f"bf16 product of {kit.sizes.matmul} squared", found.tflops, "TFLOP/s")
    kit.row("copy, bytes read and written", found.gb_s, "GB/s")
