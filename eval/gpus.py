"""What a sweep would take on a GPU by its data sheet: an estimate, nothing of it measured.

    prompts    floating-point operations / (peak of bf16 * COMPUTE_SHARE)
    answers    bytes of weights and keys / (bandwidth * BANDWIDTH_SHARE), for every token

One prompt after the other, every answer as long as it may be. Arithmetic only; knows no device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Protocol

from longctx.errors import UserError
from longctx.eval.estimate import ModelSizes, expected_work
from longctx.eval.format import show_bytes, show_length, show_seconds
from longctx.eval.needle.grid import Cell

# Of what the data sheet says: long prompts on kernels that are good, decoding with small batches.
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.4, 0.6
_BF16 = 2  # bytes
_USABLE = 0.9  # of the memory; the rest is for a step and for fragments


class GpuSizes(ModelSizes, Protocol):
    """What the weights take is asked for as well."""

    @property
    def hidden(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...


@dataclass(frozen=True)
class GpuSheet:
    """Of a data sheet: dense bf16 in TFLOP/s, memory in TB/s and GB."""

    name: str
    tflops: float
    tb_s: float
    memory_gb: float


GPUS: Mapping[str, GpuSheet] = MappingProxyType(
    {
        sheet.name: sheet
        for sheet in (
            GpuSheet("A100-40GB", 312, 1.555, 40),
            GpuSheet("A100-80GB", 312, 2.039, 80),
            GpuSheet("H100", 989, 3.35, 80),
            GpuSheet("H200", 989, 4.8, 141),
            GpuSheet("L4", 121, 0.3, 24),
            GpuSheet("L40S", 362, 0.864, 48),
            GpuSheet("RTX4090", 165, 1.008, 24),
        )
    }
)


def gpu_of(name: str) -> GpuSheet:
    """
    Raises:
        UserError: no data sheet of that name is kept here.
    """
    for sheet in GPUS.values():
        if sheet.name.casefold() == name.casefold():
            return sheet
    raise UserError(f"--gpu {name}: not known: use {', '.join(GPUS)}")


@dataclass(frozen=True)
class GpuEstimate:
    """Seconds for prompts and for answers; bytes of weights and of one longest context."""

    gpu: GpuSheet
    prefill_s: float
    decode_s: float
    weight_bytes: int
    kv_bytes: int
    longest: int

    @property
    def seconds(self) -> float:
        return self.prefill_s + self.decode_s

    @property
    def fits(self) -> bool:
        return self.weight_bytes + self.kv_bytes <= _USABLE * self.gpu.memory_gb * 1e9

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds, "fits": self.fits}

    def __str__(self) -> str:
        held = (
            f"{show_bytes(self.weight_bytes)} of weights and {show_bytes(self.kv_bytes)} of keys "
            f"at {show_length(self.longest)}"
        )
        if not self.fits:
            return (
                f"on one {self.gpu.name} it does not fit: {held}, of {self.gpu.memory_gb:g} GB "
                "(`longctx plan` says what would do)"
            )
        parts = (
            f"on one {self.gpu.name} about {show_seconds(self.seconds)}: ",
            f"{show_seconds(self.prefill_s)} for prompts, ",
            f"{show_seconds(self.decode_s)} for answers; {held}. ",
            f"From its data sheet ({self.gpu.tflops:g} TFLOP/s of bf16, {self.gpu.tb_s:g} TB/s, ",
            f"{COMPUTE_SHARE:.0%} and {BANDWIDTH_SHARE:.0%} of them assumed), one prompt after ",
            "the other: not measured",
        )
        return "".join(parts)


def estimate_on(
    gpu: GpuSheet,
    cells: Iterable[Cell],
    shape: GpuSizes,
    answer_tokens: int,
    prefix_sharing: bool,
) -> GpuEstimate:
    asked = list(cells)
    parameters = shape.layers * shape.layer_parameters + 2 * shape.hidden * shape.vocabulary
    weights = _BF16 * parameters
    operations = sum(expected_work(asked, shape, 0, prefix_sharing).values())
    read = sum(answer_tokens * (weights + shape.kv_bytes(one.length, _BF16)) for one in asked)
    longest = max((one.length for one in asked), default=0)
    return GpuEstimate(
        gpu,
        operations / (COMPUTE_SHARE * gpu.tflops * 1e12),
        read / (BANDWIDTH_SHARE * gpu.tb_s * 1e12),
        weights,
        shape.kv_bytes(longest, _BF16),
        longest,
    )
