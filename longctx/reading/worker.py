"""The process that reads HTML: a page that never ends, or fills the memory, takes only it along.

    python -m longctx.reading.worker

The first line on stdin is what it may cost, every further one a page; a JSON object a line answers
on stdout. Imports nothing but the parser.
"""

from __future__ import annotations

import json

from longctx.killable.worker import address_space, asked, limit_memory, tell, within
from longctx.reading.markup import TooMuchTextError, blocks_of


def main() -> None:
    following = asked()
    given = json.loads(following())
    limit_memory(address_space() + given["memory"])
    tell(ready=True)
    while True:
        line = following()
        with within(given["seconds"] + 1.0):
            try:
                blocks = blocks_of(json.loads(line), given["characters"])
            except TooMuchTextError:
                tell(refused="characters")
            except MemoryError:
                tell(refused="memory")
            except Exception as error:  # the parser asserts what pages may break
                tell(refused="damaged", why=str(error) or type(error).__name__)
            else:
                tell(blocks=blocks)


if __name__ == "__main__":
    main()
