"""What a processor computes natively: by its flags, by oneDNN's word, and under a limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longctx.attention import cpu

WITHOUT_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    cpu.packs_linear.cache_clear()
    cpu.multiplies_int8.cache_clear()
    yield
    cpu.packs_linear.cache_clear()
    cpu.multiplies_int8.cache_clear()


def machine(monkeypatch: pytest.MonkeyPatch, *flags: str, onednn: bool = True) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: dict.fromkeys(flags, True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    # What oneDNN itself says of this machine must not decide for the one that is played.
    monkeypatch.setattr(cpu, "_SUPPORTED", dict.fromkeys(cpu._SUPPORTED, "_no_such_question"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("avx2", "avx512_f", "avx512_bf16"), "AVX512-BF16"),
        (("avx512_bf16", "amx_bf16"), "AMX-BF16"),
        (("avx2", "avx_ne_convert"), "AVX-NE-CONVERT"),
        (("asimd", "bf16"), "Arm BF16"),
    ],
)
def test_flags_say_that_bf16_is_native(
    flags: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, *flags)
    assert cpu.native_bf16() == cpu.Ability(True, reason)


@pytest.mark.parametrize("flags", [("avx2",), ("avx2", "avx512_f", "avx512_bw"), ("asimd",), ()])
def test_without_a_flag_it_is_not(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, *flags)
    ability = cpu.native_bf16()
    assert not ability and ability.reason == "the processor has no bfloat16 arithmetic"


def test_without_onednn_nothing_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx512_bf16", onednn=False)
    assert "no oneDNN" in cpu.native_bf16().reason and not cpu.native_bf16()
    assert not cpu.packs_linear(torch.float32)


@pytest.mark.parametrize("limit", ["AVX2", "avx512_core", "SSE41"])
def test_a_limit_on_onednn_counts(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx512_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert not cpu.native_bf16()
    assert f"ONEDNN_MAX_CPU_ISA={limit.upper()}" in cpu.native_bf16().reason
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert cpu.native_bf16()


def test_onednn_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx512_bf16", "avx512_fp16")
    monkeypatch.setattr(cpu, "_SUPPORTED", {torch.bfloat16: "no", torch.float16: "no"})
    monkeypatch.setattr(torch.ops.mkldnn, "no", lambda: False, raising=False)
    for dtype in (torch.bfloat16, torch.float16):
        assert not cpu.native(dtype) and "oneDNN does not use it" in cpu.native(dtype).reason


def test_float32_is_native_everywhere_and_float16_by_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx2", "f16c")  # converts float16 and computes nothing in it
    assert cpu.native(torch.float32)
    assert not cpu.native(torch.float16)
    machine(monkeypatch, "avx512_fp16")
    assert cpu.native(torch.float16)


def test_flags_come_from_the_system_where_torch_tells_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: ["avx2", "avx512_bf16"])
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert cpu._flags.__wrapped__() == {"avx2": True, "avx512_bf16": True}


def test_weights_are_packed_on_x86_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert cpu.packs_linear(torch.float32) == cpu.Ability(False, "not tried on arm64")
    cpu.packs_linear.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert cpu.packs_linear(torch.float64) == cpu.Ability(False, "not for float64")


def test_an_operation_that_refuses_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        @staticmethod
        def default(weight: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("bf16 path needs another processor\nat a line")

    class Wrong:
        @staticmethod
        def default(*arguments: object) -> torch.Tensor:
            return torch.zeros(16, 16)

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", Refuses, raising=False)
    refused = cpu.packs_linear(torch.bfloat16)
    assert refused == cpu.Ability(False, "oneDNN refuses (bf16 path needs another processor)")
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", Wrong, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", Wrong, raising=False)
    assert cpu.packs_linear(torch.float32).reason == "oneDNN gives wrong numbers here"


def test_this_processor_under_a_limit_is_one_without_bf16() -> None:
    """The environment is read when torch starts, hence the process."""
    code = (
        "import json, torch; from longctx.attention import cpu;"
        "print(json.dumps([bool(cpu.native_bf16()), bool(cpu.packs_linear(torch.bfloat16)),"
        " cpu.describe()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **WITHOUT_AVX512},
        capture_output=True,
        text=True,
        check=True,
    )
    native, packs, told = json.loads(done.stdout)
    assert not native and not packs
    assert "AVX512" not in told


@pytest.mark.parametrize(
    ("exact", "able", "largest", "reason"),
    [
        (127, True, 127, "oneDNN"),
        (64, True, 64, "oneDNN, with 7 bits of the weights"),
        (0, False, 127, "oneDNN gives wrong numbers here"),
    ],
)
def test_bytes_are_multiplied_as_exactly_as_onednn_does(
    monkeypatch: pytest.MonkeyPatch, exact: int, able: bool, largest: int, reason: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "_int8_is_exact", lambda most: most <= exact)
    assert cpu.multiplies_int8() == cpu.Ability(able, reason)
    assert cpu.largest_int8_weight() == largest


def test_bytes_are_multiplied_on_x86_with_onednn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert cpu.multiplies_int8() == cpu.Ability(False, "not tried on arm64")
    cpu.multiplies_int8.cache_clear()
    machine(monkeypatch, "avx2", onednn=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert cpu.multiplies_int8().reason == "this build of torch has no oneDNN"
    cpu.multiplies_int8.cache_clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)

    def refuses(most: int) -> bool:
        raise RuntimeError("not on this one\nat line 7")

    monkeypatch.setattr(cpu, "_int8_is_exact", refuses)
    assert cpu.multiplies_int8().reason == "oneDNN refuses (not on this one)"
