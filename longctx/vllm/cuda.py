"""Dual Chunk Attention for vLLM on CUDA: longctx's layout over vLLM's pages and FlashAttention.

The step is planned in build(), from what the host knows; a layer stores its keys with vLLM's own
function and calls the paged kernel once or twice, and nobody waits for the device. Not captured in
CUDA graphs: the layers between attentions are.

Shape legend: T tokens, R requests, H query heads, K key/value heads, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.utils.torch_utils import canonicalize_singleton_dim_strides
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    MultipleOf,
)
from vllm.v1.attention.backends.fa_utils import get_flash_attn_version

from longctx.attention.packed import attend_tokens
from longctx.vllm.impl import DualChunkBuilder, DualChunkImpl
from longctx.vllm.pages import DeviceTemperatures, PagedKernel, PagedStep, plan_pages
from longctx.vllm.settings import logit_scale
from longctx.vllm.steps import VllmRow

_LOWEST_CAPABILITY = 8  # FlashAttention's


class DualChunkCudaBackend(AttentionBackend):
    """Registered under vLLM's name for backends of others."""

    forward_includes_kv_cache_update = False

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        return DualChunkCudaImpl

    @staticmethod
    def get_builder_cls() -> type[AttentionMetadataBuilder]:
        return DualChunkCudaBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        return [MultipleOf(16)]

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        return head_size % 8 == 0 and head_size <= 256

    @classmethod
    def supports_compute_capability(cls, capability: Any) -> bool:
        return bool(capability.major >= _LOWEST_CAPABILITY)

    @classmethod
    def supports_rswa(cls) -> bool:
        return True  # of which only the prompts' lengths are read


class DualChunkCudaBuilder(DualChunkBuilder):
    """One layout a step."""

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        scheme = self.scheme
        self.temperatures = DeviceTemperatures(
            scheme.original_length,
            vllm_config.model_config.max_model_len,
            lambda edge: logit_scale(scheme, edge),
            device,
        )

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> PagedStep | None:
        common = common_attn_metadata
        starts = common.query_start_loc_cpu.tolist()
        ends = common.seq_lens_cpu_upper_bound.tolist()
        lengths = [starts[at + 1] - starts[at] for at in range(common.num_reqs)]
        prompts, m_T = self._prompt_lengths(common), None
        scales = [1.0] * common.num_reqs
        if prompts is not None and prompts.device.type == "cpu":
            scales = [logit_scale(self.scheme, n) for n in prompts.tolist()[: common.num_reqs]]
        elif prompts is not None:
            m_T = self.temperatures.of_tokens(prompts, lengths)
        requests = [
            VllmRow(starts[at], lengths[at], ends[at], (), scales[at])
            for at in range(common.num_reqs)
        ]
        return plan_pages(requests, self.turns, common.block_table_tensor, self.page, m_T)


class DualChunkCudaImpl(DualChunkImpl):
    """Attention of one layer."""

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Store new keys and values, [T, K, D], at their slots."""
        from vllm.v1.attention.backends.fa_utils import reshape_and_cache_flash

        keys, values = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        reshape_and_cache_flash(
            key,
            value,
            keys,
            values,
            slot_mapping,
            self.kv_cache_dtype,
            layer._k_scale,
            layer._v_scale,
        )

    def _attend(self, q_THD: torch.Tensor, kv_cache: torch.Tensor, step: PagedStep) -> torch.Tensor:
        from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func

        keys, values = (
            canonicalize_singleton_dim_strides(half)
            for half in kv_cache.transpose(1, 2).split(self.head_size, dim=-1)
        )
        version = get_flash_attn_version(head_size=self.head_size)
        kernel = PagedKernel(step, flash_attn_varlen_func, version or 2)
        return attend_tokens(step.layout, q_THD, keys, values, kernel, self.scale)
