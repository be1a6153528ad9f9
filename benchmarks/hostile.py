"""Everything that a stranger may do to a server, done to one: what it costs the others.

    python benchmarks/hostile.py                              # some minutes
    python benchmarks/hostile.py --only bombs --kinds patterns,products
    python benchmarks/hostile.py --only ends,kill,disk,memory,deaf --json

bombs: six at once of each kind of request that is small to send and large to serve, and beside them
/health and plain chats. ends: SIGTERM in every phase. kill: kill -9 and a restart. disk: the log on
a full disk. memory: under RLIMIT_AS. deaf: 500 connections that never read. Starts servers of its
own with the embedded model, and ends with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

from hostile_kit import bombs, phases
from hostile_kit.server import HealthProbe, Victim, model_with_tools, temporary

AT_ONCE = 6
_numbers = count()  # no two requests alike: verdicts are kept
SECTIONS = ("bombs", "ends", "kill", "disk", "memory", "deaf")
REST = "nothing"
HEALTH_MEDIAN_MS, HEALTH_WORST_MS = 50.0, 500.0


def bomb(server: Victim, want: tuple[int, str], kind: str) -> dict[str, Any]:
    """One kind: statuses, what /health and plain chats took meanwhile, and memory.

    Args:
        want: of a plain chat.
    """
    path, make = bombs.KINDS[kind]
    bodies = [make(next(_numbers)) for _ in range(AT_ONCE)]
    before, taken = server.memory_mib(), []

    def send(body: bytes) -> tuple[int, str]:
        began = time.monotonic()
        status, told = server.ask("POST", path, body)
        taken.append(time.monotonic() - began)
        if status == 200:
            return (400, "in the stream") if b'"error"' in told else (200, "answered")
        error = json.loads(told)["error"]
        return status, error["code"] if "\n" not in error["message"] else "more than a line"

    probe, chats, slowest = HealthProbe(server.port), [], 0.0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(send, body) for body in bodies]
        while not chats or not all(each.done() for each in asked):  # some are refused at once
            began = time.monotonic()
            chats.append(server.chat() == want)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.2)
    health = probe.end()
    after, end = server.memory_mib(), time.monotonic() + 20
    while after > 1.1 * before and time.monotonic() < end:
        time.sleep(0.5)
        after = server.memory_mib()
    return {
        "kind": kind,
        "bytes": len(bodies[0]),
        "answers": dict(
            Counter(f"{status} {code}" for status, code in (a.result() for a in asked))
        ),
        "slowest_s": round(max(taken), 1),
        "health": health,
        "chats": len(chats),
        "chats_alike": sum(chats),
        "slowest_chat_s": round(slowest, 2),
        "memory_mib": [round(before), round(after)],
    }


def all_bombs(kinds: list[str], seconds: float) -> list[dict[str, Any]]:
    """The first row is of nobody: what /health takes at rest on this machine.

    Args:
        seconds: that the server gives a schema.
    """
    folder = temporary()
    try:
        options = ("--schema-timeout", str(seconds))
        with Victim(*options, model=model_with_tools(folder)) as server:
            server.ready()
            want = server.chat()
            probe = HealthProbe(server.port)
            time.sleep(3)
            rest = {"kind": REST, "health": probe.end()}
            bomb(server, want, "patterns")  # its processes and buffers are there from now on
            return [rest, *(bomb(server, want, kind) for kind in kinds)]
    finally:
        shutil.rmtree(folder)


def wrong(found: dict[str, Any]) -> list[str]:
    """What does not hold, in words."""
    told = []
    for row in found.get("bombs", ()):
        name, health = row["kind"], row["health"]
        if name == REST:
            continue
        before, after = row["memory_mib"]
        told += [f"{name}: {each}" for each, bad in (
            (f"answers {row['answers']}", any(a[0] == "5" or "stream" in a or "line" in a
                                              for a in row["answers"])),
            (f"/health {health}", health["failed"] > 0 or health["median_ms"] > HEALTH_MEDIAN_MS
             or health["worst_ms"] > HEALTH_WORST_MS),
            (f"chats {row['chats_alike']} of {row['chats']} alike",
             row["chats_alike"] != row["chats"]),
            (f"memory {before} -> {after} MiB", after > 1.1 * before),
        ) if bad]  # fmt: skip
    for row in found.get("ends", ()):
        if row["seconds"] > row["allowed_s"] or row["workers_left"]:
            told.append(f"SIGTERM: {row}")
    if (kill := found.get("kill")) and (kill["workers_left"] or not kill["same_answer"]):
        told.append(f"kill -9: {kill}")
    if (disk := found.get("disk")) and (disk["same"] != disk["answers"] or disk["code"]):
        told.append(f"full disk: {disk}")
    for row in found.get("memory", ()):
        if "ready_s" in row and row["chat_after"] != 200:
            told.append(f"RLIMIT_AS: {row}")
    if (deaf := found.get("deaf")) and (deaf["chats_alike"] != deaf["chats"] or deaf["open"] > 2):
        told.append(f"deaf clients: {deaf}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="of " + ", ".join(SECTIONS))
    parser.add_argument("--kinds", default=",".join(name.replace(",", "") for name in bombs.KINDS),
                        help="of bombs, separated by commas")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=5.0, help="the server's --schema-timeout")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    options = parser.parse_args()
    sections = options.only.split(",")
    known = {name.replace(",", ""): name for name in bombs.KINDS}
    kinds = options.kinds.split(",")
    for flag, unknown in (
        ("--only", set(sections) - set(SECTIONS)),
        ("--kinds", set(kinds) - set(known)),
    ):
        if unknown:
            parser.error(f"{flag}: unknown: {', '.join(sorted(unknown))}")
    made: dict[str, Callable[[], Any]] = {
        "bombs": lambda: all_bombs([known[kind] for kind in kinds], options.seconds),
        "ends": phases.ends,
        "kill": phases.kill,
        "disk": phases.disk,
        "memory": phases.memory,
        "deaf": phases.deaf,
    }
    found: dict[str, Any] = {}
    for name in sections:
        found[name] = made[name]()
        if not options.json:
            rows = found[name] if isinstance(found[name], list) else [found[name]]
            print(f"{name}:", *(f"  {json.dumps(row)}" for row in rows), sep="\n", flush=True)
    found["wrong"] = wrong(found)
    if options.json:
        print(json.dumps(found, indent=2))
    for line in found["wrong"]:
        print(f"wrong: {line}", file=sys.stderr)
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
