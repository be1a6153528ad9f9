"""A Llama written as a Qwen2 is the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from longctx.errors import UserError
from longctx.models.llama_as_qwen2 import convert, main, qwen2_config


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )
    directory = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    (directory / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return directory


def test_logits_are_the_same_in_every_bit(llama: Path, tmp_path: Path) -> None:
    made = tmp_path / "qwen2"
    assert main([str(llama), str(made)]) == 0
    ids = torch.arange(3, 103)[None]
    logits = []
    for directory in (llama, made):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        logits.append((type(model).__name__, model(ids).logits))
    assert [name for name, _ in logits] == ["LlamaForCausalLM", "Qwen2ForCausalLM"]
    assert torch.equal(logits[0][1], logits[1][1])
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    assert "attention_bias" not in config and config["dtype"] == "bfloat16"
    assert (made / "chat_template.jinja").is_file()
    assert {file.name for file in tmp_path.iterdir()} == {"qwen2"}  # no draft is left


def test_what_is_no_plain_llama_is_refused(llama: Path, tmp_path: Path, capsys) -> None:
    assert main([str(llama), str(llama)]) == 2
    assert "it exists already" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        convert(tmp_path / "nothing", tmp_path / "out")
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"model_type": "mistral"}, "its model_type is 'mistral'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"head_dim": 16}, "head_dim is 16, and Qwen2's is"),
    ):
        with pytest.raises(UserError, match=message):
            qwen2_config(config | change, "LLAMA x")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        convert(tmp_path, tmp_path / "out")
