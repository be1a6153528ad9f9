"""Dual Chunk Attention for vLLM's CPU platform: longctx's plan and kernels over vLLM's cache.

A layer's cache is asked for with heads outermost, so that a head's slots of all pages lie one
behind the other: keys of neighbouring pages are read in place, as one run.

Shape legend: T tokens of a step, H query heads, K key/value heads, N slots of all pages, D head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.attention.backend import AttentionImpl, AttentionMetadataBuilder
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.kv_cache_layout import KVCacheLayout

from longctx.attention import kernels
from longctx.attention.step import StepPlan, attend_step, plan_step
from longctx.vllm.impl import DualChunkBuilder, DualChunkImpl
from longctx.vllm.settings import logit_scale
from longctx.vllm.steps import VllmRow, rows_of


@dataclass
class CpuMetadata:
    """A step, for all layers.

    Attributes:
        tokens: of the step; those behind are padding.
        gathered: slots of sequences whose keys are brought together.
    """

    plan: StepPlan
    gathered: tuple[torch.Tensor, ...]
    tokens: int
    page: int


class DualChunkCpuBackend(CPUAttentionBackend):
    """Its name stays CPU_ATTN: vLLM looks it up among its own."""

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        return []  # all

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        return (KVCacheLayout.LHBNC,)

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        return DualChunkCpuImpl

    @staticmethod
    def get_builder_cls() -> type[AttentionMetadataBuilder]:
        return DualChunkCpuBuilder


class DualChunkCpuBuilder(DualChunkBuilder):
    """One plan a step."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False
    ) -> CpuMetadata:
        common = common_attn_metadata
        starts = common.query_start_loc_cpu.tolist()
        ends = common.seq_lens.tolist()
        tables = common.block_table_tensor
        requests = [
            VllmRow(
                starts[at],
                starts[at + 1] - starts[at],
                ends[at],
                tables[at, : -(-ends[at] // self.page)].tolist(),
                scale,
            )
            for at, scale in enumerate(self._scales(common))
        ]
        step = rows_of(requests, self.page)
        plan = plan_step(step.rows, self.turns)
        return CpuMetadata(plan, step.gathered, starts[common.num_reqs], self.page)

    def _scales(self, common: Any) -> list[float]:
        prompts = self._prompt_lengths(common)
        if prompts is None:
            return [1.0] * common.num_reqs
        return [logit_scale(self.scheme, length) for length in prompts.tolist()[: common.num_reqs]]


class DualChunkCpuImpl(DualChunkImpl):
    """Attention of one layer."""

    _kernel: kernels.Kernel | None = None
    _kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Store new keys and values, [T, K, D], at their slots; padding has slot -1."""
        tokens = slot_mapping.shape[0]
        key, value = key[:tokens], value[:tokens]
        if tokens and int(slot_mapping.min()) < 0:
            real = slot_mapping >= 0
            slot_mapping, key, value = slot_mapping[real], key[real], value[real]
        slots = slot_mapping.long()
        keys_1KND, values_1KND = self._stacks(kv_cache)
        keys_1KND.index_copy_(2, slots, key.transpose(0, 1)[None])
        values_1KND.index_copy_(2, slots, value.transpose(0, 1)[None])

    def _attend(
        self, q_THD: torch.Tensor, kv_cache: torch.Tensor, step: CpuMetadata
    ) -> torch.Tensor:
        """
        Raises:
            RuntimeError: the cache has other pages than the step was planned for.
        """
        if kv_cache.shape[2] != step.page:
            raise RuntimeError(
                f"longctx: planned for pages of {step.page} slots, and the cache has pages of "
                f"{kv_cache.shape[2]}"
            )
        if self._kernel is None:
            self._kernel = kernels.resolve("auto", q_THD.device, q_THD.dtype)
        keys, values = (
            (x_1KND, *(x_1KND.index_select(2, slots) for slots in step.gathered))
            for x_1KND in self._stacks(kv_cache)
        )
        q_1HTD = q_THD.transpose(0, 1)[None]
        return attend_step(step.plan, q_1HTD, keys, values, self._kernel, self.scale)[0]

    def _stacks(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [1, K, N, D], views; made once for a layer's cache."""
        if self._kept is None or self._kept[0] is not kv_cache:
            pages, heads, page, width = kv_cache.shape
            both_1KND = kv_cache.transpose(0, 1).view(1, heads, pages * page, width)
            halves = both_1KND.split((self.head_size, width - self.head_size), dim=-1)
            self._kept = kv_cache, halves[0], halves[1]
        return self._kept[1:]
