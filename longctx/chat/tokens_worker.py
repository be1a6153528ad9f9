"""The process in which long texts become tokens: what takes too long takes only it along.

    python -m longctx.chat.tokens_worker

First what to set up, with the tokenizer's JSON behind it, then a text at a time; a JSON object a
line answers on stdout. Imports neither torch nor transformers.
"""

from __future__ import annotations

import base64
import json
import os
from array import array

from longctx.killable.worker import (
    address_space,
    asked_with_bodies,
    limit_memory,
    resident,
    tell,
    within,
)

_HEAVY = 16 << 20  # bytes that a worker may have grown by; then the next text gets a fresh one


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads would take addresses of their own
    from tokenizers import Tokenizer

    following = asked_with_bodies()
    line, made = following()
    given = json.loads(line)
    tokenizer = Tokenizer.from_str(made.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    begun, had = address_space(), resident()
    tell(ready=True)
    while True:
        line, text = following()
        asked = json.loads(line)
        tokenizer.encode_special_tokens = asked["split"]
        with within(asked["seconds"] + 1):
            limit_memory(begun + given["memory"] + given["copies"] * len(text))
            try:
                (found,) = tokenizer.encode_batch_fast(
                    [text.decode()], add_special_tokens=asked["add_special"]
                )
                ids = base64.b64encode(array("I", found.ids).tobytes()).decode()
                del found
            except MemoryError:
                tell(spent=True)  # what is left of it may not do for the next one
            else:
                tell(ids=ids, spent=resident() - had > _HEAVY)


if __name__ == "__main__":
    main()
