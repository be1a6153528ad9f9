"""What it takes to find and to keep a prefix among very many, on the engine's thread.

    python benchmarks/prefixes.py --prefixes 1000,100000

Prefixes are random tokens of --tokens, of which every one shares the first --shared with a
hundredth of the others; keys and values are no more than counted. A match is of a prompt that goes
on from a stored prefix, an insert keeps a new one. CPU time of the process, mean and maximum of
--rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

GROUPS = 100


def measure(count: int, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from longctx.engine.buffer import Segment
    from longctx.engine.kv import KvPool
    from longctx.engine.prefix import PrefixTree

    rng = np.random.default_rng(0)
    tokens, shared = options.tokens, options.shared
    budget = (count + 2 * options.rounds + 1) * (tokens + 64)
    pool = KvPool(1, 1, budget)
    tree = PrefixTree(pool)
    heads = [rng.integers(0, 150_000, shared) for _ in range(GROUPS)]

    def drawn(number: int) -> Any:
        return np.concatenate((heads[number % GROUPS], rng.integers(0, 150_000, tokens - shared)))

    def keep(prompt_N: Any) -> None:
        found = tree.match(0, prompt_N[:-1])
        own = pool.allocate(found.length, len(prompt_N) - found.length)
        tree.insert(0, prompt_N, [*found.segments, Segment(own, len(prompt_N))])
        own.release()

    stored = []
    for number in range(count):
        prompt_N = drawn(number)
        keep(prompt_N)
        if number % max(1, count // options.rounds) == 0:
            stored.append(prompt_N)
    row: dict[str, Any] = {"prefixes": len(tree), "tokens": tokens, "shared": shared}

    def note(name: str, seconds: list[float]) -> None:
        row[f"{name}_ms"] = round(1e3 * sum(seconds) / len(seconds), 4)
        row[f"{name}_most_ms"] = round(1e3 * max(seconds), 4)

    found, kept, gone = [], [], []
    for number in range(options.rounds):
        prompt_N = np.concatenate((stored[number % len(stored)], rng.integers(0, 150_000, 20)))
        began = time.process_time()
        match = tree.match(0, prompt_N)
        tree.touch(match.node)
        found.append(time.process_time() - began)
        assert match.length == tokens
    for number in range(options.rounds):
        prompt_N = drawn(number)
        began = time.process_time()
        keep(prompt_N)
        kept.append(time.process_time() - began)
        began = time.process_time()
        tree.evict(1)
        gone.append(time.process_time() - began)
    note("match", found)
    note("insert", kept)
    note("evict_a_block", gone)
    return row


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefixes", default="1000,100000", help="how many are kept")
    parser.add_argument("--tokens", type=int, default=300, help="of a prefix")
    parser.add_argument("--shared", type=int, default=200, help="of these, as others have them")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    options.prefixes = [int(text) for text in options.prefixes.split(",")]
    if not 0 <= options.shared < options.tokens or min(options.prefixes) < 1 or options.rounds < 1:
        parser.error("--shared is below --tokens; --prefixes and --rounds are at least 1")
    return options


def main() -> None:
    options = parse()
    results = [measure(count, options) for count in options.prefixes]
    for row in results:
        if not options.json:
            print(row, flush=True)
    if options.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
