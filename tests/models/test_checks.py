"""What is wrong with a model's files: one line of the dry run that names file and remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from longctx import cli, tiny
from longctx.attention import resolve
from longctx.errors import UserError
from longctx.models.schemes import beyond
from longctx.models.source import load_config, load_model, load_tokenizer, locate

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
# Of configs that transformers 4.37 wrote: no rope_parameters, no chunks.
YARN = {"type": "yarn", "factor": 4.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return Path(shutil.copytree(tiny.WEIGHTS, tmp_path / "model"))


def edit(directory: Path, **changes: Any) -> None:
    """config.json with changes; None takes a key out."""
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def scaled(directory: Path, scaling: dict[str, Any], **more: Any) -> None:
    old = {"rope_parameters": None, "dual_chunk_attention_config": None, "layer_types": None}
    edit(directory, **{**old, "rope_theta": 10000.0, "rope_scaling": scaling, **more})


def dry_run(directory: Path, *flags: str) -> Any:
    words = ["needle", str(directory), "--lengths", "512", "--dry-run", *flags]
    return CliRunner().invoke(cli.app, words, catch_exceptions=False)


def refused(message: str, directory: Path, *flags: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        dry_run(directory, *flags)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def test_a_yarn_config_without_its_window_is_asked_for_it(model: Path) -> None:
    scaled(model, YARN, max_position_embeddings=2048)
    asks = (
        "config.json has YaRN without original_max_position_embeddings.*2048 is the trained "
        "window or the extended one.*give --original-length"
    )
    refused(asks, model, "--methods", "yarn")
    told = dry_run(model, "--methods", "yarn", "--original-length", "512")
    assert "original_length 512 (argument), factor 4 (rope_parameters)" in told.stderr
    scaled(model, {**YARN, "original_max_position_embeddings": 512})
    assert dry_run(model, "--methods", "yarn").exit_code == 0
    scaled(model, YARN, max_position_embeddings=32768)  # Qwen2's, which is known
    assert dry_run(model, "--methods", "yarn").exit_code == 0


@pytest.mark.parametrize("command", ["perplexity", "serve"])
def test_other_commands_ask_as_well(model: Path, command: str) -> None:
    scaled(model, YARN, max_position_embeddings=2048)
    flag = ("--method", "yarn", "--port", "0") if command == "serve" else ("--methods", "yarn")
    with pytest.raises(UserError, match="give --original-length"):
        CliRunner().invoke(cli.app, [command, str(model), *flag], catch_exceptions=False)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({**YARN, "factor": 0.5}, r"the rope factor in .*config\.json is 0\.5: .* at least 1"),
        ({**YARN, "factor": "4.0"}, r'is "4\.0", not a number: write it without quotes'),
        ({**YARN, "factor": True}, "is true, not a number"),
        ({"type": "mrope", "mrope_section": [4, 6, 6]}, "rope type 'mrope' in .* not supported"),
        ({"type": "su", "factor": 2.0}, "rope type 'su' in .* not supported: only default, "),
    ],
)
def test_a_rotary_that_cannot_be_computed(
    model: Path, scaling: dict[str, Any], message: str
) -> None:
    scaled(model, scaling)
    refused(message, model)


def test_a_byte_order_mark(model: Path) -> None:
    file = model / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    refused(r"config\.json begins with a byte order mark: save it as UTF-8 without", model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_in_place_of_a_file(model: Path, name: str) -> None:
    (model / name).write_text(POINTER)
    refused(rf"{name} is a Git LFS pointer, not the file itself: run `git lfs pull`", model)


def test_a_vocabulary_that_is_not_the_weights(model: Path) -> None:
    edit(model, vocab_size=2112)
    refused(
        r"model\.embed_tokens\.weight in model\.safetensors has 2048 rows, config\.json says "
        r"vocab_size 2112",
        model,
    )


def test_other_sizes_are_told_by_loading(model: Path) -> None:
    edit(model, intermediate_size=400)
    source = locate(str(model))
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.\w+\.weight is \[\d+, \d+\] in the wei"):
        load_model(source, load_config(source), torch.float32, "cpu")


@pytest.mark.parametrize("size", [200_000, 1000])
def test_weights_that_are_cut_off(model: Path, size: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refused(rf"model\.safetensors is cut off: it has {size:,} of .* bytes: download it", model)


def test_a_shard_that_is_not_there(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    shards = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, model / shard, {"format": "pt"})
    (model / "model.safetensors").unlink()
    index = {name: shard for shard, held in shards.items() for name in held}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert dry_run(model).exit_code == 0
    (model / "model-00002-of-00002.safetensors").unlink()
    refused(r"1 of 2 files that model\.safetensors\.index\.json names are not there", model)


def test_tokens_without_an_embedding(model: Path) -> None:
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    first = tokenizer["added_tokens"][0]
    for number in (2048, 2049, 2050):
        added = {**first, "id": number, "content": f"<|new{number}|>"}
        tokenizer["added_tokens"].append(added)
    file.write_text(json.dumps(tokenizer))
    refused(
        r"ids up to 2050, its embedding 2048 rows: take '<\|new2048\|>', '<\|new2049\|>' … out",
        model,
    )


def test_a_length_beyond_the_factor_is_told(model: Path) -> None:
    scaled(model, {**YARN, "original_max_position_embeddings": 512})
    config = load_config(locate(str(model)))
    scheme = resolve(config, "yarn", request_length=4096)
    words = "yarn: 4,096 tokens are beyond factor 4 x the window of 512"
    assert beyond(scheme, 2048) is None
    assert str(beyond(scheme, 4096)).startswith(words)
    told = dry_run(model, "--methods", "yarn", "--lengths", "4K")
    assert words in told.stderr
    words = words.replace("4,096", "640")
    scaled(model, {**YARN, "factor": 1.0, "original_max_position_embeddings": 512})
    command = ["perplexity", str(model), "--methods", "yarn", "--lengths", "640", "--dry-run"]
    assert "beyond factor 1 x" in CliRunner().invoke(cli.app, command).stderr


def test_a_gguf_file_without_a_tokenizer(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "bare.gguf"
    writer = gguf.GGUFWriter(file, "qwen2")
    for add in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
        getattr(writer, f"add_{add}")(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        UserError, match=r"no usable tokenizer in the file .*: name a GGUF file that"
    ):
        load_tokenizer(locate(str(file)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.gguf", b""),
        ("no.gguf", b"no gguf" * 70),
        ("CUT.GGUF", b"GGUF\x03\0\0\0" + b"\1" * 9),
    ],
)
def test_a_damaged_gguf_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    pytest.importorskip("gguf")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="its configuration cannot be read") as caught:
        load_config(locate(str(tmp_path / name)))
    assert "\n" not in str(caught.value)
