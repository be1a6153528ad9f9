"""What the plugin makes of vLLM's configuration: settled once, read back the same, or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from longctx.attention.rope import temperature
from longctx.vllm.layers import check_layer
from longctx.vllm.settings import bucket_of, logit_scale, salt_of, scheme_of, settle, theta_of

SMALL = {"chunk_size": 256, "local_size": 32, "original_length": 256}


def vllm_config(given: Any = None, **config: Any) -> Any:
    text = SimpleNamespace(
        **{
            "model_type": "qwen2",
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            **config,
        }
    )
    additional = {} if given is None else {"longctx": given}
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=text), additional_config=additional
    )


def test_a_model_that_nobody_asks_for_chunks_is_left_alone() -> None:
    config = vllm_config()
    assert settle(config) is None and scheme_of(config) is None
    assert not hasattr(config.model_config.hf_text_config, "dual_chunk_attention_config")


@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
@pytest.mark.parametrize("cap", ["chunk_size", "chunk_size-1"])
def test_what_is_settled_is_read_back(method, cap) -> None:
    config = vllm_config({"method": method, "cap": cap, **SMALL})
    scheme = settle(config)
    assert scheme is not None and scheme.method == method and scheme.cap == cap
    assert config.model_config.hf_text_config.dual_chunk_attention_config == {
        "chunk_size": 256,
        "local_size": 32,
        "original_max_position_embeddings": 256,
    }
    assert scheme_of(config) == scheme
    assert settle(config) == scheme  # another process settles again


def test_qwen2_takes_its_published_recipe() -> None:
    scheme = settle(vllm_config({}, max_position_embeddings=131072))
    assert scheme is not None
    assert (scheme.method, scheme.chunk_size, scheme.local_size) == ("yarn+dca", 32768, 1024)
    assert scheme.original_length == 32768


def test_a_checkpoint_with_the_key_needs_no_settings() -> None:
    key = {
        "chunk_size": 262144,
        "local_size": 8192,
        "original_max_position_embeddings": 262144,
        "sparse_attention_enabled": True,
    }
    config = vllm_config(dual_chunk_attention_config=key, max_position_embeddings=1010000)
    scheme = settle(config)
    assert scheme is not None and scheme.chunk_len == 262144 - 8192
    assert scheme_of(config) == scheme


def test_none_takes_the_key_out() -> None:
    key = {"chunk_size": 256, "local_size": 32}
    config = vllm_config({"method": "none"}, dual_chunk_attention_config=key)
    assert settle(config) is None and scheme_of(config) is None
    assert not hasattr(config.model_config.hf_text_config, "dual_chunk_attention_config")


@pytest.mark.parametrize(
    ("given", "config", "message"),
    [
        ({"chunksize": 5}, {}, "unknown key 'chunksize': did you mean 'chunk_size'"),
        ({"speed": 5}, {}, "known are method, chunk_size"),
        (7, {}, "longctx=7 must be an object"),
        ({"method": "yarn"}, {}, "'yarn' cannot run in vLLM: choose one of none, dca, yarn"),
        ({"method": "dca", "chunk_size": 0}, {}, "chunk_size=0 must be a positive"),
        (
            {"method": "dca"},
            {"sliding_window": 4096, "use_sliding_window": True},
            "sliding_window=4096 is active",
        ),
        (
            {"method": "dca"},
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            "'yarn', which conflicts with method 'dca'",
        ),
        (
            {"method": "dca"},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}},
            "'dca' in vLLM needs 'default'",
        ),
        ({"method": "dca"}, {"rope_parameters": {}}, "has no rope_theta"),
    ],
)
def test_refusals_name_what_is_wrong(given, config, message) -> None:
    with pytest.raises(ValueError, match=message):
        settle(vllm_config(given, **config))


def test_settings_that_no_class_has_taken_up_are_refused() -> None:
    config = vllm_config({"method": "dca"}, model_type="llama")
    with pytest.raises(ValueError, match="cannot run in llama's class"):
        scheme_of(config)


def test_none_is_nobodys_business_in_a_class_without_a_hook() -> None:
    assert scheme_of(vllm_config({"method": "none"}, model_type="llama")) is None


def test_temperatures_and_salts_follow_the_bucket() -> None:
    scheme = settle(vllm_config({"method": "yarn+dca", **SMALL}))
    assert scheme is not None
    assert bucket_of(scheme, 10) == bucket_of(scheme, 256) == 256
    assert logit_scale(scheme, 10) == 1.0
    edge = bucket_of(scheme, 1000)
    assert edge >= 1000 and logit_scale(scheme, 1000) == temperature(edge, 256) ** 2
    assert salt_of(scheme, None, 1000) == salt_of(scheme, None, edge)
    assert salt_of(scheme, None, 1000) != salt_of(scheme, None, edge + 1)
    assert salt_of(scheme, "tenant", 1000) == f"tenant|{salt_of(scheme, None, 1000)}"
    plain = settle(vllm_config({"method": "dca", **SMALL}))
    assert plain is not None and logit_scale(plain, 1000) == 1.0
    assert salt_of(plain, None, 10) == salt_of(plain, None, 5000) != salt_of(scheme, None, 10)


def test_the_base_is_the_configs() -> None:
    assert theta_of(vllm_config(rope_parameters={"rope_theta": 1e7})) == 1e7


def test_layers_that_ask_for_more_are_refused() -> None:
    key = {"chunk_size": 256, "local_size": 32}
    check_layer(key, sinks=None, logits_soft_cap=None, sliding_window=None)
    with pytest.raises(ValueError, match="has no logits_soft_cap, and got 30"):
        check_layer(key, logits_soft_cap=30.0)
    with pytest.raises(ValueError, match="without dual_chunk_attention_config"):
        check_layer(None)
