"""Frequencies, ramps and temperatures against published figures and against transformers."""

import math

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longctx.attention import rope


@pytest.mark.parametrize(
    ("original", "length", "m_squared"),
    [
        (32768, 40960, 1.045127),
        (32768, 65536, 1.143434),
        (32768, 131072, 1.296477),
        (32768, 1_010_000, 1.803180),
        (262144, 1_010_000, 1.287955),
    ],
)
def test_published_temperatures(original: int, length: int, m_squared: float) -> None:
    assert rope.temperature(length, original) ** 2 == pytest.approx(m_squared, abs=5e-7)


def test_temperature_never_falls_below_one() -> None:
    assert [rope.temperature(n, 32768) for n in (1, 32767, 32768)] == [1.0, 1.0, 1.0]
    assert rope.temperature(32769, 32768) > 1.0


@pytest.mark.parametrize(
    ("theta", "original", "ends"),
    [(1e6, 32768, (23, 40)), (1e7, 262144, (28, 43)), (1e4, 4096, (20, 46))],
    ids=["Qwen2/2.5", "Qwen2.5-1M", "Llama-2"],
)
def test_published_ramps(theta: float, original: int, ends: tuple[int, int]) -> None:
    assert rope.yarn_ramp(128, theta, original) == ends


YARN_CONFIGS = {
    "qwen2.5": Qwen2Config(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=32768,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
    ),
    "llama2": LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 16.0,
            "original_max_position_embeddings": 4096,
        },
    ),
    "odd betas": LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=8192,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e5,
            "factor": 3.0,
            "original_max_position_embeddings": 8192,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "truncate": False,
        },
    ),
}


@pytest.mark.parametrize("name", YARN_CONFIGS)
def test_yarn_equals_transformers(name: str) -> None:
    config = YARN_CONFIGS[name]
    expected_F, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    parameters = config.rope_parameters
    head_dim = config.hidden_size // config.num_attention_heads
    got_F = rope.yarn_inv_freq(
        rope.base_inv_freq(parameters["rope_theta"], head_dim),
        parameters["factor"],
        theta=parameters["rope_theta"],
        original_length=parameters["original_max_position_embeddings"],
        beta_fast=parameters.get("beta_fast", 32),
        beta_slow=parameters.get("beta_slow", 1),
        truncate=parameters.get("truncate", True),
    )
    torch.testing.assert_close(got_F, expected_F, rtol=1e-6, atol=0)
    assert rope.yarn_mscale(parameters["factor"]) == pytest.approx(attention_factor, abs=1e-12)


def test_attention_factor_of_qwen_x4() -> None:
    assert rope.yarn_mscale(4.0) == pytest.approx(1.1386, abs=5e-5)
    assert rope.yarn_mscale(1.0) == rope.yarn_mscale(0.5) == 1.0


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones() -> None:
    """The ramp the right way round: an inverted one would swap these."""
    trained_F = rope.base_inv_freq(1e6, 128)
    scaled_F = rope.yarn_inv_freq(trained_F, 4.0, theta=1e6, original_length=32768)
    assert torch.equal(scaled_F[:24], trained_F[:24])
    torch.testing.assert_close(scaled_F[40:], trained_F[40:] / 4)
    inside = scaled_F[24:40] / trained_F[24:40]
    assert bool((inside.diff() < 0).all()) and 0.25 < inside[-1] < inside[0] < 1


def test_pi_and_ntk() -> None:
    trained_F = rope.base_inv_freq(1e4, 64)
    assert torch.equal(rope.pi_inv_freq(trained_F, 4.0), trained_F / 4)
    expected_F = rope.base_inv_freq(1e4 * 4.0 ** (64 / 62), 64)
    torch.testing.assert_close(rope.ntk_inv_freq(trained_F, 4.0), expected_F, rtol=1e-6, atol=0)


def test_buckets_are_eighths_of_an_octave_and_hold_their_lengths() -> None:
    L0 = 32768
    assert {rope.temperature_bucket(n, L0) for n in (1, 1000, L0)} == {L0}
    edges = [math.ceil(L0 * 2 ** (k / 8)) for k in range(1, 41)]
    for k, edge in enumerate(edges):
        below = edges[k - 1] + 1 if k else L0 + 1
        assert rope.temperature_bucket(below, L0) == edge
        assert rope.temperature_bucket(edge, L0) == edge
    assert edges[7] == 2 * L0


@pytest.mark.parametrize("original", [64, 500, 7168, 32768, 262144])
def test_a_bucket_never_lies_below_its_request(original: int) -> None:
    for length in range(1, 40 * original, max(1, original // 7)):
        edge = rope.temperature_bucket(length, original)
        assert edge >= length
        assert length <= original or edge <= math.ceil(length * 2 ** (1 / 8)) + 1


def test_rotation_is_accurate_at_a_million() -> None:
    inv_freq_F = rope.base_inv_freq(1e7, 128)
    table_2LF = rope.rotation(torch.tensor([1_010_000, -262_144]), inv_freq_F)
    for row, position in enumerate((1_010_000, -262_144)):
        for f in (0, 1, 17, 63):
            angle = math.fmod(position * float(inv_freq_F[f].double()), 2 * math.pi)
            assert float(table_2LF[0, row, f]) == pytest.approx(math.cos(angle), abs=1e-6)
            assert float(table_2LF[1, row, f]) == pytest.approx(math.sin(angle), abs=1e-6)


def test_rotations_compose() -> None:
    inv_freq_F = rope.base_inv_freq(1e4, 64)
    x_BHLD = torch.randn(1, 2, 3, 64, dtype=torch.float64, generator=torch.manual_seed(0))

    def turn(x: torch.Tensor, by: int) -> torch.Tensor:
        return rope.rotate(x, rope.rotation(torch.full((3,), by), inv_freq_F, torch.float64))

    torch.testing.assert_close(turn(turn(x_BHLD, 40), 24), turn(x_BHLD, 64), rtol=0, atol=1e-12)
    torch.testing.assert_close(turn(turn(x_BHLD, 40), -40), x_BHLD, rtol=0, atol=1e-12)


def test_bf16_queries_are_rotated_in_fp32() -> None:
    """Only the result is rounded: within half a bf16 step of the exact rotation."""
    inv_freq_F = rope.base_inv_freq(1e4, 64)
    x_BHLD = torch.randn(1, 4, 50, 64, generator=torch.manual_seed(0)).bfloat16()
    positions = torch.arange(50) - 20
    got = rope.rotate(x_BHLD, rope.rotation(positions, inv_freq_F)).double()
    exact = rope.rotate(x_BHLD.double(), rope.rotation(positions, inv_freq_F, torch.float64))
    assert bool(((got - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-6).all())
    step = 2.0 ** (exact.abs().log2().floor() - 7)
    assert bool(((got - exact).abs() <= 0.501 * step + 1e-6).all())


def test_yarn_configs_may_say_their_own_attention_factor() -> None:
    from longctx.attention.hf.rope import yarn_attention_factor

    assert yarn_attention_factor({"attention_factor": 1.5}, 4.0) == 1.5
    for parameters in ({"mscale": 0.7, "mscale_all_dim": 0.4}, {}):
        config = LlamaConfig(
            hidden_size=256,
            num_attention_heads=4,
            max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e5,
                "factor": 4.0,
                "original_max_position_embeddings": 8192,
                **parameters,
            },
        )
        _, expected = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
        assert yarn_attention_factor(parameters, 4.0) == pytest.approx(expected, abs=1e-12)
