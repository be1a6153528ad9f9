"""The process in which a stranger's schema is compiled first: what never ends takes only it along.

    python -m longctx.grammar.worker

The first line on stdin is what to set up, every further one a schema; a JSON object a line answers
on stdout. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from typing import Any

from longctx.grammar.compiler import Compiler, GrammarError, Vocabulary
from longctx.killable.worker import address_space, asked, limit_memory, resident, tell, within

# Answers that are begun, and tokens of each: what of a schema only grows behind its compilation is
# proven too. Of one that takes long to compile, one answer.
_ANSWERS, _STEPS = 4, 16
_LONG = 0.5
_HEAVY = 64 << 20  # bytes that a worker may have grown by; then the next schema gets a fresh one


def main() -> None:
    with suppress(AttributeError, OSError):  # Windows has none
        os.nice(10)  # the model's steps come first
    following = asked()
    given = json.loads(following())
    try:
        compiler = Compiler(Vocabulary(*given["vocabulary"]))
    except ImportError as error:
        tell(failed=str(error))
        return
    begun = resident()
    limit_memory(address_space() + given["memory"])
    tell(ready=True)
    while True:
        schema = json.loads(following())
        with within(given["seconds"] + 1.0):
            refused, seconds = prove(compiler, schema)
            tell(refused=refused, seconds=seconds, spent=resident() - begun > _HEAVY)


def prove(compiler: Compiler, schema: dict[str, Any]) -> tuple[str | None, float]:
    """Compile, and go a few tokens into some answers.

    Returns: the reason where an answer cannot begin, or comes to an error within its first tokens;
        and the seconds that one compilation took.
    """
    chance = random.Random(0)
    seconds = 0.0
    for at in range(_ANSWERS):
        began = time.monotonic()
        try:
            matcher = compiler.compile(schema)
            if not at:
                seconds = time.monotonic() - began
            for _ in range(_STEPS):
                ids = matcher.allowed().nonzero()[0]
                if not len(ids):
                    return "an answer in it comes to where nothing may follow", seconds
                if matcher.accept(int(chance.choice(ids))):
                    break
        except GrammarError as error:
            return str(error), seconds
        if time.monotonic() - began > _LONG:
            break
    return None, seconds


if __name__ == "__main__":
    main()
