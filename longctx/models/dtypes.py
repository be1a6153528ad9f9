"""The numbers a model is computed in: what was asked for, or what fits checkpoint and processor.

    auto on CUDA    the checkpoint's
    auto on a CPU   the checkpoint's where the processor computes in it, else float32 where that
                    fits the memory; float16 always becomes float32
    auto in a run folder that has records     the folder's own

Emulated numbers are right but slow, so that nothing here is an error; `note` says what a person
has to know. Loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from longctx.attention import cpu, kernels
from longctx.attention.native import library
from longctx.engine.memory import free_host_bytes
from longctx.errors import UserError
from longctx.models.plan import WEIGHTS_SHARE
from longctx.models.quantize import planned_bytes
from longctx.models.source import DTYPES, Source
from longctx.options.shared import AUTO, PLAIN, check_kv_dtype

_GIB = 1 << 30


@dataclass(frozen=True)
class DtypeChoice:
    """What was chosen.

    Attributes:
        dtype: of weights and activations.
        note: what to tell, None where the choice is the plain one.
        widened: float32 stands in for the checkpoint's bfloat16, because of this machine.
        others: dtypes that the same command would choose on other machines.
    """

    dtype: torch.dtype
    note: str | None = None
    widened: bool = False
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return name_of(self.dtype)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def named(name: str, flag: str = "--dtype") -> torch.dtype | None:
    """The dtype of that name; None for `auto`.

    Raises:
        UserError: a name that is no dtype.
    """
    if name not in DTYPES:
        raise UserError(f"{flag} {name}: not known: use one of {', '.join(DTYPES)}")
    return None if name == "auto" else getattr(torch, name)


def kept(name: str, device: str, computed: torch.dtype) -> torch.dtype:
    """Settle `--kv-dtype`: what keys and values are kept in.

    Args:
        device: "cpu" or "cuda".
        computed: of the model, which `auto` takes.

    Raises:
        UserError: a name that is no dtype, or one that keys cannot be read in there.
    """
    check_kv_dtype(name)
    if name == "int8" and device != "cpu":
        raise UserError(
            f"--kv-dtype int8: keys and values of a byte a number are read on a CPU, not on "
            f"{device}: leave it out, or use bfloat16 or float16"
        )
    return computed if name == AUTO else getattr(torch, name)


def computes(kept: torch.dtype, computed: torch.dtype) -> torch.dtype:
    """What attention over such keys is computed in, by a model of `computed`."""
    return computed if kept == torch.int8 else kept


def kept_in_fingerprint(model: str, kept: torch.dtype, computed: torch.dtype) -> str:
    """A model's fingerprint, with that in it where answers are others by it."""
    return model if kept == computed else f"{model} (keys in {name_of(kept)})"


def choose(
    name: str,
    source: Source,
    config: PretrainedConfig,
    device: str,
    folder: Path | None = None,
    quantize: str = PLAIN,
) -> DtypeChoice:
    """Settle `--dtype`.

    Args:
        device: "cpu" or "cuda".
        folder: where the run goes on; with `auto` it keeps what it has.
        quantize: as it was asked for: less has to fit.

    Raises:
        UserError: a name that is no dtype.
    """
    asked = named(name)
    if asked is not None:
        return DtypeChoice(asked, _emulated(asked) if device == "cpu" else None)
    chosen = _auto(source, config, device, quantize)
    before = None if folder is None else _in_folder(folder)
    if before is None or before == chosen.name:
        return chosen
    kept: torch.dtype = getattr(torch, before)
    note = f"{before}, as in the run folder; alone this machine would take {chosen.name}"
    emulated = _emulated(kept) if device == "cpu" else None
    return DtypeChoice(kept, f"{note}; {emulated}" if emulated else note)


def linear_words(dtype: torch.dtype, device: str) -> str | None:
    """How a CPU's linear layers are computed, and why; None on a GPU."""
    if device != "cpu":
        return None
    ability = cpu.packs_linear(dtype)
    return f"linear layers {'packed by' if ability else 'plain:'} {ability.reason}"


def kernel_words(kernel: str, dtype: torch.dtype, device: str) -> str | None:
    """How a CPU's decoded tokens attend, or why not by the library; None where nobody would ask.

    Args:
        kernel: what runs.
        dtype: of keys and values.
    """
    native = kernels.get("native")
    if device != "cpu" or kernel not in (native.name, "torch_cpu"):
        return None
    reason = native.unavailable(torch.device(device), dtype)
    if kernel == native.name:
        return str(library.load())
    return None if reason is None else f"{native.name} {reason}"


def checkpoint_dtype(source: Source, config: PretrainedConfig) -> torch.dtype:
    """What the weights were saved in, bfloat16 for GGUF, float32 where nobody says."""
    if source.kind == "gguf":
        return torch.bfloat16
    own: Any = config.dtype
    own = getattr(torch, own.removeprefix("torch."), None) if isinstance(own, str) else own
    is_float = isinstance(own, torch.dtype) and own.is_floating_point
    return own if is_float else torch.float32


def _auto(source: Source, config: PretrainedConfig, device: str, quantize: str) -> DtypeChoice:
    own = checkpoint_dtype(source, config)
    if device != "cpu" or own not in (torch.bfloat16, torch.float16):
        return DtypeChoice(own)
    if own is torch.float16:
        # Half of what torch computes for it on a CPU is emulated even where products are not.
        return DtypeChoice(torch.float32, "float32 for the checkpoint's float16, as on every CPU")
    ability = cpu.native(own)
    if ability:
        return DtypeChoice(own, others=("float32",))
    weights, free = planned_bytes(source.name, config, 4, quantize), free_host_bytes()
    sizes = f"weights take {weights / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free"
    if weights <= WEIGHTS_SHARE * free:
        note = f"float32 for the checkpoint's bfloat16, because {ability.reason}: {sizes}"
        return DtypeChoice(torch.float32, note, widened=True, others=("bfloat16",))
    note = (
        f"bfloat16, emulated and slow, because {ability.reason} and float32 does not fit: {sizes}"
    )
    return DtypeChoice(own, note, others=("float32",))


def _emulated(dtype: torch.dtype) -> str | None:
    ability = cpu.native(dtype)
    if ability:
        return None
    return (
        f"{name_of(dtype)} is emulated here and slow, because {ability.reason}: float32 is faster "
        "where it fits"
    )


def _in_folder(folder: Path) -> str | None:
    """The dtype of the run that a folder holds; None where it holds none of a local model."""
    from longctx.eval.runfolder.folder import read_run

    run = read_run(folder)
    dtype = None if run is None else run.get("settings", {}).get("dtype")
    return dtype if dtype in DTYPES and dtype != "auto" else None
