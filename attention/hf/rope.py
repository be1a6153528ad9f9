"""The frequencies a scheme puts into a model's rotary, from those the model was trained with."""

from __future__ import annotations

from typing import Any, assert_never

import torch

from longctx.attention.config import Scheme, rope_parameters
from longctx.attention.hf.model import Rotary
from longctx.attention.methods import TRAITS
from longctx.attention.rope import (
    base_inv_freq,
    ntk_inv_freq,
    pi_inv_freq,
    yarn_inv_freq,
    yarn_mscale,
)

# Up to here the model's own table is kept, whose coarseness it was trained with: a prompt within a
# chunk of Qwen2 or Qwen2.5 stays bit-equal to the unextended model.
EXACT_FROM = 32768
_ROWS = 8192  # positions at a time, so that float64 angles of a long block take little memory


def exact_rotary(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A rotary's forward hook: cos and sin [B, L, 2F] from float64 angles from EXACT_FROM on.

    transformers multiplies position and frequency in float32. cos and sin are off by up to
    9.7e-4 below 32,768, and by 7.8e-3 below 253,952, the end of Qwen2.5-1M's chunk. A function of
    the position alone, so any split of a prompt has the same keys. Reads no number on the host.
    """
    position_ids_BL = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
    if not isinstance(output, tuple) or position_ids_BL.shape[-1] == 0:
        return None
    inv_freq_F = module.inv_freq.to(output[0].device).double()
    exact: list[list[torch.Tensor]] = [[], []]
    for p_BL in position_ids_BL.to(output[0].device).split(_ROWS, dim=-1):
        angles_BLF = p_BL[..., None].double() * inv_freq_F
        for parts, table_BLF in zip(exact, (angles_BLF.cos(), angles_BLF.sin()), strict=True):
            scaled_BLF = (table_BLF * module.attention_scaling).to(output[0].dtype)
            parts.append(torch.cat((scaled_BLF, scaled_BLF), dim=-1))
    far_BL1 = (position_ids_BL >= EXACT_FROM).to(output[0].device)[..., None]
    cos_BLD, sin_BLD = (
        torch.where(far_BL1, torch.cat(parts, dim=-2), own_BLD)
        for parts, own_BLD in zip(exact, output, strict=True)
    )
    return cos_BLD, sin_BLD


def scaled_inv_freq(scheme: Scheme, rotary: Rotary, config: Any) -> tuple[torch.Tensor, float]:
    """inv_freq [F] and the scale of cos and sin for a scheme.

    `yarn` scales cos and sin by m(factor), as transformers does. With Dual Chunk Attention the
    temperature is never there: keys would carry it into the cache. The trained frequencies are kept
    (a llama3 or linear scaling too).

    Raises:
        ValueError: the config has no rope_theta, which YaRN's ramp needs.
    """
    trained_F = rotary.inv_freq
    trained_scaling = rotary.attention_scaling
    method, factor = TRAITS[scheme.method], scheme.factor
    if factor is None:
        return trained_F, trained_scaling
    inv_freq_F, scaling = trained_F, trained_scaling
    match method.frequencies:
        case "trained":
            pass
        case "pi":
            inv_freq_F = pi_inv_freq(trained_F, factor)
        case "ntk":
            inv_freq_F = ntk_inv_freq(trained_F, factor)
        case "yarn":
            inv_freq_F, scaling = _yarn(scheme, factor, rotary, config)
        case other:
            assert_never(other)
    if method.temperature == "rotary":
        scaling *= yarn_attention_factor(rope_parameters(config), factor)
    return inv_freq_F, scaling


def _yarn(scheme: Scheme, factor: float, rotary: Rotary, config: Any) -> tuple[torch.Tensor, float]:
    trained_F, trained_scaling = rotary.inv_freq, rotary.attention_scaling
    rope = rope_parameters(config)
    theta = rope.get("rope_theta")
    if theta is None:
        raise ValueError(
            f"method {scheme.method!r} needs rope_theta in config.rope_parameters for its ramp"
        )
    if rope["rope_type"] == "yarn":  # the rotary holds scaled frequencies; start from the base
        trained_F = base_inv_freq(float(theta), 2 * trained_F.shape[0]).to(trained_F.device)
        trained_scaling = 1.0
    inv_freq_F = yarn_inv_freq(
        trained_F,
        factor,
        theta=float(theta),
        original_length=scheme.trained_length,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        truncate=bool(rope.get("truncate", True)),
    )
    return inv_freq_F, trained_scaling


def yarn_attention_factor(rope: dict[str, Any], factor: float) -> float:
    """m(factor), or what a yarn config says instead (attention_factor; mscale, mscale_all_dim)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and all_dim:
        ratio = yarn_mscale(factor, float(mscale)) / yarn_mscale(factor, float(all_dim))
        return ratio
    return yarn_mscale(factor)
