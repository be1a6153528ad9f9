"""`--dtype auto` against bfloat16 and float32, forced: one needle cell, and one chat answer.

    python benchmarks/dtypes.py models/smollm2-135m
    python benchmarks/dtypes.py models/smollm2-135m --without-avx512

Each figure is CPU time of one thread in a process of its own: of a whole needle command (loading
included), and of a chat answer of 32 tokens to a prompt of 1,024 by the server's engine (loading
left out). The dtypes take turns; the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CHOICES = ("auto", "bfloat16", "float32")
WITHOUT_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

_CELL = """
import json, sys, tempfile, time
from pathlib import Path
from longctx.cli import app
model, dtype, length = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    began = time.process_time()
    app(["needle", model, "--methods", "dca", "--lengths", length, "--depths", "50,",
         "--repeats", "1", "--dtype", dtype, "--device-map", "cpu", "--output", folder,
         "--no-prefix-sharing"], standalone_mode=False)
    spent = time.process_time() - began
    run = json.loads((Path(folder) / "run.json").read_text())
    record = json.loads((Path(folder) / "results.jsonl").read_text().splitlines()[-1])
print(json.dumps({"cpu_s": spent, "dtype": run["settings"]["dtype"], "status": record["status"]}))
"""

_CHAT = """
import json, sys, time
from longctx.engine import EngineRequest
from longctx.serve import loading
from longctx.serve.settings import ServeSettings
model, dtype, length = sys.argv[1:]
prepared = loading.prepare(ServeSettings(model, dtype=dtype, device_map="cpu", context=4096))
with prepared.load().engine as engine:
    def ask(tokens, answer):
        began = time.process_time()
        request = EngineRequest(
            list(range(100, 100 + tokens)), max_new_tokens=answer, ignore_eos=True,
            share_prefix=False,
        )
        handle = engine.submit(request)
        engine.run_until_idle()
        handle.result()
        return time.process_time() - began
    ask(16, 4)
    print(json.dumps({"cpu_s": ask(int(length), 32), "dtype": prepared.chosen.name}))
"""


def child(code: str, environment: dict[str, str], *arguments: str) -> dict[str, float | str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--length", default="2K")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-avx512", action="store_true", help="as a processor with AVX2")
    options = parser.parse_args()
    environment = WITHOUT_AVX512 if options.without_avx512 else {}
    model = str(options.model)
    best: dict[tuple[str, str], float] = {}
    dtypes: dict[str, str] = {}
    for _ in range(options.rounds):
        for name in CHOICES:
            cell = child(_CELL, environment, model, name, options.length)
            chat = child(_CHAT, environment, model, name, "1024")
            dtypes[name] = str(cell["dtype"])
            assert cell["dtype"] == chat["dtype"]
            for what, found in (("needle cell", cell), ("chat", chat)):
                key = (name, what)
                best[key] = min(best.get(key, float("inf")), float(found["cpu_s"]))
    where = "as a processor with AVX2 only" if environment else "this machine as it is"
    print(f"{model}, {where}, CPU seconds of one thread")
    for name in CHOICES:
        cell_s, chat_s = best[name, "needle cell"], best[name, "chat"]
        print(f"{name:9} ({dtypes[name]:8}) needle cell {cell_s:7.1f}   chat {chat_s:7.1f}")


if __name__ == "__main__":
    main()
