"""Peak memory of a perplexity pass by its length: python benchmarks/perplexity_memory.py.

Every length is a process of its own, whose resident size is read before the pass and at its peak.
glibc is told to give freed blocks back (MALLOC_MMAP_THRESHOLD_): else the peak is that of its
free lists, which grow with the history of the process. Random tokens; always on the CPU. The slope
between two lengths, in bytes per token, is constant where memory is linear; beside it stands what
keys and values take, below which no pass can be.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from an uninstalled clone

CHILD = """
import json, resource, sys, torch
from longctx.models import source as models
from longctx.attention import resolve
from longctx.models.served import Asking, ServedSession
name, method, length, block = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
source = models.locate(name)
model = models.load_model(source, models.load_config(source), torch.float32, "cpu")
draw = torch.Generator().manual_seed(0)
ids = torch.randint(0, model.config.vocab_size, (length,), generator=draw).tolist()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
scheme = resolve(model.config, method, request_length=length)
asking = Asking("auto", length, block)
with ServedSession(model, models.load_tokenizer(source), scheme, asking) as session:
    session.logprobs(ids[:block + 1], request_length=length)
    before = peak()
    session.logprobs(ids, request_length=length)
print(json.dumps({"before": before, "peak": peak()}))
"""


def measure(options: argparse.Namespace, method: str, length: int) -> dict[str, Any]:
    """Bytes resident before the pass and at its peak."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    arguments = [options.model, method, str(length), str(options.prefill_chunk)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env=os.environ | settings,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return {"length": length, **json.loads(done.stdout.splitlines()[-1])}


def slopes(rows: list[dict[str, Any]]) -> list[float]:
    """Bytes per token from each length to the next."""
    return [
        round((after["peak"] - before["peak"]) / (after["length"] - before["length"]), 1)
        for before, after in itertools.pairwise(rows)
    ]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from longctx import tiny
    from longctx.attention import METHODS
    from longctx.eval.needle.config import parse_lengths
    from longctx.options.perplexity import PerplexityOptions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=tiny.EMBEDDED)
    parser.add_argument("--lengths", default="2K,4K,8K,16K,32K", help="tokens, K = 1024")
    parser.add_argument("--methods", default="none,yarn+dca", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--prefill-chunk", type=int, default=PerplexityOptions.prefill_chunk)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.lengths = parse_lengths(options.lengths, "--lengths")
    options.methods = options.methods.split(",")
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if len(options.lengths) < 2 or options.lengths[0] <= options.prefill_chunk:
        parser.error("--lengths: two at least, all above --prefill-chunk")
    return options


def main() -> None:
    options = parse()
    from longctx.models import source

    shape = source.shape_of(source.load_config(source.locate(options.model)))
    results = []
    for method in options.methods:
        rows = [measure(options, method, length) for length in options.lengths]
        found = {
            "method": method,
            "rows": rows,
            "bytes_per_token": slopes(rows),
            "kv_bytes_per_token": shape.kv_bytes(1, 4),
        }
        results.append(found)
        if not options.json:
            told = (f"{r['length']}: {(r['peak'] - r['before']) / 2**20:.1f}" for r in rows)
            print(f"{method:9} MiB above the loaded model at  {'  '.join(told)}")
            print(
                f"{'':9} bytes per token, from each length to the next  "
                f"{found['bytes_per_token']}  (keys and values {found['kv_bytes_per_token']})",
                flush=True,
            )
    if options.json:
        about = {"model": options.model, "dtype": "float32", "prefill_chunk": options.prefill_chunk}
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
