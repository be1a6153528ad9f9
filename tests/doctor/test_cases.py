"""What `longctx doctor` holds kernels against: the answers, the bounds, and the child that asks."""

from __future__ import annotations

import json
from typing import Any

import oracle
import pytest
import torch
from rich.console import Console

from longctx.attention import kernels
from longctx.doctor import cases as doctor_cases
from longctx.doctor import checks as doctor
from longctx.doctor import child as doctor_child
from longctx.doctor import table as doctor_table
from longctx.doctor.checks import CheckRow, DoctorReport

CPU = torch.device("cpu")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def in_process(kind: str, dtype: torch.dtype, capsys: Any, **task: Any) -> CheckRow:
    """What the parent makes of a task that the child's code runs here."""
    name = str(dtype).removeprefix("torch.")
    asked = doctor._Task("it", kind, name, **task)
    doctor_child.main({"device": "cpu", "tasks": [vars(asked)]})
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == {"at": "its start"}
    return doctor._judged("cpu", asked, told[-1]["row"])


# The answers.


def test_the_answers_are_those_of_dense_attention() -> None:
    case = doctor_cases.CASES[1]
    given = doctor_cases.inputs(case, torch.float32, CPU)
    want = kernels.get("reference")(*(x.double() for x in given), causal=True, scale=case.scale)
    got = doctor_cases.attention(given, causal=True, scale=case.scale)
    torch.testing.assert_close(got.out_BHLD, want.out_BHLD)
    torch.testing.assert_close(got.lse_BHL, want.lse_BHL)


def test_the_chunked_answer_is_that_of_the_dense_oracle() -> None:
    chunks = doctor_cases.CHUNKS
    positions = oracle.dca_positions(
        chunks.length, chunks.chunk_size, chunks.local_size, chunks.chunk_size
    )
    assert torch.equal(doctor_cases.relative_positions(chunks).tril(), positions.tril())
    exponent = torch.arange(0, 64, 2, dtype=torch.float64) / 64
    inv_freq_F = 10000.0**-exponent
    q, k, v = (x.double() for x in doctor_cases.inputs(chunks.whole, torch.float32, CPU))
    r_L = torch.arange(chunks.length) % (chunks.chunk_size - chunks.local_size)
    turned = [oracle.rotate_dense(x, r_L, inv_freq_F) for x in (q, k)]
    want = oracle.dense_attention(q, k, v, positions, inv_freq_F, 64**-0.5)
    got = doctor_cases.dual_chunk(doctor_cases.Inputs(*turned, v), chunks)
    torch.testing.assert_close(got, want)


def test_the_prompt_has_every_kind_of_chunk() -> None:
    chunks = doctor_cases.CHUNKS
    assert chunks.length > 3 * chunks.chunk_len  # the chunk's own, the one before, an earlier one


def test_strided_inputs_are_views_of_the_same_numbers() -> None:
    case = next(case for case in doctor_cases.CASES if case.strided)
    q, k, v = doctor_cases.inputs(case, torch.bfloat16, CPU)
    assert not q.is_contiguous() and not k.is_contiguous() and v.stride(-1) == 2
    plain = doctor_cases.inputs(doctor_cases.Case(**{**vars(case), "strided": False}), q.dtype, CPU)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), plain, strict=True))


def test_a_distance_is_infinite_for_another_shape_or_infinity() -> None:
    want = torch.tensor([1.0, -torch.inf], dtype=torch.float64)
    assert doctor_cases.distance(want.float(), want) == 0
    assert doctor_cases.distance(want[:1], want) == float("inf")
    assert doctor_cases.distance(-want, want) == float("inf")
    assert doctor_cases.distance(torch.tensor([0.5]), torch.tensor([0.0]).double()) == 0.5


# Right kernels pass with room to spare, mistakes fail by far.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["kernel", "dca"])
def test_a_right_kernel_is_held_to_bounds_with_room(
    kind: str, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    row = in_process(kind, dtype, capsys, kernel="torch_cpu")
    assert (row.verdict, row.reason) == ("ok", None)
    assert row.error_out is not None and row.bound_out is not None
    assert row.error_out < row.bound_out / 3
    if kind == "kernel":
        assert row.error_lse is not None and row.bound_lse is not None
        assert row.error_lse < row.bound_lse / 10
    assert min(row.prefill_ms, row.prefill_gflops, row.decode_ms, row.decode_gbps) > 0  # type: ignore[type-var]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["ScaledKeys", "Base2"])
def test_a_mistake_is_far_outside(
    name: str, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    row = in_process("kernel", dtype, capsys, factory=f"doctor_plants:{name}")
    assert row.verdict == "wrong"
    assert row.error_lse is not None and row.bound_lse is not None
    assert row.error_lse > 50 * row.bound_lse
    assert in_process("dca", dtype, capsys, factory=f"doctor_plants:{name}").verdict == "wrong"


def test_one_nan_is_wrong_and_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    row = in_process("kernel", torch.float32, capsys, factory="doctor_plants:NotANumber")
    assert row.verdict == "wrong" and row.error_out is None
    assert row.reason == "out of 'one head each' is off by nan, allowed is 7.9e-06"
    report = DoctorReport({}, [], [], [row], "wrong", [])
    assert json.loads(report.to_json())["rows"][0]["error_out"] is None
    console = Console(width=80)
    with console.capture() as capture:
        doctor_table.show(report, console)
    assert "not finite" in capture.get()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_linear_layer_is_right(dtype: torch.dtype, capsys: pytest.CaptureFixture[str]) -> None:
    row = in_process("linear", dtype, capsys)
    assert row.verdict == "ok" and row.error_lse is None
    assert [case["case"] for case in row.cases] == [
        "512 tokens", "512 tokens, bias", "a token", "a token, bias",
    ]  # fmt: skip


def test_a_wrongly_packed_layer_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    row = in_process(
        "linear", torch.float32, capsys, factory="doctor_plants:packs_twice_the_weight"
    )
    assert row.verdict == "wrong" and row.error_out == pytest.approx(1, abs=1e-3)


def test_packing_that_is_offered_and_does_nothing_is_an_error() -> None:
    task = {"dtype": "float32", "factory": "doctor_plants:packs_nothing"}
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no weight was packed"):
        doctor_child.run_linear(task, CPU)


def test_the_child_stops_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    task = {"kind": "kernel", "factory": "doctor_plants:RaisesInBf16", "dtype": "bfloat16"}
    doctor_child.main({"device": "cpu", "tasks": [task, task]})
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row for row in told if "row" in row] == [
        {"row": {"raised": "RuntimeError: no such instruction"}}
    ]
