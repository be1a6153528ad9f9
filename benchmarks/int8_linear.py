"""Linear layers of bytes: few rows in C, beside oneDNN's product, float32 and the memory's speed.

    python benchmarks/int8_linear.py
    python benchmarks/int8_linear.py --shapes 3584x18944 --rows 1,8 --threads 2

`native` is `--quantize int8` as it runs here; `oneDNN` the same layer with rounding and scaling in
torch and every product by oneDNN, as where int8.c is not; `float32` the layer that it stands for,
packed. All are interleaved; a figure is the median of --rounds, in CPU time of the process where
there is one thread, else by the wall clock. GB/s are the bytes of the weights over native's time:
layers of some megabytes lie in the processor's cache, and may be read faster than memory, whose
speed is that of adding up 256 MB. `same` says that native and oneDNN gave the same bits.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

from decode import interleaved

SHAPES = "576x576,576x3072,1536x576,576x49152,3584x3584,3584x18944"
READ = 256 << 20
WORK = 4 << 20  # bytes of weights times rows of a timing, at least


def layer(inputs: int, outputs: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    from longctx.engine.packed import PackedLinears
    from longctx.models import int8, int8_native

    torch.manual_seed(0)
    plain = torch.nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
    weights = int8.Int8Weights([plain])
    packed = torch.nn.Sequential(plain)
    PackedLinears(packed)
    few, load = weights._few, int8_native.load
    memory = torch.ones(READ // 4)

    def onednn(x_RI: torch.Tensor) -> torch.Tensor:
        weights._few, int8_native.load = None, lambda: "is left out"  # type: ignore[assignment]
        out = weights(x_RI)
        weights._few, int8_native.load = few, load
        return out

    rows = []
    for count in options.rows:
        x_RI = torch.randn(count, inputs)
        arms = {
            "native": partial(weights, x_RI),
            "oneDNN": partial(onednn, x_RI),
            "float32": partial(packed, x_RI),
            "memory": memory.sum,
        }
        repeats = max(1, WORK // (inputs * outputs * count))
        times = interleaved(arms, options.rounds, repeats)
        clock = "cpu_s" if options.threads == 1 else "wall_s"
        seconds = {arm: each[clock] for arm, each in times.items()}
        rows.append(
            {
                **{"inputs": inputs, "outputs": outputs, "rows": count, "seconds": seconds},
                "gb_s": inputs * outputs / seconds["native"] / 1e9,
                "memory_gb_s": READ / seconds["memory"] / 1e9,
                "same": bool(torch.equal(weights(x_RI), onednn(x_RI))),
            }
        )
    return rows


def print_row(row: dict[str, Any]) -> None:
    times = {arm: 1e6 * each for arm, each in row["seconds"].items()}
    print(
        f"{row['inputs']:>5} x {row['outputs']:<6} {row['rows']:>4} rows"
        f"  native {times['native']:9.1f}  oneDNN {times['oneDNN']:9.1f}"
        f"  float32 {times['float32']:9.1f} us"
        f"  {times['oneDNN'] / times['native']:5.2f} x  {times['float32'] / times['native']:5.2f} x"
        f"  {row['gb_s']:5.1f} of memory's {row['memory_gb_s']:.1f} GB/s"
        f"{'' if row['same'] else '  OTHER BITS'}",
        flush=True,
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default=SHAPES, help="inputs x outputs, with commas")
    parser.add_argument("--rows", default="1,2,8,64,512", help="with commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.shapes = [tuple(map(int, each.split("x"))) for each in options.shapes.split(",")]
    options.rows = [int(each) for each in options.rows.split(",")]
    return options


def main() -> None:
    options = parse()
    import torch

    from longctx.attention import cpu
    from longctx.models import int8_native

    if not cpu.multiplies_int8():
        raise SystemExit(f"no products of bytes: {cpu.multiplies_int8().reason}")
    torch.set_num_threads(options.threads)
    about = {"cpu": cpu.describe(), "native int8": int8_native.able().reason}
    if not options.json:
        print(about)
    results = []
    with torch.inference_mode():
        for inputs, outputs in options.shapes:
            for row in layer(inputs, outputs, options):
                results.append(row)
                if not options.json:
                    print_row(row)
    if options.json:
        print(json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
