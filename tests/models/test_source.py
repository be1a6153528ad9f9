"""Finding and loading models, and one clear line for each way in which that fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longctx.errors import UserError
from longctx.models import convert_gguf
from longctx.models.source import (
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    shape_of,
    stop_ids,
)


def copy_of(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_directory_loads(tiny_model: Path) -> None:
    source = locate(str(tiny_model))
    config = load_config(source)
    model = load_model(source, config, torch.float32, "cpu")
    tokenizer = load_tokenizer(source)
    assert source.kind == "directory"
    assert not model.training
    assert tokenizer.chat_template
    assert stop_ids(model, tokenizer) == {tokenizer.eos_token_id}
    shape = shape_of(config)
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (2, 4, 2, 8)
    layer = model.base_model.layers[0]
    norms = 2 * shape.hidden
    assert shape.layer_parameters == sum(p.numel() for p in layer.parameters()) - norms


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/model", "no such directory"),
        ("./missing", "no such directory"),
        ("tests/missing", "no such directory"),
        ("missing", "no such directory"),
        ("sim:perfect", "simulated models answer `longctx needle` only"),
        ("missing.gguf", "no such GGUF file"),
    ],
)
def test_a_missing_path(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    with pytest.raises(UserError, match=message) as caught:
        locate(name)
    assert name in str(caught.value)


def test_a_hub_id_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("Repository Not Found for url: …\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"nobody/nothing.*the hub did not give it \(Repository"):
        locate("nobody/nothing")


def test_a_hub_id_is_its_snapshot(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = locate("somebody/tiny")
    assert source.directory == tiny_model
    assert fingerprint(source) == f"hub:{tiny_model.name}"
    locate("somebody/tiny", weights=False)
    assert "*.safetensors" in asked[0]
    assert "*.safetensors" not in asked[1]


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        locate(str(tmp_path))
    (tmp_path / "x.gguf").touch()
    with pytest.raises(UserError, match=r"name the file, .*x\.gguf"):
        locate(str(tmp_path))
    (tmp_path / "x.bin").touch()
    with pytest.raises(UserError, match="neither a model directory"):
        locate(str(tmp_path / "x.bin"))


@pytest.mark.parametrize("content", ["{", "[]", "", '{"model_type": "no-such-thing"}'])
def test_a_damaged_config(tiny_model: Path, tmp_path: Path, content: str) -> None:
    directory = copy_of(tiny_model, tmp_path)
    (directory / "config.json").write_text(content)
    with pytest.raises(UserError, match="configuration cannot be read"):
        load_config(locate(str(directory)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"model_type": "t5", "architectures": None}, "t5"),
        ({"model_type": "vit", "architectures": None}, "vit"),
    ],
)
def test_not_a_causal_language_model(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    directory = copy_of(tiny_model, tmp_path)
    edit_config(directory, **changes)
    with pytest.raises(UserError, match=f"{named} is not a causal language model"):
        load_config(locate(str(directory)))


def test_no_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_model, tmp_path)
    for file in directory.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(locate(str(directory)))


def test_no_weights(tiny_model: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_model, tmp_path)
    (directory / "model.safetensors").unlink()
    source = locate(str(directory))
    with pytest.raises(UserError, match=r"no \.safetensors weights"):
        load_model(source, load_config(source), torch.float32, "cpu")


def test_damaged_weights(tiny_model: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_model, tmp_path)
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    source = locate(str(directory))
    with pytest.raises(UserError, match="the weights cannot be loaded"):
        load_model(source, load_config(source), torch.float32, "cpu")


def test_missing_weights_are_not_made_up(tiny_model: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_model, tmp_path)
    edit_config(directory, num_hidden_layers=3)
    source = locate(str(directory))
    with pytest.raises(UserError, match=r"9 weights are missing.*layers\.2"):
        load_model(source, load_config(source), torch.float32, "cpu")


def test_the_fingerprint_sees_every_byte(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of(tiny_model, tmp_path)
    source = locate(str(directory))
    first = fingerprint(source)
    assert first == fingerprint(locate(str(tiny_model)))
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    second = fingerprint(source)
    edit_config(directory, rope_theta=5.0)
    assert len({first, second, fingerprint(source)}) == 3
    monkeypatch.setattr("longctx.models.source._HASH_WHOLE_BELOW", 0)
    assert fingerprint(source).startswith("sampled-sha256:")


def test_stop_ids_may_be_a_list(tiny_model: Path) -> None:
    source = locate(str(tiny_model))
    tokenizer = load_tokenizer(source)
    model = load_model(source, load_config(source), torch.float32, "cpu")
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [5, 6]
    assert stop_ids(model, tokenizer) == {5, 6, tokenizer.eos_token_id}


def write_gguf(file: Path, tokenizer: Any, pre: str) -> dict[str, Any]:
    """A GGUF file of a Llama of one layer; returns the tensors it was made of."""
    from gguf import GGUFWriter

    vocabulary = tokenizer.get_vocab()
    width, heads, kv_heads, inner = 32, 4, 2, 48
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_token_list(ordered)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in ordered])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(vocabulary), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (inner, width),
        "blk.0.ffn_up": (inner, width),
        "blk.0.ffn_down": (width, inner),
    }
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def gguf_file(tmp_path: Path, chatml: Any) -> Path:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "tiny.gguf", chatml, "smollm")
    return tmp_path / "tiny.gguf"


# The library's reader and numpy's memory maps warn of what is theirs.
@pytest.mark.filterwarnings("default")
def test_gguf_converts_whole_or_not_at_all(
    gguf_file: Path, tmp_path: Path, chatml: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "model"
    assert convert_gguf.main([str(gguf_file), str(output)]) == 0
    source = locate(str(output))
    config = load_config(source)
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    assert (config.max_position_embeddings, config.architectures) == (512, ["LlamaForCausalLM"])
    model = load_model(source, config, torch.bfloat16, "cpu")
    assert model.dtype is torch.bfloat16
    tokenizer = load_tokenizer(source)
    assert tokenizer.chat_template == chatml.chat_template
    assert stop_ids(model, tokenizer) == {2}
    text = "The  12 boxes\n\n345 keys<|im_end|>"
    assert tokenizer(text)["input_ids"] == chatml(text)["input_ids"]
    assert [file.name for file in output.parent.iterdir()] == ["model"]
    assert convert_gguf.main([str(gguf_file), str(output)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_a_gguf_file_loads_as_it_is(gguf_file: Path) -> None:
    source = locate(str(gguf_file))
    config = load_config(source)
    model = load_model(source, config, torch.float32, "cpu")
    assert source.kind == "gguf"
    assert not hasattr(model, "hf_quantizer") or model.dtype is torch.float32
    assert model.base_model.layers[0].mlp.down_proj.weight.shape == (32, 48)
    assert fingerprint(source).startswith("sha256:")


@pytest.mark.filterwarnings("default")
def test_gguf_conversion_that_fails_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    assert convert_gguf.main([str(tmp_path / "bad.gguf"), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: MODEL ")
    assert captured.err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["bad.gguf"]
