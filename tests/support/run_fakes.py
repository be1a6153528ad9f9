"""Run folders without a run: what summaries and pictures are made from."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


# Of the cut-off answers half was there.
_SCORES = {"ok": 1.0, "miss": 0.0, "partial": 0.5, "truncated_output": 0.5}


def window(tokens: int) -> Status:
    """A simulated model that finds needles nearer than so many tokens to the question."""

    def status(method: str, length: int, depth: float, repeat: int) -> str:
        return "ok" if (1 - depth / 100) * length < tokens else "miss"

    return status


def all_states(method: str, length: int, depth: float, repeat: int) -> str | None:
    """Every state once per column of the longest length, `ok` elsewhere."""
    states = ("ok", "miss", "partial", "truncated_output", "overflow", "error", None)
    return states[int(depth / 10) % len(states)] if length == max(LENGTHS) else "ok"


def write_run(
    path: Path,
    status: Status = four_methods,
    *,
    methods: Sequence[str] = METHODS,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    repeats: int = 2,
    trained: int | None = 512,
    model: str = "models/small",
    text: str = "book.txt",
    answer: str = "I do not know.",
    prompts: str | None = None,
    texts: str = "own",
    stopping: dict[str, Any] | None = None,
) -> Path:
    """`prompts` names what was asked: runs with the same name have the same prompts. `texts` are
    the cells' own, or `shared` by the depths of a repeat."""
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
        "settings": {"seed": 0} | ({"texts": "own"} if texts == "own" else {}),
        "schemes": schemes,
        "model": {"name": model},
        "haystack": {"id": text},
        **({} if stopping is None else {"stopping": stopping}),
        "trained_length": trained,
    }
    (path / "run.json").write_text(json.dumps(run))
    with (path / "results.jsonl").open("w") as stream:
        cells = itertools.product(methods, lengths, depths, range(repeats))
        for method, length, depth, repeat in cells:
            found = status(method, length, depth, repeat)
            if found is None:
                continue
            record: dict[str, Any] = {
                "schema": 1,
                "key": f"{method}/{length}/{depth}/{repeat}",
                "scheme": {"method": method},
                **{"length": length, "depth": depth, "repeat": repeat},
                "status": found,
                "score": _SCORES.get(found),
                "error": "broken" if found == "error" else None,
            }
            number = repeat if texts == "shared" else 1_000_000 * (repeat + 1) + int(1000 * depth)
            if prompts is not None:
                record |= _asked(prompts, length, depth, repeat, answer)
            record["recipe"] = {**record.get("recipe", {}), "repeat": number}
            stream.write(json.dumps(record) + "\n")
    return path


def _asked(prompts: str, length: int, depth: float, repeat: int, answer: str) -> dict[str, Any]:
    """What a real record tells of prompt and answer."""
    place = f"{prompts}/{length}/{depth}/{repeat}"
    start = int(depth / 100 * (length - 100))
    return {
        "prompt_sha256": hashlib.sha256(place.encode()).hexdigest(),
        "question": f"What is the special magic number for brisk-island-{repeat}?",
        "expected": [str(1_000_000 + hash_of(place) % 9_000_000)],
        "response": answer,
        "needle_span": [start, start + 25],
        "depth_actual": depth,
        "prompt_tokens": length - 40,
        "recipe": {
            **{"task": "needle", "language": "en", "length": length, "depth": depth},
            **{"seed": 0, "repeat": repeat, "haystack_sha256": "3a545b04018a", "exact": False},
        },
    }


def hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def write_perplexity(
    path: Path, *, model: str = "models/small", text: str = "book.txt", fingerprint: str = "f"
) -> Path:
    """A run of two methods at 512 and 1,024 tokens; every token of `none` costs ln 2, from the
    512th on ln 8, and of `dca` ln 2."""
    path.mkdir()
    run = {
        "schema": 1,
        "task": "perplexity",
        "grid": {"methods": ["none", "dca"], "lengths": [512, 1024]},
        "settings": {"seed": 0, "longest": 1024, "dtype": "float32", "bos": "no BOS"},
        "view": {"metric": "prefix", "window": None, "stride": None},
        "by_length": [],
        "schemes": {"none": {}, "dca": {"chunk_size": 448, "local_size": 64, "sources": {}}},
        "model": {"name": model, "fingerprint": fingerprint},
        "text": {"id": text, "documents": [{"sha256": "a"}, {"sha256": "b"}], "left_out": 0},
        "trained_length": 512,
        "sessions": [{"command": "longctx perplexity"}],
    }
    (path / "run.json").write_text(json.dumps(run))
    with (path / "perplexity.jsonl").open("w") as stream:
        for method, document in itertools.product(("none", "dca"), ("a", "b")):
            broken = [math.log(8)] * 512 if method == "none" else [math.log(2)] * 512
            record = {
                "schema": 1,
                "key": f"{method}/{document}",
                "scheme": {"method": method},
                "document": {"sha256": document},
                **{"tokens": 1024, "window": 1024, "stride": None, "status": "ok"},
                "nll": [math.log(2)] * 511 + broken,
                "bytes": [4] * 1023,
                "error": None,
            }
            stream.write(json.dumps(record) + "\n")
    return path


def same_model(folder: Path, fingerprint: str = "f") -> Path:
    """The needle run's model gets that fingerprint."""
    run = json.loads((folder / "run.json").read_text())
    run["model"]["fingerprint"] = fingerprint
    run["settings"]["dtype"] = "float32"
    (folder / "run.json").write_text(json.dumps(run))
    return folder
