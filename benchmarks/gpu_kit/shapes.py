"""Random models of exact shapes, made on the device, and what a step of them costs at least."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

_COMMON: dict[str, Any] = {
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
_7B = {
    "vocab_size": 152_064,
    "hidden_size": 3_584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
}
_ONE_LAYER = {"num_hidden_layers": 1, "vocab_size": 1_024}
_REAL: dict[str, dict[str, Any]] = {
    "Qwen2-7B": _7B,
    "Qwen2-72B, one layer": {
        **_ONE_LAYER,
        "hidden_size": 8_192,
        "intermediate_size": 29_568,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "Qwen2-57B-A14B, one layer": {
        **_7B,
        **_ONE_LAYER,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2_560,
        "shared_expert_intermediate_size": 20_480,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    },
}
_TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_TINY_MOE = {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48}
NAMES = tuple(_REAL)


def config_of(name: str, *, dry: bool) -> Any:
    sizes = _COMMON | _REAL[name]
    if dry:
        sizes |= _TINY | {"num_hidden_layers": min(2, sizes["num_hidden_layers"])}
        sizes |= {**_TINY_MOE, "num_experts_per_tok": 2} if "num_experts" in sizes else {}
    return (Qwen2MoeConfig if "num_experts" in sizes else Qwen2Config)(**sizes)


def build(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Weights from the device's own generator, spread so that activations stay about 1."""
    moe = isinstance(config, Qwen2MoeConfig)
    with torch.device("meta"):
        model: Any = (Qwen2MoeForCausalLM if moe else Qwen2ForCausalLM)(config)
    model = model.to(dtype).to_empty(device=device).eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            spread = 1.0 if "embed_tokens" in name else parameter.shape[-1] ** -0.5
            parameter.data.normal_(0.0, spread, generator=generator)
    return model


def prompt_of(length: int, vocabulary: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, vocabulary, (length,), generator=generator).tolist()


def _weights(model: Any) -> float:
    """Numbers that one token is multiplied with: of experts, those that it goes to."""
    config, total = model.config, 0.0
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name or "lm_head" in name:
            continue
        used = config.num_experts_per_tok / config.num_experts if ".experts." in name else 1.0
        total += used * parameter.numel()
    return total


def head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def prefill_flops(model: Any, length: int) -> float:
    config = model.config
    width = int(config.num_attention_heads) * head_dim(config)
    attention = 2.0 * config.num_hidden_layers * width * length * (length + 1)
    return float(2.0 * _weights(model) * length + attention)


def kv_bytes(config: Any, length: int, itemsize: int) -> float:
    numbers = 2.0 * config.num_hidden_layers * config.num_key_value_heads * head_dim(config)
    return float(numbers * length * itemsize)


def decode_bytes(model: Any, length: int) -> float:
    """What one token reads: weights once, and all keys and values."""
    itemsize = model.dtype.itemsize
    head = model.lm_head.weight.numel()
    return float(itemsize * (_weights(model) + head)) + kv_bytes(model.config, length, itemsize)
