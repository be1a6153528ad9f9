"""The process in which large bodies are parsed first: what takes too long takes only it along.

    python -m longctx.serve.body_worker

A body at a time; a JSON object a line answers on stdout. Imports nothing but the parser.
"""

from __future__ import annotations

import json

from longctx.killable.worker import (
    address_space,
    asked_with_bodies,
    limit_memory,
    resident,
    tell,
    within,
)

_HEAVY = 16 << 20  # bytes that a worker may have grown by; then the next body gets a fresh one


def main() -> None:
    from pydantic_core import from_json

    following = asked_with_bodies()
    line, _ = following()
    given = json.loads(line)
    begun, had = address_space(), resident()
    tell(ready=True)
    while True:
        line, raw = following()
        asked = json.loads(line)
        refused = None
        with within(asked["seconds"] + 1):
            limit_memory(begun + given["memory"] + given["copies"] * len(raw))
            try:
                from_json(raw)
            except (MemoryError, RecursionError) as error:
                tell(spent=True, refused=type(error).__name__)
                continue
            except ValueError as error:
                refused = str(error)
            tell(refused=refused, spent=resident() - had > _HEAVY)


if __name__ == "__main__":
    main()
