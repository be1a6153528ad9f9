"""What layers have in common, whatever computes them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from vllm.v1.attention.backend import AttentionImpl, AttentionMetadataBuilder, AttentionType

from longctx.attention.chunks import Turns
from longctx.attention.rope import base_inv_freq
from longctx.vllm.layers import check_layer
from longctx.vllm.settings import scheme_of, theta_of


class DualChunkBuilder(AttentionMetadataBuilder):
    """
    Raises:
        RuntimeError: the model's configuration has no scheme.
    """

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        scheme = scheme_of(vllm_config)
        if scheme is None or scheme.chunk_map is None:
            raise RuntimeError("longctx: the attention was chosen for a model without a scheme")
        self.scheme = scheme
        self.page: int = kv_cache_spec.block_size
        inv_freq_F = base_inv_freq(theta_of(vllm_config), kv_cache_spec.head_size)
        self.turns = Turns(scheme.chunk_map, inv_freq_F.to(device))

    def _prompt_lengths(self, common: Any) -> torch.Tensor | None:
        """[R], on the host or on the device; None where the temperature needs none.

        Raises:
            RuntimeError: it does, and vLLM hands none out.
        """
        if not self.scheme.uses_request_length:
            return None
        if common.rswa_prefix_lens is None:
            raise RuntimeError(
                f"longctx: method {self.scheme.method!r} needs the prompts' lengths, and this vLLM "
                "hands none to the attention"
            )
        lengths: torch.Tensor = common.rswa_prefix_lens
        return lengths


class DualChunkImpl(AttentionImpl):
    """Attention of one layer.

    Shape legend: T tokens of a step, H query heads, K key/value heads, D head dimension.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
        layer_idx: int | None = None,
        dual_chunk_attention_config: dict[str, Any] | None = None,
    ) -> None:
        check_layer(
            dual_chunk_attention_config,
            alibi_slopes=alibi_slopes,
            sliding_window=sliding_window,
            logits_soft_cap=logits_soft_cap,
            kv_sharing_target_layer_name=kv_sharing_target_layer_name,
            sinks=sinks,
            attn_type=None if attn_type == AttentionType.DECODER else attn_type,
        )
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.kv_cache_dtype = kv_cache_dtype

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query and output [T, H, D], kv_cache [pages, K, page, 2 D]; tokens behind the step's are
        padding, and left as they are.

        Args:
            attn_metadata: what the builder made; None: nobody has a token, or memory is measured.

        Raises:
            NotImplementedError: the output is to be quantised.
        """
        if output_scale is not None or output_block_scale is not None:
            raise NotImplementedError("longctx: the attention's output is not quantised")
        if attn_metadata is None:
            return output.zero_()
        tokens = attn_metadata.tokens
        output[:tokens].copy_(self._attend(query[:tokens], kv_cache, attn_metadata))
        return output

    @abstractmethod
    def _attend(self, q_THD: torch.Tensor, kv_cache: torch.Tensor, step: Any) -> torch.Tensor:
        """[T, H, D] of a step's tokens, whose keys are in the cache already."""
