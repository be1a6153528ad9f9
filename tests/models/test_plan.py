"""Plans against the published sizes, and the rules by which a model is spread over GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoConfig, DeepseekV2Config, LlamaConfig, MambaConfig, Qwen2Config
from typer.testing import CliRunner

from longctx import cli, tiny
from longctx.attention import cpu
from longctx.errors import UserError
from longctx.models import qwen2
from longctx.models.plan import (
    GiB,
    Gpus,
    PlannedModel,
    best,
    model_of,
    on_cpu,
    options_for,
    parse_gpus,
    tensor_parallel_sizes,
)

# Of the cards and configs on the hub.
KV_KIB = {
    "Qwen2-0.5B": 12,
    "Qwen2-1.5B": 28,
    "Qwen2-7B": 56,
    "Qwen2-57B-A14B": 56,
    "Qwen2-72B": 320,
    "Qwen2.5-3B": 36,
    "Qwen2.5-14B": 192,
    "Qwen2.5-32B": 256,
    "Qwen2.5-7B-Instruct-1M": 56,
    "Qwen2.5-14B-Instruct-1M": 192,
}
PARAMETERS = {
    "Qwen2-0.5B": 494_032_768,
    "Qwen2-1.5B": 1_543_714_304,
    "Qwen2-7B": 7_615_616_512,
    "Qwen2-57B-A14B": 57_408_658_944,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
}


def planned(*arguments: str) -> dict[str, Any]:
    """The JSON of `longctx plan ARGUMENTS`."""
    result = CliRunner().invoke(cli.app, ["plan", *arguments, "--json"])
    assert result.exit_code == 0, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def model(config: Any, context: int = 128 * 1024, weights: Any = "bf16") -> PlannedModel:
    return model_of("x", config, context=context, weights=weights, step_tokens=512, logit_rows=64)


def config_of(member: qwen2.Member) -> Any:
    made = member.config()
    return AutoConfig.for_model(made.pop("model_type"), **made)


@pytest.mark.parametrize(("name", "kib"), KV_KIB.items())
def test_keys_and_values_of_the_family(name: str, kib: int) -> None:
    member = qwen2.find(name)
    assert member is not None
    assert member.kv_bytes_per_token == kib * 1024
    assert model(config_of(member)).kv_bytes_per_token == kib * 1024


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_of_the_family(name: str, parameters: int) -> None:
    """Tied embeddings count once, and every expert counts."""
    member = qwen2.find(name)
    assert member is not None
    measured = model(config_of(member))
    assert measured.parameters == parameters
    assert measured.weight_bytes == 2 * parameters


def test_72b_at_128k() -> None:
    plan = planned("Qwen2-72B-Instruct", "--context", "128K", "--gpus", "4x80GB,8x80GB")
    assert plan["kv_bytes"] == 40 * GiB
    assert round(plan["weight_bytes"] / GiB) == 135
    four, eight = plan["best"]
    assert (four["contexts"], four["split"], four["gpus_each"]) == (3, "tensor", 4)
    assert (eight["contexts"], eight["split"], eight["gpus_each"]) == (10, "tensor", 8)
    assert (four["engine"], plan["fits"]) == ("vllm", True)


def test_a_gpu_of_80gb_shows_79_6_gib_and_a_tenth_is_kept() -> None:
    assert Gpus(4, 80).usable_bytes == int(0.9 * 79.6 * GiB)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "sizes"),
    [
        *((28, 4, [1, 2, 4]), (14, 2, [1, 2]), (12, 2, [1, 2, 4]), (40, 8, [1, 2, 4, 8])),
        *((64, 8, [1, 2, 4, 8, 16, 32, 64]), (24, 6, [1, 2])),
    ],
)
def test_tensor_parallel_sizes(heads: int, kv_heads: int, sizes: list[int]) -> None:
    assert tensor_parallel_sizes(heads, kv_heads, 64) == sizes


def test_more_gpus_than_kv_heads_hold_some_twice() -> None:
    """1.5B has 2 KV heads: over 4 GPUs each holds one, which is half and not a quarter."""
    member = qwen2.find("Qwen2-1.5B")
    assert member is not None
    measured = model(config_of(member))
    by_size = {option.gpus_each: option for option in options_for(measured, Gpus(4, 24))[2:]}
    assert by_size[4].kv_bytes_per_context == by_size[2].kv_bytes_per_context
    assert by_size[4].kv_bytes_per_context == measured.kv_bytes // 2
    assert by_size[4].weight_bytes == -(-measured.weight_bytes // 4)


def test_layers_are_split_whole() -> None:
    """28 layers over 8 GPUs: some hold 4, and those decide."""
    member = qwen2.find("Qwen2-7B")
    assert member is not None
    measured = model(config_of(member))
    layers = options_for(measured, Gpus(8, 24))[1]
    assert (layers.split, layers.engine, layers.replicas) == ("layers", "hf", 1)
    assert layers.kv_bytes_per_context == measured.kv_bytes * 4 // 28


def test_contexts_and_longest_are_what_is_left() -> None:
    member = qwen2.find("Qwen2-7B")
    assert member is not None
    measured = model(config_of(member), 32 * 1024)
    alone = options_for(measured, Gpus(2, 25))[0]
    left = Gpus(1, 25).usable_bytes - measured.weight_bytes - measured.step_bytes
    assert alone.contexts == 2 * (left // measured.kv_bytes) == 8
    assert alone.longest == left // measured.kv_bytes_per_token


def test_the_best_has_most_contexts_then_fewest_gpus_then_tensors() -> None:
    (alone, layers, tensor) = (
        replace(options_for(_small(), Gpus(2, 80))[index], contexts=4) for index in range(3)
    )
    assert best([alone, layers, tensor]) is alone
    assert best([layers, tensor]) is tensor
    assert best([alone, replace(layers, contexts=5), tensor]).split == "layers"
    nothing = [replace(alone, contexts=0, longest=7), replace(tensor, contexts=0, longest=9)]
    assert best(nothing).split == "tensor"


def _small() -> PlannedModel:
    return model(Qwen2Config(**SHAPE, tie_word_embeddings=False))


SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
}


@pytest.mark.parametrize("native", [True, False], ids=["bfloat16", "widened"])
def test_the_peak_on_a_cpu_is_the_sum_of_what_is_there(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries, weights, what is packed of them, keys and values, one request's step. The file
    is mapped beside packed weights; of widened ones until all of it is read."""
    monkeypatch.setattr(cpu, "native_bf16", lambda: cpu.Ability(native, "as asked"))
    monkeypatch.setattr(cpu, "packs_linear", lambda dtype: cpu.Ability(True, "as asked"))
    short, long = (model(_small_config(), length) for length in (4096, 1 << 20))
    assert long.one_step_bytes == short.one_step_bytes < short.step_bytes
    for planned in (short, long):
        here = on_cpu(planned)
        step = planned.one_step_bytes * (1 if native else 2)
        if native:
            rest = planned.weight_bytes - planned.first_bytes + here.kv_bytes + step
        else:
            rest = max(here.kv_bytes + step, 2 * planned.parameters)
        process = here.peak_bytes - here.weight_bytes - rest
        assert abs(process - (55 << 20) - psutil.Process().memory_info().rss) < 16 << 20
        assert here.weight_bytes == planned.parameters * (2 if native else 4)


def _small_config() -> Qwen2Config:
    return Qwen2Config(**SHAPE, tie_word_embeddings=False)


def test_packed_weights_leave_embeddings_alone() -> None:
    config = Qwen2Config(**SHAPE, tie_word_embeddings=False)
    matrices = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
    rows = 2 * (2 * 256 + 2 * 128 + 2 * 512 + 256)
    whole = model(config)
    rest = whole.weight_bytes - 2 * matrices
    assert rest > 2 * 2 * 256 * 1000
    assert model(config, weights="int8").weight_bytes == rest + matrices + 2 * rows
    assert model(config, weights="int4").weight_bytes == rest + matrices // 2 + matrices // 32


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4x80GB", (Gpus(4, 80),)),
        ("80GB", (Gpus(1, 80),)),
        ("2X24, 1x141gb", (Gpus(2, 24), Gpus(1, 141))),
    ],
)
def test_gpus(text: str, found: tuple[Gpus, ...]) -> None:
    assert parse_gpus(text) == found


@pytest.mark.parametrize("text", ["", "4x", "x80GB", "0x80GB", "4xH100", "4x80GB,", "4x0GB"])
def test_no_gpus(text: str) -> None:
    with pytest.raises(UserError, match=r"--gpus .*: not GPUs: write count and size, as 4x80GB"):
        parse_gpus(text)


def test_a_directory_is_planned_at_its_window() -> None:
    plan = planned(str(tiny.WEIGHTS), "--gpus", "24GB")
    assert (plan["context"], plan["kv_bytes_per_token"], plan["layers"]) == (512, 1024, 4)
    assert "yarn+dca" in plan["scheme"]


def test_a_config_without_weights_is_enough(tmp_path: Path) -> None:
    LlamaConfig(**SHAPE, max_position_embeddings=4096).save_pretrained(tmp_path)
    assert planned(str(tmp_path))["context"] == 4096


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(**SHAPE, quantization_config={"quant_method": "gptq"}), "packed .gptq.*int4"),
        (DeepseekV2Config(), "latent attention: its cache is not keys and values"),
        (MambaConfig(), "no attention heads: its cache"),
    ],
    ids=["gptq", "latent", "no-heads"],
)
def test_models_that_cannot_be_planned(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(config)


def test_a_config_that_makes_no_model() -> None:
    with pytest.raises(UserError, match="no model can be made of its config"):
        model(Qwen2Config(**{**SHAPE, "hidden_size": -1, "head_dim": 64}))


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    assert "--weights int3: use one of bf16, int8, int4" in refused(
        "plan", "Qwen2-7B", "--weights", "int3"
    )
    assert "did you mean Qwen2-7B?" in refused("plan", "Qwen2-8B")
    assert "--context much" in refused("plan", "Qwen2-7B", "--context", "much")
    assert "no config.json" in refused("plan", str(tmp_path))


def test_a_cpu_holds_linear_layers_as_bytes_too() -> None:
    config = config_of(qwen2.find("Qwen2-7B"))
    plain, int8 = model(config), model(config, weights="int8")
    linear = 28 * (3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944) + 152064 * 3584
    outputs = 28 * (2 * 3584 + 2 * 512 + 2 * 18944 + 3584) + 152064
    biases = 28 * (3584 + 2 * 512)
    for itemsize in (2, 4):
        saved = (itemsize - 1) * linear - 4 * outputs + (itemsize - 4) * biases
        assert plain.bytes_on_cpu(itemsize) == itemsize * plain.parameters
        assert plain.bytes_on_cpu(itemsize) - int8.bytes_on_cpu(itemsize) == saved
    assert on_cpu(int8).weight_bytes in (int8.bytes_on_cpu(2), int8.bytes_on_cpu(4))


def test_the_table_says_what_does_not_fit() -> None:
    result = CliRunner().invoke(cli.app, ["plan", "Qwen2-7B", "--context", "1M", "--gpus", "24GB"])
    assert "at 1M tokens, beyond the 128K it is made for" in result.stdout
    assert "does not fit" in result.stdout
    assert "keys and values 56 GiB a context" in result.stdout


def test_models_lists_the_family() -> None:
    rows = json.loads(CliRunner().invoke(cli.app, ["models", "--json"]).stdout)
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows) == 26
    contexts = [by_id[f"Qwen/Qwen2-{size}-Instruct"]["context"] for size in SIZES]
    assert [context // 1024 for context in contexts] == [32, 32, 128, 64, 128]
    assert {row["window"] for row in rows if "1M" not in row["id"]} == {32 * 1024}
    million = by_id["Qwen/Qwen2.5-7B-Instruct-1M"]
    assert (million["window"], million["context"]) == (256 * 1024, 1_010_000)
    assert by_id["Qwen/Qwen2-72B"]["licence"] == "Tongyi Qianwen"
    assert {row["method"] for row in rows if row["context"] > row["window"]} == {"yarn+dca"}


SIZES = ("0.5B", "1.5B", "7B", "57B-A14B", "72B")


def test_the_table_of_models_is_whole() -> None:
    shown = CliRunner().invoke(cli.app, ["models"]).stdout
    for member in qwen2.MEMBERS:
        assert member.licence in shown
    assert "Qwen2-57B-A14B, -Instruct" in shown and "Qwen2.5-14B-Instruct-1M" in shown
    assert "…" not in shown.split("window: trained")[0]


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2-7B-Instruct", "qwen2-7b", "QWEN/qwen2.5-7b-1m", "Qwen2.5-14B-Instruct-1M"]
)
def test_names_are_found_in_any_case(name: str) -> None:
    assert qwen2.find(name) is not None


def test_other_names_are_not() -> None:
    assert qwen2.find("Qwen3-8B") is qwen2.find("meta/Qwen2-7B") is None
