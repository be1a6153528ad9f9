"""Greedy answers with int8 weights, int8 keys and both, beside the same prompts in plain numbers.

    python benchmarks/rounded_answers.py
    python benchmarks/rounded_answers.py --lengths 4K,8K --repeats 3 --output runs/rounded-long
    python benchmarks/rounded_answers.py --model models/smollm2-135m --methods none --lengths 2K

Asks the prompts of `longctx needle`, by default 1,000 of the embedded model: 200 at each of five
lengths, the first its window of 512 tokens. Every prompt has a text of its own. An answer is
another one where any character of it differs. Each arm has a run folder in --output, and the same
command goes on where it stopped; a folder that holds other prompts is refused. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from an uninstalled clone

PLAIN = "plain"
ARMS: Mapping[str, dict[str, str]] = {
    PLAIN: {},
    "int8 weights": {"quantize": "int8"},
    "int8 keys": {"kv_dtype": "int8"},
    "both": {"quantize": "int8", "kv_dtype": "int8"},
}

Place = tuple[str, int, float | None, int]  # method, length, depth, repeat


class Row(NamedTuple):
    """`hits` are of all prompts; `lost` and `won` of those whose answer is another one."""

    arm: str
    method: str
    length: int
    prompts: int
    hits: int
    other: int
    lost: int
    won: int


class _Quiet:
    def started(self, cell: Any) -> None: ...

    def finished(self, cell: Any, record: Any) -> None: ...


def answers(folder: Path, options: Mapping[str, Any]) -> dict[Place, Any]:
    """The record of every prompt, asked for what the folder lacks.

    Raises:
        UserError: the folder holds another run, or a prompt got no answer.
    """
    from longctx.errors import UserError
    from longctx.eval.runfolder.folder import RunFolder
    from longctx.eval.runfolder.records import place_of
    from longctx.eval.scoring import SCORED
    from longctx.models.base import LoadedModels
    from longctx.options.needle import NeedleOptions
    from longctx.runs.needle_prepare import prepare
    from longctx.runs.settle import settle_needle

    prepared = prepare(settle_needle(NeedleOptions(**options, output=folder)))
    with RunFolder(folder) as opened, LoadedModels() as loaded:
        opened.check(prepared.describe())
        if pending := prepared.next_cells(opened.results.records):
            sessions = prepared.model.sessions(loaded)
            opened.begin(prepared.describe())
            prepared.sweep.run(pending, sessions, opened.results, _Quiet())
        records = list(opened.results.records.values())
    for record in records:
        if record["status"] not in SCORED:
            raise UserError(f"{folder}: a prompt was not answered: {record['error']}")
    return {place_of(record): record for record in records}


def compare(arm: str, plain: dict[Place, Any], rounded: dict[Place, Any]) -> Iterator[Row]:
    """A row for each method and length.

    Raises:
        ValueError: the prompts are not the same.
    """
    if plain.keys() != rounded.keys():
        raise ValueError(f"{arm}: {len(rounded)} prompts beside {len(plain)}")
    for method, length in dict.fromkeys(place[:2] for place in plain):
        places = [place for place in plain if place[:2] == (method, length)]
        pairs = [(plain[place], rounded[place]) for place in places]
        if any(a["prompt_sha256"] != b["prompt_sha256"] for a, b in pairs):
            raise ValueError(f"{arm}: another prompt at {method}, {length}")
        other = [(a, b) for a, b in pairs if a["response"] != b["response"]]
        yield Row(
            arm,
            method,
            length,
            len(pairs),
            sum(b["score"] == 1 for _, b in pairs),
            len(other),
            sum(a["score"] == 1 != b["score"] for a, b in other),
            sum(b["score"] == 1 != a["score"] for a, b in other),
        )


def table(rows: list[Row]) -> Iterator[str]:
    rounded = [f"{arm}: hits, other answers" for arm in ARMS if arm != PLAIN]
    heads = ("method, length", "prompts", f"{PLAIN}: hits", *rounded)
    yield f"| {' | '.join(heads)} |"
    yield "| --- |" + " ---: |" * (len(heads) - 1)
    kinds = list(dict.fromkeys((row.method, row.length) for row in rows))
    for method, length in kinds:
        yield _line(
            f"{method}, {length}", [r for r in rows if (r.method, r.length) == (method, length)]
        )
    if len(kinds) > 1:
        yield _line("all", rows)


def _line(name: str, rows: list[Row]) -> str:
    cells = []
    for arm in ARMS:
        own = [row for row in rows if row.arm == arm]
        hits, other = sum(row.hits for row in own), sum(row.other for row in own)
        cells.append(str(hits) if arm == PLAIN else f"{hits}, {other}")
    prompts = sum(row.prompts for row in rows if row.arm == PLAIN)
    return f"| {name} | {prompts} | {' | '.join(cells)} |"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="default: the embedded model")
    parser.add_argument("--methods", default="yarn+dca")
    parser.add_argument(
        "--lengths", default="512,768,1K,1536,2K", help="tokens of a prompt, K = 1024"
    )
    parser.add_argument("--depths", default="n=10")
    parser.add_argument("--repeats", type=int, default=20, help="of every length and depth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", help="of what is not rounded")
    parser.add_argument("--output", type=Path, default=Path("runs/rounded-answers"))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(arguments)


def main() -> None:
    said = parse()
    from longctx.errors import UserError
    from longctx.eval.needle.config import parse_depths, parse_lengths, parse_methods

    try:
        options = {
            "model": said.model,
            "methods": parse_methods(said.methods),
            "lengths": parse_lengths(said.lengths),
            "depths": parse_depths(said.depths),
            "repeats": said.repeats,
            "seed": said.seed,
            "dtype": said.dtype,
        }
        found: dict[str, dict[Place, Any]] = {}
        rows: list[Row] = []
        for arm, rounding in ARMS.items():
            folder = said.output / arm.replace(" ", "-")
            found[arm] = answers(folder, {**options, **rounding})
            rows += compare(arm, found[PLAIN], found[arm])
            print(f"{arm}: {len(found[arm])} answers", file=sys.stderr, flush=True)
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    if said.json:
        print(
            json.dumps({"about": vars(said), "results": [r._asdict() for r in rows]}, default=str)
        )
        return
    for line in table(rows):
        print(line)
    changed = [row for row in rows if row.other]
    for row in changed:
        print(f"\n{row.arm}, {row.method}, {row.length}: {row.lost} hits lost, {row.won} won")


if __name__ == "__main__":
    main()
