"""A question as token ids, with the user's text found again in them.

One system and one user turn, whose surroundings are the same for every prompt of a run; `template`
says how template and contents are told apart and encoded. Knows no task.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from longctx.chat import template
from longctx.chat.process import TemplateLimitError, TemplateProcess
from longctx.errors import UserError

TemplateStyle = Literal["chat", "none"]


@dataclass(frozen=True)
class Conversation:
    """What is asked. `answer_prefix` stands after the assistant's header: the model goes on."""

    user: str
    system: str | None = None
    answer_prefix: str = ""


@dataclass(frozen=True)
class Encoded:
    """`user_offsets[i]` are the characters of `user` that token `user_start + i` stands for."""

    ids: list[int]
    user_start: int
    user_offsets: list[tuple[int, int]]


class ChatEncoder:
    """Encodes conversations for one tokenizer (any fast tokenizer of transformers)."""

    def __init__(self, tokenizer: Any, style: TemplateStyle = "chat") -> None:
        self._tokenizer = tokenizer
        self._encoder = template.Encoder(tokenizer)
        self._style = style
        self._layouts: dict[bool, list[list[int]]] = {}
        if style == "chat" and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "--template chat: this model's tokenizer has no chat template: "
                "pass --template none (a base model), or name an instruct model"
            )

    def encode(self, conversation: Conversation) -> Encoded:
        pieces = self._layout(conversation.system is not None)
        ids = list(pieces[0])
        if conversation.system is not None:
            ids += self.contents(conversation.system)[0] + pieces[1]
        user_ids, offsets = self.contents(conversation.user)
        user_start = len(ids)
        ids += user_ids + pieces[-1]
        if conversation.answer_prefix:
            seam = "" if self._style == "chat" else "\n"
            ids += self.contents(seam + conversation.answer_prefix)[0]
        return Encoded(ids, user_start, offsets)

    def contents(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets of text that somebody wrote."""
        return self._encoder.contents_and_offsets(text)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return self.contents(text)[1]

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def sha256(self, system: str | None) -> str:
        """Identity of everything around the contents."""
        layout = self._layout(system is not None)
        return hashlib.sha256(json.dumps([self._style, layout]).encode()).hexdigest()

    def _layout(self, with_system: bool) -> list[list[int]]:
        """Ids before, between and after the contents: 3 pieces with a system message, else 2."""
        if with_system not in self._layouts:
            self._layouts[with_system] = (
                self._chat_layout(with_system)
                if self._style == "chat"
                else self._plain_layout(with_system)
            )
        return self._layouts[with_system]

    def _chat_layout(self, with_system: bool) -> list[list[int]]:
        roles = ("system", "user") if with_system else ("user",)
        messages = [
            {"role": role, "content": template.mark(index)} for index, role in enumerate(roles)
        ]
        try:
            rendered = self._rendered(messages)
        except TemplateLimitError as error:
            raise UserError(
                f"the model's chat template {error.what}: correct it, or pass --template none"
            ) from error
        except Exception as error:
            # Templates raise what they like: jinja2 errors, or their own words about roles.
            remedy = "leave --system out" if with_system else "pass --template none"
            raise UserError(f"the model's chat template refuses ({error}): {remedy}") from error
        try:
            layout = template.split(rendered)
        except template.UnreadableError as error:
            raise UserError(f"the model's chat template: {error}: pass --template none") from None
        if [found.mark for found in layout.found] != list(range(len(roles))):
            raise UserError(
                "the model's chat template drops or repeats a message's content: "
                "pass --template none" + (" or leave --system out" if with_system else "")
            )
        return [list(self._encoder.template(piece)) for piece in layout.pieces]

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        """Apart, where the template is not known to come to an end: once or twice in a run."""
        if self._tokenizer.chat_template == template.CHATML:
            return template.render(self._tokenizer, messages)
        with TemplateProcess(self._tokenizer) as process:
            return process.render(messages)

    def _plain_layout(self, with_system: bool) -> list[list[int]]:
        if with_system:
            raise UserError("--system: needs --template chat: leave it out with --template none")
        begin = self._tokenizer.bos_token_id
        ids = self._tokenizer("a")["input_ids"]
        return [[begin] if begin is not None and ids and ids[0] == begin else [], []]
