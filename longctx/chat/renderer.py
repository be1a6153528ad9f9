"""A conversation of OpenAI's format as token ids, such that no content can forge a turn.

The model's own chat template is rendered twice: with the texts, and with a mark in place of every
text (`longctx.chat.template`). The second rendering says which characters are the template's; the
first must be the second with the texts put in, so the ids spell what the template renders or the
request is refused. What stands between special tokens and holds parts of tools (definitions,
calls) is encoded as one piece, as it was in training. Knows neither HTTP nor the engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from longctx.chat import template
from longctx.chat.forced import ForcedCall, ToolChoice, forced_call, offer
from longctx.chat.messages import Marked, Text, mark_messages, mark_tools, normalise
from longctx.chat.process import TemplateLimitError, TemplateProcess
from longctx.chat.tokens_process import TokensPool
from longctx.chat.tools import OPEN
from longctx.errors import UserError

# What templates do to the white space around a text.
_TRIMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.strip(),
    lambda text: text.strip("\n"),
    lambda text: text.rstrip(),
    lambda text: text.lstrip(),
    lambda text: text.rstrip("\n"),
    lambda text: text.lstrip("\n"),
)


class Stretch(NamedTuple):
    """A stretch of a conversation: the template's, a message's, or data of tools."""

    kind: Literal["template", "special", "content", "data"]
    text: str


class _Turn(NamedTuple):
    """What a conversation is rendered with."""

    tools: list[dict[str, Any]] | None
    add_generation_prompt: bool
    continue_final: bool
    options: Mapping[str, Any] | None


class ChatRenderer:
    """Encodes conversations for one tokenizer (any fast tokenizer of transformers).

    Tokenising a million tokens takes seconds: call it from a worker thread; several may call at
    the same time. Dates and thinking are as `longctx.chat.template` sets them.
    """

    def __init__(
        self,
        tokenizer: Any,
        process: TemplateProcess | None = None,
        apart: TokensPool | None = None,
    ) -> None:
        """
        Args:
            process: renders, where the template is not to be trusted with this one.
            apart: makes tokens of long texts, where these are strangers'.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "messages: this model's tokenizer has no chat template: use /v1/completions, or "
                "serve an instruct model"
            )
        self._tokenizer, self._process = tokenizer, process
        self._encoder = template.Encoder(tokenizer, apart)

    def encode(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: ToolChoice = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
        options: Mapping[str, Any] | None = None,
        check: Callable[[list[str]], None] | None = None,
        inserted: Mapping[str, Sequence[int]] | None = None,
    ) -> list[int]:
        """Token ids of the prompt.

        Roles are system, developer (a system message to the template), user, assistant and tool;
        contents are strings or lists of text parts, which are joined by line ends. `name` of a
        message and `tool_call_id` reach the model where the template prints them. White space is
        trimmed where the template trims it. With `tool_choice` "none" the model is told of no
        tools; with "required" or a function's name the ids end with the prefix of `forced_call`.
        With `continue_final` they end with the last message's text, an assistant's. `options` are
        what the template looks at beside the conversation, as `enable_thinking`.
        `check` is called with contents that must be in the prompt before it is rendered, and with
        all texts of it before they are tokenised. Where a text has a key of `inserted`, the ids of
        its value stand in the prompt; what is before and behind is encoded by itself.

        Raises:
            UserError: what the template refuses, leaves out or reads into (a text that holds
                marks of its own, such as `<tool_response>` with some); images; unknown roles;
                tools where the template has no place for them or writes calls in another format.
        """
        forced = forced_call(tools, tool_choice)
        tools, tool_choice = offer(tools, tool_choice)
        offered = None if tool_choice == "none" else tools or None
        ids: list[int] = []
        if options:
            template.check_options(self._tokenizer, options)
        normal = normalise(messages)
        if check is not None:  # of answers, templates may leave out what was thought
            check([_trimmed(each["content"]) for each in normal if each["role"] != "assistant"])
        if continue_final:
            _check_final(normal[-1], forced)
            add_generation_prompt = False
        turn = _Turn(offered, add_generation_prompt, continue_final, options)
        runs = self._runs(normal, turn)
        if check is not None:
            check([run.text for run in runs])
        for run in runs:
            if run.kind == "template":
                ids += self._encoder.template(run.text)
            elif inserted:
                for piece in re.split(f"({'|'.join(map(re.escape, inserted))})", run.text):
                    ids += inserted.get(piece) or self._encoder.contents(piece)
            else:
                ids += self._encoder.contents(run.text)
        if forced and add_generation_prompt:
            ids += self._encoder.contents(forced.prefix)
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of text by itself, none of them a special token's."""
        return self._encoder.contents(text)

    def unused_options(self, options: Mapping[str, Any]) -> list[str]:
        """Of `options`, the names that the template does not look at."""
        return template.unused_options(self._tokenizer, options)

    def _runs(self, messages: list[dict[str, Any]], turn: _Turn) -> list[Stretch]:
        real = self._render(messages, turn.tools, turn)
        for candidate in _readings(messages):
            marked = Marked()
            with_marks = self._render(
                mark_messages(candidate, marked), mark_tools(turn.tools, marked), turn
            )
            try:
                layout = template.split(with_marks)
            except template.UnreadableError as error:
                raise UserError(f"messages: this model's chat template: {error}") from None
            _nothing_lost(layout, marked.texts, with_marks, turn.tools)
            runs = _fill(layout, marked.texts, real)
            if runs is not None:
                if turn.continue_final:
                    runs = runs[: _final_text(layout, marked.texts) + 1]
                return _merged([part for run in runs for part in self._cut(run)])
        raise UserError(
            "messages: this model's chat template acts on what a text says, so what is the "
            "template's cannot be told from what is the text's: take the template's own marks out"
        )

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, turn: _Turn
    ) -> str:
        prompt, options = turn.add_generation_prompt, turn.options
        try:
            if self._process is not None:
                return self._process.render(messages, tools, prompt, options)
            return template.render(
                self._tokenizer,
                messages,
                tools=tools,
                add_generation_prompt=prompt,
                options=options,
            )
        except TemplateLimitError:
            raise
        except Exception as error:
            # Templates raise what they like: jinja2 errors, or their own words about roles.
            raise UserError(
                f"messages: this model's chat template refuses them: {error}"
            ) from error

    def _cut(self, run: Stretch) -> Iterator[Stretch]:
        """The template's text around its special tokens, apart from them."""
        span = self._encoder.special_span(run.text) if run.kind == "template" else None
        if span is None:
            yield run
            return
        first, last = span
        yield Stretch("template", run.text[:first])
        yield Stretch("special", run.text[first:last])
        yield Stretch("template", run.text[last:])


def _check_final(message: dict[str, Any], forced: ForcedCall | None) -> None:
    if message["role"] != "assistant" or not message["content"] or message.get("tool_calls"):
        raise UserError(
            "continue_final_message: the last message must be an assistant's, with a text and "
            "without tool calls: pass one, or leave continue_final_message out"
        )
    if forced is not None:
        raise UserError(
            "continue_final_message: an answer that must be a tool call cannot go on with a text: "
            "leave one of them out"
        )


def _final_text(layout: template.TemplatePieces, texts: Sequence[Text]) -> int:
    """Which stretch of `_fill` is the last message's text; every text is in the layout."""
    last = max(at for at, text in enumerate(texts) if text.where.endswith("].content"))
    return 2 * max(at for at, found in enumerate(layout.found) if found.mark == last) + 1


def _trimmed(text: str) -> str:
    """What is left of it by templates that trim; a megabyte of white space is not worth a look."""
    return text if len(text) > 1 << 20 else text.strip()


def _readings(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """With thinking apart from the answer, as some templates take it apart; and as it is."""
    if any(_THOUGHT in message["content"] for message in messages if _is_answer(message)):
        yield [_apart(message) if _is_answer(message) else message for message in messages]
    yield messages


_THOUGHT = "</think>"


def _is_answer(message: dict[str, Any]) -> bool:
    return message["role"] == "assistant" and "reasoning_content" not in message


def _apart(message: dict[str, Any]) -> dict[str, Any]:
    thought, found, answer = message["content"].rpartition(_THOUGHT)
    if not found:
        return message
    thought = thought.partition(_THOUGHT)[0].rpartition("<think>")[2].strip("\n")
    return {**message, "content": answer.lstrip("\n"), "reasoning_content": thought}


def _nothing_lost(
    layout: template.TemplatePieces,
    texts: Sequence[Text],
    rendered: str,
    tools: list[dict[str, Any]] | None,
) -> None:
    """Everything that must reach the model is in the rendering."""
    there = {found.mark for found in layout.found}
    for index, text in enumerate(texts):
        if text.required and index not in there:
            if text.where.startswith("tools"):
                raise UserError(
                    "tools: this model's chat template has no place for tools: leave them out, "
                    "or serve a model whose template has one"
                )
            raise UserError(
                f"{text.where}: this model's chat template leaves it out: leave it out too, or "
                "serve a model whose template has a place for it"
            )
    if tools and f'{OPEN}\n{{"name": ' not in rendered:
        raise UserError(
            f'tools: this model\'s chat template does not ask for calls as {OPEN}{{"name": …, '
            '"arguments": …}: leave them out, or serve a model whose template does'
        )


def _fill(
    layout: template.TemplatePieces, texts: Sequence[Text], real: str
) -> list[Stretch] | None:
    """The layout with its texts put in; None where that is not what the template renders."""
    runs, at = [Stretch("template", layout.pieces[0])], len(layout.pieces[0])
    if not real.startswith(layout.pieces[0]):
        return None
    for found, following in zip(layout.found, layout.pieces[1:], strict=True):
        text = texts[found.mark]
        for trim in _TRIMS:
            printed = trim(text.text)
            if found.form != "plain":
                printed = json.dumps(printed, ensure_ascii=found.form == "ascii")[1:-1]
            end = at + len(printed)
            if real.startswith(printed, at) and real.startswith(following, end):
                break
        else:
            return None
        runs += [Stretch(text.kind, printed), Stretch("template", following)]
        at = end + len(following)
    return runs if at == len(real) else None


def _merged(runs: list[Stretch]) -> list[Stretch]:
    """Data with the template's text around it as one run, the rest of the template as another."""
    merged: list[Stretch] = []
    for plain, group in groupby(runs, key=lambda run: run.kind in ("template", "data")):
        members = list(group)
        if plain and any(run.kind == "data" for run in members):
            merged.append(Stretch("data", "".join(run.text for run in members)))
        else:
            merged += members
    joined: list[Stretch] = []
    for own, group in groupby(merged, key=lambda run: run.kind in ("template", "special")):
        members = list(group)
        joined += [Stretch("template", "".join(run.text for run in members))] if own else members
    return joined
