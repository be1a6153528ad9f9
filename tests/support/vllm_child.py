"""Runs vLLM in a process of its own: a job as JSON on the standard input, answers into a file.

    python vllm_child.py ANSWERS < JOB

A job is {"model", "prompts", "new", "engines"}; an engine is {"name", "options", "rounds",
"unsalted"}, a round a list of prompts' numbers that are asked at once. The answers of an engine are
its rounds', {"tokens", "logprobs", "cached"} each, and what each worker's layers run on.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

DEFAULTS = {
    "dtype": "float32",
    "skip_tokenizer_init": True,
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 8,
    "seed": 0,
    "worker_extension_cls": "longctx.vllm.worker.LayerReport",
}


def main() -> None:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    job = json.load(sys.stdin)
    answers = {engine["name"]: run(job, engine) for engine in job["engines"]}
    Path(sys.argv[1]).write_text(json.dumps(answers), encoding="utf-8")


def run(job: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams
    from vllm.v1.engine.core import EngineCore

    try:
        llm = LLM(job["model"], **(DEFAULTS | engine["options"]))
    except Exception as error:
        return {"error": str(error)}
    salting = EngineCore.preprocess_add_request
    if engine.get("unsalted"):
        EngineCore.preprocess_add_request = salting.__wrapped__
    sampling = SamplingParams(
        temperature=0, max_tokens=job["new"], ignore_eos=True, logprobs=1, detokenize=False
    )
    rounds = []
    for numbers in engine["rounds"]:
        prompts = [{"prompt_token_ids": job["prompts"][number]} for number in numbers]
        rounds.append([answer(each) for each in llm.generate(prompts, sampling, use_tqdm=False)])
    EngineCore.preprocess_add_request = salting
    found = llm.collective_rpc("longctx_layers")
    del llm
    gc.collect()
    return {"rounds": rounds, "workers": found}


def answer(output: Any) -> dict[str, Any]:
    made = output.outputs[0]
    tokens = list(made.token_ids)
    return {
        "tokens": tokens,
        "logprobs": [of[token].logprob for of, token in zip(made.logprobs, tokens, strict=True)],
        "cached": output.num_cached_tokens,
    }


if __name__ == "__main__":
    main()
