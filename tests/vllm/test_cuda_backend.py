"""The CUDA backend through vLLM's own metadata, with stand-ins for what needs a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda, real
from oracle import relative_error
from paged_batches import DIM, HEADS, KV_HEADS, Batch, DeviceVarlen, Varlen, batch_of

from longctx.vllm import version
from longctx.vllm.settings import settle

pytestmark = [
    pytest.mark.skipif(
        version.installed() is None,
        reason="vLLM is not installed: `make test-vllm` runs this in an environment that has it",
    ),
    pytest.mark.filterwarnings("ignore"),  # of vLLM, which is imported here
]


def written(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
) -> None:
    """vLLM's `reshape_and_cache_flash`; caches are [pages, page, K, D], slots run through them."""
    assert slot_mapping.dtype == torch.int64 and kv_cache_dtype == "auto"
    page = key_cache.shape[1]
    for at, slot in enumerate(slot_mapping.tolist()):
        if slot >= 0:
            key_cache[slot // page, slot % page] = key[at]
            value_cache[slot // page, slot % page] = value[at]


@pytest.fixture
def varlen(monkeypatch: pytest.MonkeyPatch) -> Varlen:
    from vllm.v1.attention.backends import fa_utils

    from longctx.vllm import cuda

    made = Varlen()
    monkeypatch.setattr(fa_utils, "flash_attn_varlen_func", made, raising=False)
    monkeypatch.setattr(fa_utils, "reshape_and_cache_flash", written, raising=False)
    monkeypatch.setattr(cuda, "get_flash_attn_version", lambda head_size: 3)
    return made


def config_of(batch: Batch, method: str) -> Any:
    chunk = batch.turns.chunk_map
    text = SimpleNamespace(
        model_type="qwen2",
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    given = {"method": method, "chunk_size": chunk.chunk_size, "local_size": chunk.local_size}
    given["original_length"] = chunk.chunk_size
    config = SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=text, max_model_len=4096),
        additional_config={"longctx": given},
    )
    assert settle(config) is not None
    return config


def metadata_of(batch: Batch, padding: int) -> Any:
    """As the model runner has it; `padding` requests without tokens behind the others."""
    from vllm.v1.attention.backend import CommonAttentionMetadata

    tokens = len(batch.q_THD)
    starts = [*(each.first for each in batch.requests), *[tokens] * (padding + 1)]
    ends = [*(each.end for each in batch.requests), *[0] * padding]
    count, page = len(ends), batch.page
    slots = [
        int(batch.table_RP[at, p // page]) * page + p % page
        for at, each in enumerate(batch.requests)
        for p in range(each.end - each.length, each.end)
    ]
    return CommonAttentionMetadata(
        query_start_loc=torch.tensor(starts, dtype=torch.int32),
        query_start_loc_cpu=torch.tensor(starts, dtype=torch.int32),
        seq_lens=torch.tensor(ends, dtype=torch.int32),
        seq_lens_cpu_upper_bound=torch.tensor(ends, dtype=torch.int32),
        num_reqs=count,
        num_actual_tokens=tokens,
        max_query_len=max(each.length for each in batch.requests),
        max_seq_len=max(ends),
        block_table_tensor=torch.cat((batch.table_RP, batch.table_RP[:1].repeat(padding, 1))),
        slot_mapping=torch.tensor(slots, dtype=torch.int64),
        rswa_prefix_lens=torch.tensor([*batch.prompts, *[0] * padding], dtype=torch.int32),
    )


def layer_of() -> Any:
    from longctx.vllm.cuda import DualChunkCudaImpl

    impl = object.__new__(DualChunkCudaImpl)  # the base's __new__ asks for process groups
    impl.__init__(  # type: ignore[misc]
        HEADS,
        DIM,
        DIM**-0.5,
        KV_HEADS,
        None,
        None,
        "auto",
        None,
        layer_idx=0,
        dual_chunk_attention_config={"chunk_size": 1},
    )
    return impl


CASES = [
    ("prefill", 2, 16, "dca"),
    ("decode", 12, 32, "yarn+dca"),
    ("mixed", 5, 16, "yarn+dca"),
    ("mixed", 3, 128, "dca"),
    ("mixed", 2, 256, "yarn+dca"),
    ("preempted", 3, 16, "yarn+dca"),
    ("mixed, some preempted", 64, 64, "yarn+dca"),
]


@pytest.mark.parametrize(("kind", "count", "page", "method"), CASES)
def test_metadata_cache_and_attention_equal_the_oracle(kind, count, page, method, varlen) -> None:
    from longctx.vllm.cuda import DualChunkCudaBackend

    batch = batch_of(kind, count, page, method, seed=count)
    config = config_of(batch, method)
    spec = SimpleNamespace(block_size=page, head_size=DIM)
    builder = DualChunkCudaBackend.get_builder_cls()(spec, ["0"], config, torch.device("cpu"))
    common = metadata_of(batch, padding=2)
    impl = layer_of()
    # What the step itself brings is not in the cache yet.
    slots, tokens = common.slot_mapping, len(batch.q_THD)
    cache = batch.cache.clone()
    new = cache[slots // page, :, slots % page].clone()
    cache[slots // page, :, slots % page] = torch.nan
    layer = SimpleNamespace(_k_scale=torch.ones(()), _v_scale=torch.ones(()))
    key, value = new.split(DIM, dim=-1)
    impl.do_kv_cache_update(layer, key, value, cache, slots)
    assert torch.equal(cache[slots // page, :, slots % page], new)
    output = torch.full((tokens + 3, HEADS, DIM), 7.0)
    query = torch.cat((batch.q_THD, torch.full((3, HEADS, DIM), torch.nan)))
    impl.forward(layer, query, key, value, cache, builder.build(0, common), output)
    assert relative_error(output[:tokens], batch.want_THD) < 1e-5
    assert bool((output[tokens:] == 7.0).all())  # padding is nobody's
    assert len(varlen.calls) in (1, 2)


@pytest.mark.parametrize("known_on", ["host", "device"])
def test_a_step_waits_for_no_device_in_build_or_forward(known_on, varlen, monkeypatch) -> None:
    """Prompts' lengths come from the host or, in vLLM's newer model runner, from the device."""
    from vllm.v1.attention.backends import fa_utils

    from longctx.vllm.cuda import DualChunkCudaBackend

    monkeypatch.setattr(fa_utils, "flash_attn_varlen_func", DeviceVarlen())
    batch = batch_of("mixed, some preempted", 5, 16, "yarn+dca", seed=5)
    config, common = config_of(batch, "yarn+dca"), metadata_of(batch, padding=1)
    spec = SimpleNamespace(block_size=16, head_size=DIM)
    with FakeCuda(devices=1) as cuda:
        device: Any = torch.device("cuda:0")
        builder = DualChunkCudaBackend.get_builder_cls()(spec, ["0"], config, device)
        names = ["query_start_loc", "seq_lens", "block_table_tensor", "slot_mapping"]
        names += ["rswa_prefix_lens"] if known_on == "device" else []
        for name in names:
            setattr(common, name, getattr(common, name).to(device))
        cache, query = batch.cache.to(device), batch.q_THD.to(device)
        output = torch.zeros_like(query)
        builder.build(0, common)  # its table of rotations is made once
        with cuda.during() as waits:
            step = builder.build(0, common)
            layer_of().forward(None, query, query, query, cache, step, output)
        assert waits == [] and output.device == device
    assert relative_error(real(output), batch.want_THD) < 1e-5


def test_vllm_finds_it_fit_for_what_it_checks() -> None:
    from vllm.platforms.interface import DeviceCapability

    from longctx.vllm.cuda import DualChunkCudaBackend

    def reasons(major: int = 8, **other: Any) -> list[str]:
        asked: dict[str, Any] = {
            "head_size": 128,
            "dtype": torch.bfloat16,
            "kv_cache_dtype": "auto",
            "block_size": 16,
            "use_mla": False,
            "has_sink": False,
            "use_sparse": False,
            "use_mm_prefix": False,
            "use_per_head_quant_scales": False,
            "device_capability": DeviceCapability(major, 0),
            "attn_type": "decoder",
            "use_rswa": True,
        }
        return list(DualChunkCudaBackend.validate_configuration(**(asked | other)))

    assert reasons() == [] == reasons(major=9)
    assert reasons(major=7) and reasons(kv_cache_dtype="fp8") and reasons(dtype=torch.float32)
    assert reasons(use_dcp=True) and reasons(use_pcp=True) and reasons(has_sliding_window=True)
    assert reasons(block_size=8) and reasons(head_size=130) and reasons(has_sink=True)


def test_memory_is_measured_without_metadata() -> None:
    from longctx.vllm.cuda import DualChunkCudaImpl

    impl = object.__new__(DualChunkCudaImpl)
    output = torch.ones(2, HEADS, DIM)
    empty = torch.empty(0)
    assert impl.forward(None, empty, empty, empty, empty, None, output) is output
    assert not output.any()
    with pytest.raises(NotImplementedError, match="output is not quantised"):
        impl.forward(None, empty, empty, empty, empty, None, output, torch.ones(()))
