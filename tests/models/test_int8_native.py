"""Layers of bytes in C: the bits of torch and oneDNN, in every layout and instruction set."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from longctx.attention import cpu
from longctx.attention.native import build, library
from longctx.models import int8, int8_native
from longctx.models.int8_native import BLOCKED, BY_INPUT

LOADED = int8_native.load()
DTYPES = (torch.float32, torch.bfloat16)
# Layout and the least level that reads it.
READ = {BLOCKED: 2, BY_INPUT: 1}
needed = pytest.mark.skipif(isinstance(LOADED, str), reason=f"the library {LOADED}")
multiplies = pytest.mark.skipif(
    not cpu.multiplies_int8(), reason=f"no products of bytes: {cpu.multiplies_int8().reason}"
)


def functions(level: int | None = None) -> int8_native.Functions:
    assert isinstance(LOADED, int8_native.Functions)
    most = LOADED.library.longctx_level()
    if level is not None and level > most:
        pytest.skip(f"no {library.LEVELS[level]} on this processor")
    return LOADED if level is None else replace(LOADED, level=level)


def layer(outputs: int, inputs: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def rows_of(count: int, inputs: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """From a hundredth to a hundred, and where there are several, such as are not numbers."""
    generator = torch.Generator().manual_seed(count)
    x_RI = torch.randn(count, inputs, generator=generator)
    x_RI *= torch.logspace(-2, 2, count).view(-1, 1)
    if count > 4:
        x_RI[1] = 0.0
        x_RI[2, 0], x_RI[3, -1] = torch.nan, -torch.inf
    return x_RI.to(dtype)


def same(found: torch.Tensor, want: torch.Tensor) -> bool:
    """Bit for bit, but for the sign of zero."""
    return found.dtype == want.dtype and torch.equal(
        found.float().nan_to_num(nan=1e38), want.float().nan_to_num(nan=1e38)
    )


def in_torch(
    weights: int8.Int8Weights, x_RI: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """What there is without the library."""
    few = weights._few
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(int8_native, "load", lambda: "is left out")
        weights._few = None
        out = weights(x_RI)
    weights._few = few
    return out


def by_hand(plain: nn.Linear, x_RI: torch.Tensor) -> torch.Tensor:
    """Whole numbers in int64, scales and sums of both halves in float32 as torch takes them."""
    whole_OI, scale_O = int8.round_weights(plain.weight)
    scale_R1 = x_RI.float().abs().amax(-1, keepdim=True).clamp_min(1e-30) * (1 / (127 * 256))
    whole_RI = (x_RI.float() / scale_R1).round().long()
    high_RI = (whole_RI + 128) >> 8
    high_RO, low_RO = (
        (half_RI @ whole_OI.T.long()).float() * scale_O
        for half_RI in (high_RI, whole_RI - 256 * high_RI)
    )
    out_RO = (low_RO + 256 * high_RO) * scale_R1
    return (out_RO if plain.bias is None else out_RO + plain.bias).to(x_RI.dtype)


@needed
@pytest.mark.parametrize("layout", READ)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(64, 64), (1, 1), (17, 3), (100, 70), (263, 253), (700, 1030)]
)
def test_few_rows_are_products_of_whole_numbers_in_either_layout(
    outputs: int, inputs: int, dtype: torch.dtype, layout: int
) -> None:
    made_of = functions(READ[layout])
    most = made_of.library.longctx_most_rows(layout, made_of.level)
    for bias in (True, False):
        plain = layer(outputs, inputs, bias=bias)
        whole_OI, scale_O = int8.round_weights(plain.weight)
        laid = int8_native.packed_as(layout, whole_OI)
        held = ctypes.create_string_buffer(laid, len(laid))
        few = int8_native.FewRows(
            made_of, layout, ctypes.addressof(held), whole_OI, scale_O, plain.bias
        )
        for rows in (1, 2, 3, 4, 5, 7, 8):
            assert rows <= min(most, few.most)
            x_RI = rows_of(rows, inputs, dtype)[[0, -1, *range(4, rows)][:rows]]
            found = few(x_RI)
            assert found.shape == (len(x_RI), outputs)
            assert same(found, by_hand(plain, x_RI)), (rows, bias)


@needed
@multiplies
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(100, 70), (576, 576), (3, 1536), (2100, 300)])
def test_any_number_of_rows_has_the_bits_of_torch(
    outputs: int, inputs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bias in (True, False):
        weights = int8.Int8Weights([layer(outputs, inputs, bias=bias)])
        for rows in (1, 2, 3, 6, 7, 8, 9, 63, 64, 65, 130):
            x_RI = rows_of(rows, inputs, dtype)
            with torch.inference_mode():
                found = weights(x_RI)
            assert same(found, in_torch(weights, x_RI, monkeypatch)), (rows, bias)


@needed
@multiplies
def test_rows_are_rounded_with_the_bits_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in range(functions().library.longctx_level() + 1):
        for dtype in DTYPES:
            for inputs in (1, 15, 16, 17, 333):
                x_RI = rows_of(9, inputs, dtype)[[0, 1, 4, 5, 6, 7, 8]]
                with monkeypatch.context() as patch:
                    patch.setattr(int8_native, "load", lambda: functions(level))  # noqa: B023
                    found = int8.round_rows(x_RI)
                    patch.setattr(int8_native, "load", lambda: "is left out")
                    want = int8.round_rows(x_RI)
                filled = int8.filled_up(2 * 7) // 2
                for half in (slice(0, 7), slice(filled, filled + 7)):
                    assert torch.equal(found.bytes_NI[half], want.bytes_NI[half])
                assert torch.equal(found.scale_R1, want.scale_R1)


@needed
@multiplies
def test_halves_between_whole_numbers_go_to_the_even_one() -> None:
    whole = 127 * 256
    x_RI = torch.tensor([[whole, 0.5, 1.5, 2.5, -0.5, -1.5, 128.0, 127.5, -128.5, 384.0]])
    made = int8.round_rows(x_RI)
    high, low = made.bytes_NI.long().sub(128).chunk(2)
    assert (256 * high + low)[0].tolist() == [whole, 0, 2, 2, 0, -2, 128, 128, -128, 384]
    assert low.abs().max() <= 128 and int(low.max()) <= 127


@needed
@multiplies
def test_threads_share_the_outputs_and_change_nothing() -> None:
    weights = int8.Int8Weights([layer(5000, 300)])
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            with torch.inference_mode():
                found.append([weights(rows_of(rows, 300)) for rows in (1, 7, 64, 200)])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(same, found[0], others))


@needed
@multiplies
def test_oneDNNs_weights_are_found_where_they_lie() -> None:
    """On the processors that tests run on: elsewhere steps that decode would be slower, and
    `longctx info` would say why."""
    assert int8_native.able(), int8_native.able().reason
    for shape in ((7, 253), (64, 64), (263, 253), (2100, 1100)):
        assert int8_native.layout_of(*shape) in READ
    weights = int8.Int8Weights([layer(263, 253)])
    assert weights._few is not None and weights._few.most >= 8


@needed
@multiplies
def test_weights_in_another_layout_are_left_to_oneDNN(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(int8_native.layout_of.cache_clear)
    int8_native.layout_of.cache_clear()
    monkeypatch.setattr(int8_native, "packed_as", lambda layout, whole_OI: b"\x00" * 8)
    assert int8_native.layout_of(263, 253) is None
    plain = layer(263, 253)
    weights, x_RI = int8.Int8Weights([plain]), rows_of(2, 253)
    assert weights._few is None
    assert not int8_native.able() and "not known" in int8_native.able().reason
    with torch.inference_mode():
        assert same(weights(x_RI), by_hand(plain, x_RI))


@needed
@multiplies
@pytest.mark.parametrize("shape", [(263, 253), (64, 64), (1, 70), (2100, 3)])
def test_a_layers_own_weights_are_looked_at(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = int8_native.layout_of(*shape)
    other = {BLOCKED: BY_INPUT, BY_INPUT: BLOCKED}[layout]  # type: ignore[index]
    assert int8.Int8Weights([layer(*shape)])._few is not None
    monkeypatch.setattr(int8_native, "layout_of", lambda *_: other)
    assert int8.Int8Weights([layer(*shape)])._few is None


@needed
@multiplies
def test_few_rows_do_not_go_through_oneDNN(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = layer(263, 253)
    weights, asked = int8.Int8Weights([plain]), list[int]()
    multiply = int8._multiply

    def counted(*arguments: object) -> object:
        asked.append(len(arguments[0]))  # type: ignore[arg-type]
        return multiply(*arguments)

    monkeypatch.setattr(int8, "_multiply", counted)
    assert weights._few is not None
    most = weights._few.most
    with torch.inference_mode():
        for rows in (1, most, most + 1):
            weights(rows_of(rows, 253))
    assert asked == [int8.filled_up(2 * (most + 1))]


@needed
@multiplies
def test_gradients_are_refused_as_before() -> None:
    assert not int8_native.takes(torch.ones(1, 4, requires_grad=True))
    assert int8_native.takes(torch.ones(1, 4))
    assert not int8_native.takes(torch.ones(1, 4, dtype=torch.float16))
    with torch.inference_mode():
        assert int8_native.takes(torch.ones(1, 4))


@needed
def test_an_old_library_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "int8.c"
    source.write_bytes(int8_native.SOURCE.read_bytes() + b"\n/* changed */\n")
    build.library_of(source).write_bytes(build.library_of(int8_native.SOURCE).read_bytes())
    monkeypatch.setattr(int8_native, "SOURCE", source)
    int8_native.load.cache_clear()
    try:
        assert int8_native.load() == (
            "was built from another int8.c or header: install longctx again"
        )
        assert not int8_native.able() and "install longctx again" in int8_native.able().reason
    finally:
        int8_native.load.cache_clear()
