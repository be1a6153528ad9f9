"""vLLM's DualChunkRotaryEmbedding, replaced: queries and keys are rotated once, at p mod S.

The class of that name, which vLLM's Qwen attention still builds where the config has the key, hands
out five queries side by side and asks for a GPU. Here the attention turns queries on for the chunk
before and the earlier ones, as everywhere in longctx.

Shape legend: T tokens, H heads, D head dimension, F = D / 2 frequencies, S tokens of a chunk.
"""

from __future__ import annotations

import torch
from vllm.model_executor.custom_op import CustomOp
from vllm.model_executor.layers.rotary_embedding.dual_chunk_rope import DualChunkRotaryEmbedding

from longctx.attention.rope import base_inv_freq, rotate, rotation

REPLACED = "DualChunkRotaryEmbedding"


class FoldedRotary(DualChunkRotaryEmbedding):
    """Built in the place of vLLM's class, so it must be one of its kind, or is never initialised.

    Raises:
        ValueError: a rotary over a part of the head, or over interleaved pairs.
    """

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
        chunk_size: int,
        local_size: int,
    ) -> None:
        CustomOp.__init__(self)
        if rotary_dim != head_size or not is_neox_style:
            raise ValueError(
                f"Dual Chunk Attention needs a rotary over the whole head in halves: this one "
                f"turns {rotary_dim} of {head_size}"
                + ("" if is_neox_style else ", in interleaved pairs")
            )
        self.head_size = head_size
        self.chunk_len = chunk_size - local_size
        table = rotation(torch.arange(self.chunk_len), base_inv_freq(base, head_size))
        self.register_buffer("turns_2SF", table, persistent=False)

    def extra_repr(self) -> str:
        return f"head_size={self.head_size}, chunk_len={self.chunk_len}"

    def forward_native(
        self,
        positions: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        offsets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """positions [T], query and key [T, H * D]; both rotated, of the same shape and dtype."""
        turns_2T1F = self.turns_2SF[:, positions.flatten() % self.chunk_len].unsqueeze(2)
        return self._turn(query, turns_2T1F), self._turn(key, turns_2T1F)

    def _turn(self, x: torch.Tensor, turns_2T1F: torch.Tensor) -> torch.Tensor:
        x_THD = x.view(turns_2T1F.shape[1], -1, self.head_size)
        return rotate(x_THD, turns_2T1F).view(x.shape)

    forward_cuda = forward_cpu = forward_native
