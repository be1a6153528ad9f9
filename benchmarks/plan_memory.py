"""What `longctx plan` says that a context takes on this machine's CPU, and what it took: peaks.

    python benchmarks/plan_memory.py models/smollm2-135m --lengths 2K,8K,16K

Each length in a process of its own, as `longctx serve` would load the model: one prompt of that
length and a token behind it. Taken is the largest resident memory that the system saw of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

from longctx.eval.needle.config import parse_lengths


def taken(model: str, tokens: int) -> dict[str, Any]:
    from longctx.engine import EngineRequest
    from longctx.serve.loading import prepare
    from longctx.serve.settings import ServeSettings

    loaded = prepare(ServeSettings(model, context=tokens)).load()
    before = peak()
    engine: Any = loaded.engine
    ids = [(7919 * at) % (engine.vocabulary - 1000) + 500 for at in range(tokens - 1)]
    engine.submit(EngineRequest(ids, max_new_tokens=1, ignore_eos=True))
    engine.run_until_idle()
    return {"loaded": before, "peak": peak(), "dtype": str(engine.kv_dtype)}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def planned(model: str, tokens: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "longctx", "plan", model, "--context", str(tokens), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)["cpu"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--lengths", default="2K,8K,16K")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(taken(options.model, options.one)))
        return
    for tokens in parse_lengths(options.lengths, "--lengths"):
        command = [sys.executable, __file__, options.model, "--one", str(tokens)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took, said = json.loads(done.stdout.splitlines()[-1]), planned(options.model, tokens)
        told = {"tokens": tokens, **took, "planned": said["peak_bytes"]}
        print(
            json.dumps({**told, "ratio": round(said["peak_bytes"] / took["peak"], 3)}), flush=True
        )


if __name__ == "__main__":
    main()
