"""Run folders without a run: what summaries and pictures are made from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
DEPTHS = tuple(10.0 * step for step in range(11))
METHODS = ("none", "yarn", "dca", "yarn+dca")

# Method, length, depth, repeat -> a status, or None for a cell that did not run.
Status = Callable[[str, int, float, int], str | None]


def four_methods(method: str, length: int, depth: float, repeat: int) -> str:
    """Trained on 512: `none` fails above the frontier, `yarn` is weak at 8K, the others hold."""
    if method == "none" and depth < 100 * (1 - 512 / length):
        return "miss"
    if method == "yarn" and length == 8192 and (7 * int(depth) + 5 * repeat) % 3 == 0:
        return "miss"
    return "ok"


def write_run(
    path: Path,
    status: Status = four_methods,
    *,
    methods: Sequence[str] = METHODS,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    repeats: int = 2,
    trained: int | None = 512,
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    chunks = {"chunk_size": 448, "local_size": 64}
    schemes = {
        method: (chunks if "dca" in method else {}) | ({"factor": 16.0} if "yarn" in method else {})
        for method in methods
    }
    run = {
        "schema": 1,
        "task": "needle",
        "grid": {
            **{"methods": list(methods), "lengths": list(lengths)},
            **{"depths": list(depths), "repeats": repeats},
        },
        "settings": {"seed": 0},
        "schemes": schemes,
        "model": {"name": "models/small"},
        "haystack": {"id": "book.txt"},
        "trained_length": trained,
    }
    (path / "run.json").write_text(json.dumps(run))
    with (path / "results.jsonl").open("w") as stream:
        cells = itertools.product(methods, lengths, depths, range(repeats))
        for method, length, depth, repeat in cells:
            found = status(method, length, depth, repeat)
            if found is None:
                continue
            record = {
                "schema": 1,
                "key": f"{method}/{length}/{depth}/{repeat}",
                "scheme": {"method": method},
                **{"length": length, "depth": depth, "repeat": repeat},
                "status": found,
                "score": {"ok": 1.0, "miss": 0.0}.get(found),
                "error": "broken" if found == "error" else None,
            }
            stream.write(json.dumps(record) + "\n")
    return path
