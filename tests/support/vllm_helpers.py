"""A tiny Qwen2 for vLLM, its prompts, and what longctx itself answers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longctx.attention import extend, resolve
from longctx.attention.rope import temperature_bucket
from longctx.engine import Engine, EngineRequest

CHUNK, LOCAL, VOCABULARY, NEW = 256, 32, 640, 12
NUMBERS = {"chunk_size": CHUNK, "local_size": LOCAL, "original_length": CHUNK}
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


def asks(method: str) -> dict[str, Any]:
    return {"longctx": {"method": method, **NUMBERS}}


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2_moe": _EXPERTS | {"shared_expert_intermediate_size": 128, "norm_topk_prob": True},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": _EXPERTS | {"head_dim": 32, "norm_topk_prob": True},
}


def save_model(directory: Path, family: str = "qwen2") -> None:
    """Weights so large that attention is not uniform, and biases that vLLM must not forget."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.12,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **FAMILIES[family],
    )
    model = AutoModelForCausalLM.from_config(config).float()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)


def prompts_of(lengths: tuple[int, ...], seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]


def prompts_with_one_beginning(lengths: tuple[int, ...], seed: int = 2) -> list[list[int]]:
    """Each ends in four tokens of its own."""
    draw = random.Random(seed)
    text = [draw.randrange(3, VOCABULARY) for _ in range(max(lengths))]
    return [
        text[: length - 4] + [draw.randrange(3, VOCABULARY) for _ in range(4)] for length in lengths
    ]


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    return model


def engine_answers(
    directory: Path,
    method: str,
    prompts: list[list[int]],
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Greedy tokens and their log-probabilities of the embedded engine."""
    model, answers = load(directory, dtype), []
    scheme = resolve(model.config, method, **NUMBERS)
    with Engine(model, None, scheme, max_context=4096) as engine:
        for prompt in prompts:
            request = EngineRequest(prompt, max_new_tokens=NEW, ignore_eos=True, logprobs=True)
            handle = engine.submit(request)
            engine.run_until_idle()
            answer = handle.result(timeout=0)
            logprobs = [each.logprob for each in answer.logprobs]
            answers.append({"tokens": list(answer.token_ids), "logprobs": logprobs})
    return answers


def dense_logprobs(
    directory: Path, method: str, prompts: list[list[int]], answers: list[dict[str, Any]]
) -> list[list[float]]:
    """Of given answers, by one forward pass of transformers each, over the reference kernel."""
    model, found = load(directory), []
    with extend(model, method, kernel="reference", **NUMBERS) as handle, torch.inference_mode():
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = torch.tensor([prompt + answer["tokens"]])
            with handle.request(temperature_bucket(len(prompt), CHUNK)):
                logits = model(ids[:, :-1]).logits[0, len(prompt) - 1 :]
            chosen = ids[0, len(prompt) :, None]
            found.append(logits.log_softmax(-1).gather(1, chosen)[:, 0].tolist())
    return found


def ask_vllm(job: dict[str, Any], directory: Path, **environment: str) -> dict[str, Any]:
    """Answers of `vllm_child.py`."""
    answers = directory / "answers.json"
    child = Path(__file__).with_name("vllm_child.py")
    done = subprocess.run(
        [sys.executable, str(child), str(answers)],
        input=json.dumps(job),
        env=os.environ | ENVIRONMENT | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(answers.read_text(encoding="utf-8"))
    return found
