"""The tiny Qwen2 before training: its configuration and its start.

Needles are found by induction: find where these words stood before, and say what followed them.
That takes a head that knows the previous token, and a later head that looks for it. From random
weights a model this small does not find the pair within a short training; so the first layer
starts with two heads that look at the previous token and at the one before it (a structured start
as in Trockman & Kolter 2023, "Mimetic initialization of self-attention layers"). Qwen2 has biases
on queries and keys, and rotary embeddings turn a constant query and key into a preference for a
distance; everything stays trainable.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from longctx.tiny.tokenizer import END, PAD, VOCABULARY

WINDOW = 512
LOCAL = 64
# Two heads of layer 0 begin at these distances, one for each key-value head.
DISTANCES = (1, 2)
# The slow rotations hardly tell neighbours apart, so only the fastest pairs of dimensions prefer.
_PAIRS = 4
_STRENGTH = 6.0


def model_config(tokenizer: Any) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=len(DISTANCES),
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        dual_chunk_attention_config={
            "chunk_size": WINDOW,
            "local_size": LOCAL,
            "original_max_position_embeddings": WINDOW,
        },
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )


def make_model(tokenizer: Any, seed: int) -> Qwen2ForCausalLM:
    """Random weights from the seed, and two heads that look back by `DISTANCES` tokens."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(model_config(tokenizer))
    _look_back(model.model.layers[0].self_attn, model.config)
    return model


@torch.no_grad()
def _look_back(attention: Any, config: Qwen2Config) -> None:
    """Biases whose rotated product is strength^2 * sum over pairs of cos(frequency * (gap - d))."""
    half = config.head_dim // 2
    theta = config.rope_parameters["rope_theta"]
    frequencies: torch.Tensor = theta ** (-torch.arange(_PAIRS) / half)
    group = config.num_attention_heads // config.num_key_value_heads
    queries = attention.q_proj.bias.view(-1, 2, half)
    keys = attention.k_proj.bias.view(-1, 2, half)
    for head, distance in enumerate(DISTANCES):
        queries[head * group, 0, :_PAIRS] = _STRENGTH
        keys[head, 0, :_PAIRS] = _STRENGTH * torch.cos(frequencies * distance)
        keys[head, 1, :_PAIRS] = _STRENGTH * torch.sin(frequencies * distance)


class Tempered(torch.nn.Module):
    """The model's rotary with cos and sin multiplied by sqrt(scale): logits by `scale`.

    A buffer and not a number, because a compiled model would be compiled again for every number.
    """

    def __init__(self, rotary: torch.nn.Module) -> None:
        super().__init__()
        self.rotary = rotary
        self.factor: torch.Tensor
        self.register_buffer("factor", torch.ones(()), persistent=False)

    def set_scale(self, scale: float) -> None:
        self.factor.fill_(math.sqrt(scale))

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        cos, sin = self.rotary(x, position_ids)
        return cos * self.factor, sin * self.factor
