"""A first question on a document, and the same after a restart: seconds, tokens, bytes, one answer.

    python benchmarks/documents.py                               # the embedded model, 16K tokens
    python benchmarks/documents.py --model DIRECTORY --tokens 6K

Two servers one after the other over one store, as `longctx serve` makes them, in processes of their
own. The document is posted and asked at once: the first question waits for the whole prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longctx import tiny
from longctx.eval.needle.config import parse_lengths
from longctx.eval.texts.prose import paragraphs

NEEDLE = " One of the special magic numbers for amber-anchor is: 7239160. "
ASKED = "What is the special magic number for amber-anchor mentioned in the provided text?"
BEGUN = "The special magic number for amber-anchor mentioned in the provided text is"


def call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return json.loads(answer.read())


@contextmanager
def server(options: argparse.Namespace, store: str) -> Any:
    port = options.port
    command = [sys.executable, "-m", "longctx", "serve", "--port", str(port)]
    command += ["--document-store", store, "--kv-budget", options.kv_budget, "--dtype", "float32"]
    command += ["--method", options.method]
    if options.model:
        command += [options.model]
    if options.context:
        command += ["--context", options.context]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(3000):
            try:
                call(f"{url}/ready")
                break
            except OSError:
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def warm_up(url: str) -> None:
    """A server's first answer waits for the process of its templates: any would."""
    hello = [{"role": "user", "content": "Say something."}]
    call(f"{url}/v1/chat/completions", {"messages": hello, "max_tokens": 1})


def ask(url: str, ids: list[str]) -> dict[str, Any]:
    """Time to the first token, the answer, and what the prompt cost."""
    body = {
        "messages": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": BEGUN},
        ],
        "document_ids": ids,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 16,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    began, first, text, usage = time.perf_counter(), None, "", None
    with urllib.request.urlopen(request, timeout=3600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    text += piece
    return {"first_s": first, "text": text, **usage["prompt_tokens_details"]}


def text_of(tokens: int, per_token: float, seed: int) -> str:
    found, size = [], 0
    for paragraph in paragraphs(seed):
        found.append(paragraph)
        size += len(paragraph) + 1
        if size > per_token * tokens:
            break
    middle = len(found) // 2
    return " ".join([*found[:middle], NEEDLE, *found[middle:]])[: int(per_token * tokens)]


def resident(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


def floor_of(model: str) -> int:
    """Keys and values of one token in float32, from the config alone."""
    told = json.loads((Path(model or tiny.WEIGHTS) / "config.json").read_text())
    heads = told["num_attention_heads"]
    dim = told.get("head_dim") or told["hidden_size"] // heads
    kept = told.get("num_key_value_heads") or heads
    return int(2 * told["num_hidden_layers"] * kept * dim * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--tokens", default="16000")
    parser.add_argument("--context", default="")
    parser.add_argument("--method", default="yarn+dca")
    parser.add_argument("--kv-budget", default="1G")
    parser.add_argument("--port", type=int, default=8191)
    options = parser.parse_args()
    (tokens,) = parse_lengths(options.tokens, "--tokens")
    with tempfile.TemporaryDirectory() as store:
        with server(options, store) as (url, pid):
            warm_up(url)
            probe = text_of(tokens, 4.0, 0)
            count = call(f"{url}/tokenize", {"prompt": probe})["count"]
            text = text_of(tokens, len(probe) / count, 0)
            began = time.perf_counter()
            told = call(f"{url}/v1/documents", {"text": text, "name": "document"})
            first = ask(url, [told["id"]])  # waits for what is being computed
            whole = time.perf_counter() - began
            while (told := call(f"{url}/v1/documents/{told['id']}"))["state"] != "ready":
                time.sleep(0.1)
            second = ask(url, [told["id"]])
        with server(options, store) as (url, pid):
            warm_up(url)
            before = resident(pid)
            again = ask(url, [told["id"]])
            after = resident(pid)
            later = ask(url, [told["id"]])
        size = sum(path.stat().st_size for path in Path(store).glob("*.safetensors"))
    ratio = again["first_s"] / first["first_s"]
    print(
        json.dumps(
            {
                "document": told,
                "first": first,
                "added_and_first_s": whole,
                "second_same_server": second,
                "first_after_restart": again,
                "second_after_restart": later,
                "ratio": ratio,
                "same_answer": len({each["text"] for each in (first, second, again, later)}) == 1,
                "bytes_per_token_on_disk": size / told["tokens"],
                "floor_bytes_per_token": floor_of(options.model),
                "resident_bytes_per_token": (after - before) / told["tokens"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
