"""Rotary frequencies and the attention temperature, as pure functions of numbers.

PI: arXiv 2306.15595; NTK-aware: static base change; YaRN: arXiv 2309.00071 (NTK-by-parts, section
3.2; temperature, equation 22). Knows no configs and no models. All frequency functions work on the
frequencies the model was *trained* with, so that a trained llama3 or linear scaling is kept.

Shape legend: B batch, H heads, L tokens, D head dimension, F = D / 2 frequencies.
"""

from __future__ import annotations

import math

import torch


def base_inv_freq(theta: float, head_dim: int) -> torch.Tensor:
    """theta^(-2i/d), [F] float32 (RoPE, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return 1.0 / (theta**exponent)


def pi_inv_freq(trained_F: torch.Tensor, factor: float) -> torch.Tensor:
    """Position interpolation: every frequency divided by `factor`."""
    return trained_F / factor


def ntk_inv_freq(trained_F: torch.Tensor, factor: float) -> torch.Tensor:
    """Static NTK: base * factor^(d/(d-2)), that is frequency i times factor^(-2i/(d-2))."""
    freqs = trained_F.shape[0]
    i = torch.arange(freqs, dtype=torch.float64, device=trained_F.device)
    return (trained_F.double() * factor ** (-i / max(freqs - 1, 1))).to(trained_F.dtype)


def yarn_ramp(
    head_dim: int,
    theta: float,
    original_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, float]:
    """Ends (low, high) of YaRN's ramp, as indices of frequencies.

    corr(r) = d ln(L0 / (2 pi r)) / (2 ln base) is the frequency index that turns r times over the
    original length; low = floor(corr(beta_fast)), high = ceil(corr(beta_slow)), within [0, d-1].
    """

    def corr(rotations: float) -> float:
        return (
            head_dim * math.log(original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))
        )

    low, high = corr(beta_fast), corr(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, head_dim - 1)


def yarn_inv_freq(
    trained_F: torch.Tensor,
    factor: float,
    *,
    theta: float,
    original_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> torch.Tensor:
    """NTK-by-parts: fast frequencies are kept, slow ones divided by `factor`, a ramp between.

    Args:
        trained_F: [F] the frequencies of the pretrained model.
        factor: extension of the window, > 1 extends.
        original_length: tokens of the pretrained window, L0.
    """
    freqs = trained_F.shape[0]
    low, high = yarn_ramp(2 * freqs, theta, original_length, beta_fast, beta_slow, truncate)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    i = torch.arange(freqs, dtype=torch.float32, device=trained_F.device)
    interpolated_F = ((i - low) / (high - low)).clamp(0, 1)
    return trained_F / factor * interpolated_F + trained_F * (1 - interpolated_F)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln(factor) + 1 for factor > 1, else 1: scales cos and sin, so logits twice."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def temperature(request_length: float, original_length: int) -> float:
    """m(L) = max(1, 0.1 ln(L / L0) + 1); logits are multiplied by m^2.

    Args:
        request_length: tokens of the templated prompt, fixed for the life of a request.
        original_length: L0, tokens.
    """
    return max(1.0, yarn_mscale(request_length / original_length))


BUCKETS_PER_OCTAVE = 8


def temperature_bucket(request_length: int, original_length: int) -> int:
    """Length in tokens at which an engine takes m, so that requests of one bucket share caches.

    L <= L0 is one bucket (m = 1); above it the edges are L0 * 2^(k/8), rounded up to a token. m
    changes hidden states, hence deeper layers' keys and values: a cache is exact only at equal m.
    """
    if request_length <= original_length:
        return original_length
    octaves = math.log2(request_length / original_length)
    k = max(1, math.ceil(octaves * BUCKETS_PER_OCTAVE) - 1)
    while (edge := math.ceil(original_length * 2 ** (k / BUCKETS_PER_OCTAVE))) < request_length:
        k += 1
    return edge


def rotation(
    angle_positions_L: torch.Tensor, inv_freq_F: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """cos and sin of position * frequency, stacked: [2, L, F] in `dtype`.

    The angles are float64: at position 262144 a float32 angle is off by 0.016 rad.

    Args:
        angle_positions_L: rotation in positions, may be negative.
        inv_freq_F: frequencies.
        dtype: arithmetic of the rotation to come; float32 for all models but float64 ones.
    """
    angles_LF = torch.outer(angle_positions_L.double(), inv_freq_F.double())
    return torch.stack((angles_LF.cos(), angles_LF.sin())).to(dtype)


def rotate(x_BHLD: torch.Tensor, rotation_2LF: torch.Tensor) -> torch.Tensor:
    """Rotate pairs (i, i + D/2) in the table's dtype; the result has x's dtype.

    Args:
        rotation_2LF: from `rotation`; L may be 1 for one angle on all rows.
    """
    cos_LF, sin_LF = rotation_2LF
    # In pairs of halves: three operations, and the result is written once.
    x_BHL2F = x_BHLD.to(cos_LF.dtype).unflatten(-1, (2, cos_LF.shape[-1]))
    out_BHL2F = x_BHL2F * cos_LF.unsqueeze(-2)
    out_BHL2F[..., 0, :].addcmul_(x_BHL2F[..., 1, :], sin_LF, value=-1)
    out_BHL2F[..., 1, :].addcmul_(x_BHL2F[..., 0, :], sin_LF)
    return out_BHL2F.flatten(-2).to(x_BHLD.dtype)
