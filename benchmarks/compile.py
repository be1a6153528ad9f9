"""What torch.compile takes and gives under extend(): python benchmarks/compile.py.

A random Qwen2 answers a prompt in 12 tokens, greedily, compiled: unextended, and under a DCA method
whose chunks end within the answer. Each arm is a process of its own whose compiler starts from an
empty cache. `first` is the first answer, compilation included, in seconds of the clock and of the
CPU; `steady` the least of the later ones, CPU time of one thread. Beside them: frames the compiler
went through, graphs it made, breaks it met (one break counts once for every call around it), and
the frames that later answers to the same and to a longer prompt added.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHES = ("dynamic", "static")

CHILD = """
import json, os, sys, time, torch
from torch._dynamo.utils import counters
from transformers import Qwen2Config, Qwen2ForCausalLM
from longctx.attention import extend
method, cache, backend = sys.argv[1:4]
layers, hidden, tokens, rounds = map(int, sys.argv[4:])
torch.set_num_threads(1)
torch.manual_seed(0)
shape = dict(hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers)
heads = dict(num_attention_heads=hidden // 16, num_key_value_heads=2)
config = Qwen2Config(vocab_size=512, max_position_embeddings=1024, **shape, **heads)
model = Qwen2ForCausalLM(config).eval()
prompts = [torch.randint(1, 512, (1, length)) for length in (90, 140)]
if method != "none":
    extend(model, method, chunk_size=64, local_size=16)
options = dict(do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0)
if cache == "static":
    options["cache_implementation"] = "static"
cpu = lambda: sum(os.times()[:4])  # with compilers that it has started
def answer(prompt):
    began = time.process_time()
    return model.generate(prompt, **options), time.process_time() - began
expected = answer(prompts[0])[0]
eager = min(answer(prompts[0])[1] for _ in range(rounds))
model.compile(backend=backend)
clock, spent = time.perf_counter(), cpu()
got = answer(prompts[0])[0]
clock, spent = time.perf_counter() - clock, cpu() - spent
counted = lambda: dict(
    frames=counters["frames"]["total"],
    graphs=counters["stats"]["unique_graphs"],
    breaks=sum(counters["graph_break"].values()),
)
made = counted()
later = [answer(prompts[0])[1] for _ in range(rounds)]
after = counted()["frames"] - made["frames"]
answer(prompts[1])
longer = counted()["frames"] - made["frames"] - after
print(json.dumps(dict(
    method=method, cache=cache, eager_cpu_s=round(eager, 4), first_s=round(clock, 2),
    first_cpu_s=round(spent, 2), steady_cpu_s=round(min(later), 4), **made, frames_later=after,
    frames_of_a_longer_prompt=longer, same_tokens=torch.equal(got, expected),
)))
"""


def measure(options: argparse.Namespace, method: str, cache: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as empty:
        settings = {
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": empty,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        sizes = map(str, (options.layers, options.hidden, options.tokens, options.rounds))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD, method, cache, options.backend, *sizes],
            env=os.environ | settings,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="yarn+dca", help="a DCA method")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--tokens", type=int, default=12, help="of an answer")
    parser.add_argument("--rounds", type=int, default=20, help="answers after the first")
    parser.add_argument("--caches", default=",".join(CACHES), help=f"of {', '.join(CACHES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.caches = options.caches.split(",")
    unknown = [name for name in options.caches if name not in CACHES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if "dca" not in options.method:
        parser.error(f"--method {options.method}: only DCA methods have plans to compile around")
    return options


def main() -> None:
    options = parse()
    results = []
    for cache in options.caches:
        arms = [measure(options, method, cache) for method in ("none", options.method)]
        plain, extended = arms
        ratios = {
            key: round(extended[f"{key}_cpu_s"] / plain[f"{key}_cpu_s"], 2)
            for key in ("first", "steady")
        }
        results.append({"cache": cache, "arms": arms, "ratio": ratios})
        if options.json:
            continue
        for arm in arms:
            print(
                f"{cache:8} {arm['method']:9} first {arm['first_s']:6.1f} s (CPU "
                f"{arm['first_cpu_s']:.1f})   steady {arm['steady_cpu_s'] * 1e3:6.1f} ms (eager "
                f"{arm['eager_cpu_s'] * 1e3:.1f})   "
                f"{arm['frames']} frames, {arm['graphs']} graphs, {arm['breaks']} breaks; later "
                f"+{arm['frames_later']}, longer prompt +{arm['frames_of_a_longer_prompt']}"
            )
        print(
            f"{cache:8} ratio of CPU time: first {ratios['first']:.2f}, steady "
            f"{ratios['steady']:.2f}",
            flush=True,
        )
    if options.json:
        about = {key: getattr(options, key) for key in ("backend", "layers", "hidden", "tokens")}
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
