"""Schemes: arguments, the config's key, family rules, and every refusal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from longctx.attention import default_method, resolve
from longctx.attention.methods import DCA_METHODS, FACTOR_METHODS, METHODS, TRAITS
from longctx.options.declare import options_of
from longctx.options.needle import NeedleOptions

KEY_1M = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}


def numbers(scheme):
    return scheme.chunk_size, scheme.local_size, scheme.original_length


def test_qwen2_defaults() -> None:
    for config in (
        Qwen2Config(max_position_embeddings=32768),
        Qwen2Config(max_position_embeddings=131072),
        Qwen3Config(max_position_embeddings=40960),
    ):
        scheme = resolve(config, "yarn+dca")
        assert numbers(scheme) == (32768, 1024, 32768)
        assert scheme.chunk_len == 31744
        assert scheme.sources["chunk_size"] == "Qwen2 family"


def test_short_qwen2_models_use_their_own_window() -> None:
    assert numbers(resolve(Qwen2Config(max_position_embeddings=512), "dca")) == (512, 16, 512)


def test_key_of_the_1m_models_is_read() -> None:
    config = Qwen2Config(
        max_position_embeddings=1_010_000, dual_chunk_attention_config=dict(KEY_1M)
    )
    scheme = resolve(config, "yarn+dca")
    assert numbers(scheme) == (262144, 8192, 262144)
    assert set(scheme.sources.values()) == {"dual_chunk_attention_config"}


def test_key_without_original_length_falls_back_to_chunk_size() -> None:
    key = {"chunk_size": 4096, "local_size": 512}
    config = Qwen2Config(max_position_embeddings=32768, dual_chunk_attention_config=key)
    scheme = resolve(config, "yarn+dca")
    assert numbers(scheme) == (4096, 512, 4096)
    assert scheme.sources["original_length"] == "chunk_size"


def test_arguments_win() -> None:
    config = Qwen2Config(
        max_position_embeddings=1_010_000, dual_chunk_attention_config=dict(KEY_1M)
    )
    scheme = resolve(config, "dca", chunk_size=64, local_size=16, original_length=48)
    assert numbers(scheme) == (64, 16, 48)
    assert set(scheme.sources.values()) == {"argument"}


def test_other_models_take_seven_eighths() -> None:
    scheme = resolve(LlamaConfig(max_position_embeddings=8192), "dca")
    assert (scheme.chunk_size, scheme.local_size) == (7168, 1024)


def test_rope_parameters_original_length_counts_for_the_qwen2_family() -> None:
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "original_max_position_embeddings": 16384,
    }
    config = SimpleNamespace(
        model_type="qwen2", rope_parameters=rope, max_position_embeddings=131072
    )
    assert numbers(resolve(config, "dca")) == (16384, 512, 16384)


def test_trained_llama3_scaling_is_no_conflict_and_its_window_is_the_long_one() -> None:
    config = LlamaConfig(
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    scheme = resolve(config, "dca")
    assert (scheme.chunk_size, scheme.local_size) == (114688, 16384)


def yarn_config(**more):
    return Qwen2Config(
        max_position_embeddings=32768,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
        **more,
    )


def test_yarn_takes_the_configs_factor_or_the_argument() -> None:
    assert resolve(yarn_config(), "yarn").factor == 4.0
    assert resolve(yarn_config(), "yarn", factor=2).factor == 2.0


@pytest.mark.parametrize("factor", [0.5, "4.0"])
def test_the_configs_factor_is_checked_as_the_argument_is(factor: Any) -> None:
    config = yarn_config()
    config.rope_parameters["factor"] = factor
    with pytest.raises(ValueError, match="must be a finite number of at least 1"):
        resolve(config, "yarn")


@pytest.mark.parametrize("method", ["pi", "ntk", "dca", "yarn+dca", "yarn-freqs+dca"])
def test_yarn_in_the_config_conflicts_with_every_other_method(method: str) -> None:
    factor = {"factor": 2.0} if method in ("pi", "ntk", "yarn-freqs+dca") else {}
    with pytest.raises(ValueError, match=rf"rope_type 'yarn'.*method '{method[:4]}.*use method 'y"):
        resolve(yarn_config(), method, **factor)


@pytest.mark.parametrize("method", ["yarn", "yarn+dca", "dca"])
def test_yarn_beside_a_dca_key_is_an_error_that_names_the_methods(method: str) -> None:
    config = yarn_config(dual_chunk_attention_config={"chunk_size": 32768, "local_size": 1024})
    with pytest.raises(ValueError, match=r"both rope_type 'yarn' and dual_chunk.*'yarn'.*'dca'"):
        resolve(config, method)


def test_none_changes_nothing_and_says_what_stays() -> None:
    key = {"chunk_size": 32768, "local_size": 1024}
    for config in (yarn_config(), yarn_config(dual_chunk_attention_config=key)):
        assert "the config's own yarn scaling stays active" in str(resolve(config, "none"))
    assert "scaling" not in str(resolve(Qwen2Config(), "none"))


def test_trained_window_bounds_the_chunk_unless_told_otherwise() -> None:
    long = Qwen2Config(max_position_embeddings=131072)
    with pytest.raises(ValueError, match=r"chunk_size=65536 exceeds .* of 32768 tokens.*original_"):
        resolve(long, "dca", chunk_size=65536)
    scheme = resolve(long, "dca", chunk_size=65536, original_length=65536)
    assert scheme.chunk_size == 65536
    assert resolve(long, "dca", original_length=65536).sources["chunk_size"] == "original_length"


def test_ramp_and_factor_are_relative_to_the_trained_window() -> None:
    """Not to the chunk, though the temperature is."""
    config = LlamaConfig(max_position_embeddings=8192)
    scheme = resolve(config, "yarn-freqs+dca", request_length=8192)
    assert (scheme.trained_length, scheme.original_length, scheme.factor) == (8192, 7168, 1.0)


def test_keys_of_the_config_are_checked_like_arguments() -> None:
    for key, message in (
        ({"chunk_size": -5}, r"dual_chunk_attention_config.chunk_size=-5 must be a positive"),
        ({"original_max_position_embeddings": 0}, "embeddings=0 must be a positive whole number"),
        (
            {"chunk_size": 64, "local_sise": 8},
            "unknown key 'local_sise': did you mean 'local_size'",
        ),
        ({"window": 8}, "unknown key 'window': known are chunk_size, local_size, original"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve(Qwen2Config(dual_chunk_attention_config=key), "dca")
    sparse = {"chunk_size": 64, "local_size": 8, "sparse_attention_enabled": True}
    assert resolve(Qwen2Config(dual_chunk_attention_config=sparse), "dca").chunk_size == 64


def test_dynamic_scaling_conflicts_too() -> None:
    config = LlamaConfig(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        max_position_embeddings=2048,
    )
    with pytest.raises(ValueError, match="rope_type 'dynamic', which conflicts with method 'dca'"):
        resolve(config, "dca")


def test_default_factor_is_a_power_of_two_over_the_window() -> None:
    config = LlamaConfig(max_position_embeddings=8192)
    for length, factor in ((4096, 1), (8192, 1), (8193, 2), (12288, 2), (131072, 16)):
        assert resolve(config, "yarn", request_length=length).factor == factor
    with pytest.raises(ValueError, match=r"'pi' needs factor= .* 8192 tokens\), or request_length"):
        resolve(config, "pi")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dac"}, "method='dac' is unknown: choose one of none, pi"),
        ({"method": "dca", "cap": "C"}, "cap='C' is unknown: choose one of chunk_size"),
        ({"method": "yarn", "chunk_size": 64, "factor": 2}, "chunk_size=64 has no effect with"),
        ({"method": "none", "local_size": 64}, "local_size=64 has no effect with method 'none'"),
        ({"method": "dca", "factor": 2}, "factor=2 has no effect with method 'dca'"),
        ({"method": "dca", "chunk_size": 0}, "chunk_size=0 must be a positive whole number"),
        ({"method": "dca", "chunk_size": 1.5}, "chunk_size=1.5 must be a positive whole number"),
        ({"method": "dca", "original_length": -1}, "original_length=-1 must be a positive"),
        ({"method": "dca", "request_length": 0}, "request_length=0 must be a positive"),
        ({"method": "yarn", "factor": 0.5}, "factor=0.5 must be a finite number of at least 1"),
        ({"method": "yarn", "factor": float("nan")}, "factor=nan must be"),
        ({"method": "dca", "chunk_size": 64, "local_size": 64}, "local_size=64 must lie between"),
        ({"method": "dca", "chunk_size": 64, "local_size": 99}, "local_size=99 must lie between"),
        ({"method": "dca", "chunk_size": 40000}, "chunk_size=40000 exceeds the trained window"),
        ({"method": "dca", "chunk_size": "abc"}, "chunk_size='abc' must be a positive whole"),
        ({"method": "dca", "local_size": float("nan")}, "local_size=nan must be a positive"),
        ({"method": "yarn", "factor": "4"}, "factor='4' must be a finite number"),
        ({"method": "yarn", "factor": 2, "cap": "chunk_size-1"}, "cap=chunk_size-1 has no effect"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        resolve(Qwen2Config(max_position_embeddings=32768), **arguments)
    assert "\n" not in str(error.value)


def test_sliding_windows() -> None:
    inert = Qwen2Config(sliding_window=4096, use_sliding_window=False)
    assert resolve(inert, "dca").method == "dca"
    active = Qwen2Config(
        sliding_window=4096, use_sliding_window=True, max_window_layers=2, num_hidden_layers=4
    )
    with pytest.raises(ValueError, match=r"config.layer_types has sliding_attention \(sliding_win"):
        resolve(active, "dca")
    with pytest.raises(ValueError, match=r"config.sliding_window=4096 is active"):
        resolve(MistralConfig(sliding_window=4096), "yarn+dca")
    assert resolve(MistralConfig(sliding_window=None), "dca").method == "dca"
    assert resolve(MistralConfig(sliding_window=4096), "none").method == "none"


def test_other_refusals() -> None:
    per_layer = SimpleNamespace(
        model_type="gemma3", rope_parameters={"full_attention": {}, "sliding_attention": {}}
    )
    with pytest.raises(ValueError, match="of 'gemma3' differ by layer type"):
        resolve(per_layer, "dca")
    with pytest.raises(ValueError, match="original_length is needed"):
        resolve(SimpleNamespace(model_type="x"), "dca")
    with pytest.raises(ValueError, match="dual_chunk_attention_config=7 must be an object"):
        resolve(Qwen2Config(dual_chunk_attention_config=7), "dca")


def test_printed_scheme_says_where_numbers_come_from_and_dict_has_the_stable_keys() -> None:
    scheme = resolve(Qwen2Config(max_position_embeddings=32768), "yarn+dca")
    assert str(scheme).startswith("method yarn+dca, chunk_size 32768 (Qwen2 family), local_size")
    assert scheme.to_dict(4096) == {
        "method": "yarn+dca",
        "chunk_size": 32768,
        "local_size": 1024,
        "cap": "chunk_size",
        "L0": 32768,
        "factor": None,
        "request_length": 4096,
    }


def test_default_methods() -> None:
    assert default_method(Qwen2Config()) == "yarn+dca"
    assert default_method(LlamaConfig()) == "dca"


def test_every_method_is_in_the_documentation() -> None:
    page = Path(__file__).parents[2] / "docs" / "python-api.md"
    section = page.read_text(encoding="utf-8").split("\n## Methods\n")[1].split("\n## ")[0]
    assert [name for name in METHODS if f"`{name}`" not in section] == []


def test_a_temperature_in_the_softmax_needs_chunks() -> None:
    """Without them the drop-in leaves the attention function alone: it would do nothing."""
    assert {
        name for name, method in TRAITS.items() if method.temperature in ("factor", "length")
    } <= set(DCA_METHODS)


def test_the_flag_of_the_factor_names_the_methods_that_have_one() -> None:
    """Options import no attention, so that help is fast: the names stand there once more."""
    (factor,) = (option for option in options_of(NeedleOptions) if option.field == "factor")
    assert f"Extension factor of {', '.join(FACTOR_METHODS)}. " in factor.about.help
