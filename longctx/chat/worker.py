"""The process in which a model's chat template is rendered: one without an end takes only it along.

    python -m longctx.chat.worker

The first line on stdin is what to set up, every further one a conversation; a JSON object a line
answers on stdout. The rendering is transformers' own, without a tokenizer and without torch.
"""

from __future__ import annotations

import json
from typing import Any

from longctx.killable.worker import address_space, asked, limit_memory, tell, within


class TemplateWords:
    """What apply_chat_template looks at of a tokenizer."""

    def __init__(self, chat_template: Any, special_tokens_map: dict[str, Any]) -> None:
        from transformers.tokenization_utils_base import PreTrainedTokenizerBase as Base

        self.chat_template, self.special_tokens_map = chat_template, special_tokens_map
        self.get_chat_template = Base.get_chat_template.__get__(self)
        self.apply_chat_template = Base.apply_chat_template.__get__(self)


def main() -> None:
    following = asked()
    given = json.loads(following())
    words = TemplateWords(given["chat_template"], given["special_tokens_map"])
    begun = address_space()
    tell(ready=True)
    while True:
        line = following()
        with within(given["seconds"] + len(line) / given["speed"] + 1):
            limit_memory(begun + given["memory"] + given["copies"] * len(line))
            try:
                text = words.apply_chat_template(**json.loads(line))
                if len(text) > given["longer"] * len(line) + given["extra"]:
                    raise MemoryError
            except MemoryError:
                tell(spent=True)  # what is left of it may not do for the next one
            except Exception as error:
                lineno = getattr(error, "lineno", None) if _is_syntax(error) else None
                tell(refused=str(getattr(error, "message", None) or error)[:2000], line=lineno)
            else:
                tell(text=text)


def _is_syntax(error: Exception) -> bool:
    from jinja2 import TemplateSyntaxError

    return isinstance(error, TemplateSyntaxError)


if __name__ == "__main__":
    main()
