"""The process in which a model's chat template is rendered: one without an end takes only it along.

    python -m longctx.chat.worker

The first line on stdin is what to set up, every further one a conversation; a JSON object a line
answers on stdout. The rendering is transformers' own, without a tokenizer and without torch. Ends
with its stdin, also in the middle of its work, and by its own clock where its parent cannot end it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any


class TemplateWords:
    """What apply_chat_template looks at of a tokenizer."""

    def __init__(self, chat_template: Any, special_tokens_map: dict[str, Any]) -> None:
        from transformers.tokenization_utils_base import PreTrainedTokenizerBase as Base

        self.chat_template, self.special_tokens_map = chat_template, special_tokens_map
        self.get_chat_template = Base.get_chat_template.__get__(self)
        self.apply_chat_template = Base.apply_chat_template.__get__(self)


def main() -> None:
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    first = sys.stdin.buffer.readline()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    given = json.loads(first)
    words = TemplateWords(given["chat_template"], given["special_tokens_map"])
    begun = _address_space()
    _tell(ready=True)
    while True:
        line = lines.get()
        with suppress(AttributeError):  # Windows: the parent's clock is the only one
            signal.setitimer(signal.ITIMER_REAL, given["seconds"] + len(line) / given["speed"] + 1)
        _limit(begun + given["memory"] + given["copies"] * len(line))
        try:
            text = words.apply_chat_template(**json.loads(line))
            if len(text) > given["longer"] * len(line) + given["extra"]:
                raise MemoryError
        except MemoryError:
            _tell(spent=True)  # what is left of it may not do for the next one
        except Exception as error:
            lineno = getattr(error, "lineno", None) if _is_syntax(error) else None
            _tell(refused=str(getattr(error, "message", None) or error)[:2000], line=lineno)
        else:
            _tell(text=text)
        with suppress(AttributeError):
            signal.setitimer(signal.ITIMER_REAL, 0)


def _is_syntax(error: Exception) -> bool:
    from jinja2 import TemplateSyntaxError

    return isinstance(error, TemplateSyntaxError)


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _limit(most: int) -> None:
    """On the addresses that may be taken, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and does not take it
        resource.setrlimit(resource.RLIMIT_AS, (value, hard))


def _address_space() -> int:
    import psutil

    return int(psutil.Process().memory_info().vms)


def _tell(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
