"""The arm of llama.cpp in benchmarks/serving.py, where llama-cpp-python is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SERVING = Path(__file__).resolve().parent.parent / "benchmarks" / "serving.py"
VOCABULARY, HIDDEN, MIDDLE, HEADS, KV_HEADS, LAYERS = 1024, 64, 128, 4, 2, 2
TOKENS, CONTEXT = 6, 700


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A random Llama of float32 without a vocabulary's words."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from gguf import GGUFWriter

    file = tmp_path / "random.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    narrow = HIDDEN * KV_HEADS // HEADS
    layer = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (narrow, HIDDEN),
        "attn_v": (narrow, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (MIDDLE, HIDDEN),
        "ffn_up": (MIDDLE, HIDDEN),
        "ffn_down": (HIDDEN, MIDDLE),
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (VOCABULARY, HIDDEN)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in layer.items()}
    shapes |= {"output_norm": (HIDDEN,), "output": (VOCABULARY, HIDDEN)}
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        scale = 1.0 if len(shape) == 1 else 2 / shape[-1] ** 0.5
        values = np.ones(shape) if len(shape) == 1 else draw.normal(0, scale, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_sequences_side_by_side_answer_as_each_alone(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts' ends lie inside a call of 512 tokens and not at its end."""
    monkeypatch.syspath_prepend(str(SERVING.parent))
    import serving_llama

    draw = np.random.default_rng(1)
    prompts: list[list[int]] = draw.integers(5, VOCABULARY, (3, 600)).tolist()
    loaded = serving_llama.load(gguf_file)

    def ask(texts: list[list[int]]) -> Any:
        opened = serving_llama.llama_cpp(loaded, time.process_time, TOKENS, 1, CONTEXT, len(texts))
        with opened as run:
            return [run(texts) for _ in range(2)]

    once, again = ask(prompts)
    assert once.answers == again.answers, "a run sees what the one before it left"
    assert once.answers == [ask([prompt])[0].answers[0] for prompt in prompts]
    assert len({tuple(answer) for answer in once.answers}) == 3
    assert len(once.steps) == TOKENS - 1 and all(len(answer) == TOKENS for answer in once.answers)
    assert 0 < once.first[0] < once.first[1] < once.first[2]


def test_the_serving_benchmark_has_rows_of_one_and_of_several(
    gguf_file: Path, tmp_path: Path
) -> None:
    words = ["--model", "random", "--lengths", "96", "--requests", "3", "--tokens", "5"]
    done = subprocess.run(
        [sys.executable, str(SERVING), *words, "--rounds", "1", "--gguf", str(gguf_file), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    rows = [row for row in report["results"] if row["arm"] == "llama.cpp"]
    assert [row["requests"] for row in rows] == [1, 3]
    assert report["about"]["gguf"] == "random.gguf"
    assert all(row["prefill_tok_s"] > 0 and row["decode_tok_s"] > 0 for row in rows)


def test_a_file_that_llama_cpp_cannot_load_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:100])
    words = ["--model", "random", "--lengths", "96", "--gguf", str(broken)]
    done = subprocess.run([sys.executable, str(SERVING), *words], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"--gguf {broken}: llama.cpp cannot load it" in done.stderr
