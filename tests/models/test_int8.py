"""Linear layers of bytes: their error, and that a row's result is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from longctx.attention import cpu
from longctx.models.int8 import (
    Int8Linear,
    Int8Weights,
    filled_up,
    round_rows,
    round_weights,
    side_by_side,
)

IN, OUT = 253, 263

pytestmark = pytest.mark.skipif(
    not cpu.multiplies_int8(), reason=f"no products of bytes: {cpu.multiplies_int8().reason}"
)


def layer(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT, bias=bias).requires_grad_(False)


def rows_of(count: int, seed: int = 1) -> torch.Tensor:
    """Some hundred times as large as others, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, count, IN, generator=generator)
    return x * torch.logspace(-2, 2, count).view(1, -1, 1)


def by_hand(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The same rounding and products of whole numbers, all in float64."""
    weight = layer.weight.detach()
    scale_O = weight.abs().amax(-1).double() / cpu.largest_int8_weight()
    whole_OI = (weight.double() / scale_O[:, None]).round()
    scale_R = x[0].abs().amax(-1).double() / (127 * 256)
    whole_RI = (x[0].double() / scale_R[:, None]).round()
    out = whole_RI @ whole_OI.T * scale_R[:, None] * scale_O
    return (out if layer.bias is None else out + layer.bias.double()).detach()[None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 70, 300])
def test_it_is_the_rounded_layer(rows: int, bias: bool) -> None:
    plain, x = layer(bias=bias), rows_of(rows)
    with torch.inference_mode():
        found = Int8Linear(plain)(x)
    want = by_hand(plain, x)
    assert found.dtype == torch.float32 and found.shape == (1, rows, OUT)
    # A number just between two whole ones may go either way in float32.
    assert float((found - want).norm() / want.norm()) < 2e-5
    error = (found - plain(x)).norm(dim=-1) / plain(x).norm(dim=-1)
    assert float(error.max()) < (0.006 if cpu.largest_int8_weight() == 127 else 0.012)


def test_one_large_number_does_not_drown_the_others() -> None:
    """Some inputs of large models are thousands of times the rest; a byte would make these 0."""
    plain, x = layer(bias=False), rows_of(1)
    x[0, 0, 7] = 2000 * float(x.abs().max())
    plain.weight[:, 7] = 0.0
    with torch.inference_mode():
        found = Int8Linear(plain)(x)
    assert float((found - plain(x)).norm() / plain(x).norm()) < 0.06


def test_a_row_is_the_same_alone_and_among_any_others() -> None:
    made, x = Int8Linear(layer()), rows_of(333)
    with torch.inference_mode():
        together = made(x)
        for first, stop in ((0, 1), (5, 6), (5, 13), (100, 333), (332, 333), (0, 64), (17, 81)):
            assert torch.equal(made(x[:, first:stop].clone()), together[:, first:stop])
        shuffled = torch.randperm(333, generator=torch.Generator().manual_seed(2))
        assert torch.equal(made(x[:, shuffled]), together[:, shuffled])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    plain, x = layer(), rows_of(9).to(dtype)
    with torch.inference_mode():
        found = Int8Linear(plain)(x)
        want = Int8Linear(plain)(x.float())
    assert found.dtype == dtype
    assert torch.equal(found, want.to(dtype))


def test_layers_side_by_side_compute_what_each_does_alone() -> None:
    plain = [layer(bias=bias) for bias in (True, False, True)]
    plain[1] = nn.Linear(IN, 7, bias=False).requires_grad_(False)
    made, alone = side_by_side(plain), [Int8Linear(each) for each in plain]
    assert [each.nbytes for each in made] == [each.nbytes for each in alone]
    with torch.inference_mode():
        for x in (rows_of(5), rows_of(70, seed=3), rows_of(1)):
            for each, other in zip(made, alone, strict=True):
                assert torch.equal(each(x), other(x))
        assert made[0]._weights._last is None  # nothing outlives the last of them
        one, other = rows_of(4), rows_of(4, seed=5)
        for at, x in ((2, one), (0, one), (0, other), (1, one)):  # in any order
            assert torch.equal(made[at](x), alone[at](x))


def test_another_thread_may_forget_between_any_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = side_by_side([nn.Linear(64, 8) for _ in range(2)])
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    kept: list[Any] = [None]

    def read(_: Int8Weights) -> Any:
        found, kept[0] = kept[0], None  # the other thread, right behind this one's look
        return found

    last = property(read, lambda _, value: kept.__setitem__(0, value))
    monkeypatch.setattr(Int8Weights, "_last", last, raising=False)
    with torch.inference_mode():
        first = layers[0](x)
        assert torch.equal(layers[0](x), first)


def test_no_rows_give_none() -> None:
    with torch.inference_mode():
        assert Int8Linear(layer())(torch.empty(1, 0, IN)).shape == (1, 0, OUT)


def test_zeros_stay_zeros_and_what_is_no_number_spoils_its_row_alone() -> None:
    made, x = Int8Linear(layer(bias=False)), rows_of(4)
    x[0, 1], x[0, 2, 3], x[0, 3, 5] = 0.0, torch.nan, torch.inf
    with torch.inference_mode():
        found = made(x)[0]
    assert bool(found[0].isfinite().all()) and not bool(found[1].any())
    assert not bool(found[2].isfinite().any()) and not bool(found[3].isfinite().any())


def test_rows_and_weights_are_rounded_by_their_own_largest_number() -> None:
    x = torch.tensor([[127.0, -127.0, 63.5, 0.5 / 256], [1e-3, 0.0, 0.0, -1e-3]])
    made = round_rows(x)
    high, low = made.bytes_NI.long().sub(128).chunk(2)
    whole = 127 * 256
    assert (256 * high + low)[0].tolist() == [whole, -whole, whole // 2, 0]  # half to even
    assert (256 * high + low)[1].tolist() == [whole, 0, 0, -whole]
    torch.testing.assert_close(made.scale_R1[:, 0] * whole, torch.tensor([127.0, 1e-3]))


def test_all_whole_numbers_of_a_row_come_back_from_their_bytes() -> None:
    whole = torch.arange(-127 * 256, 127 * 256 + 1).float()
    high, low = round_rows(whole[None]).bytes_NI.long().sub(128).chunk(2)
    assert torch.equal((256 * high + low)[0], whole.long())


def test_weights_are_rounded_by_output() -> None:
    large = cpu.largest_int8_weight()
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0], [1e-4, 5e-5]]).bfloat16()
    whole, scale = round_weights(weight)
    assert whole.tolist() == [[large // 2 + large % 2, -large], [0, 0], [large, whole[2, 1]]]
    torch.testing.assert_close(scale[0], torch.tensor(2.0 / large))


def test_few_numbers_of_rows_stand_for_all() -> None:
    assert [filled_up(rows) for rows in (1, 8, 9, 64, 65, 512)] == [1, 8, 16, 64, 96, 512]
    assert len({filled_up(rows) for rows in range(1, 1025)}) < 48
    assert all(rows <= filled_up(rows) < rows + 32 for rows in range(1, 2000))


_SATURATES = """
import torch
from torch import nn
from longctx.attention import cpu
from longctx.models.int8 import Int8Linear
layer = nn.Linear(512, 32, bias=False)
layer.weight.data.fill_(1.0)
x = torch.ones(3, 512)
with torch.inference_mode():
    print(cpu.largest_int8_weight(), float((Int8Linear(layer)(x) - 512).abs().max()))
"""


def test_processors_without_vnni_do_not_saturate() -> None:
    """They add two products in 16 bits: 255 * 127 * 2 is more than that holds."""
    done = subprocess.run(
        [sys.executable, "-c", _SATURATES],
        env={
            **os.environ,
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    largest, error = done.stdout.split()
    assert (largest, float(error) < 1e-3) == ("64", True)
