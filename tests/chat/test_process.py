"""Templates are rendered apart: alike, and with an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import serve_fakes
from serve_fakes import CHAT, WEATHER, call, result

from longctx.chat.process import TemplateLimitError, TemplateLimits, TemplateProcess
from longctx.chat.renderer import ChatRenderer
from longctx.chat.template import syntax_error
from longctx.errors import UserError

SHORT = TemplateLimits(seconds=1.0, memory=128 << 20)


@contextmanager
def rendering(template: str, limits: TemplateLimits = SHORT) -> Iterator[tuple[Any, Any]]:
    tokenizer = serve_fakes.tokenizer(template)
    with TemplateProcess(tokenizer, limits) as process:
        yield tokenizer, process


@pytest.mark.parametrize("template", [serve_fakes.QWEN25, serve_fakes.THINKING], ids=str.__len__)
def test_it_renders_as_this_process_does(template: str) -> None:
    messages = [*CHAT, call(), result("sunny \U0001f600 \x01"), {"role": "user", "content": "é"}]
    tools = [WEATHER] if template is serve_fakes.QWEN25 else None
    messages = messages if tools else CHAT
    with rendering(template) as (tokenizer, process):
        for kept in (True, False):
            options: dict[str, Any] = {"tools": tools, "add_generation_prompt": kept}
            want = ChatRenderer(tokenizer).encode(messages, **options)
            assert ChatRenderer(tokenizer, process).encode(messages, **options) == want


_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
_DOUBLES = (
    "{% set ns = namespace(t='x' * 999) %}{% for a in range(40) %}{% set ns.t = ns.t ~ ns.t %}"
)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (_LOOP, "does not come to an end within 1 seconds"),
        ("{{ 'x' * 10 ** 9 }}", "takes more memory than its texts need"),
        (_DOUBLES + "{% endfor %}{{ ns.t }}", "takes more memory than its texts need"),
        ("{{ 'x' | center(1000000000) }}", "takes more memory than its texts need"),
        ("{{ 'x' * 20000000 }}", "takes more memory than its texts need"),
    ],
    ids=["loop", "times", "doubles", "filter", "long"],
)
def test_one_without_an_end_costs_one_conversation(template: str, words: str) -> None:
    wrapped = (
        "{% if messages[0].content == 'bad' %}" + template + "{% endif %}{{ messages[0].content }}"
    )
    with rendering(wrapped) as (tokenizer, process):
        renderer = ChatRenderer(tokenizer, process)
        good = [{"role": "user", "content": "good"}]
        want = renderer.encode(good)
        began = time.monotonic()
        with pytest.raises(
            TemplateLimitError, match=f"^messages: this model's .* {words}: shorten"
        ):
            renderer.encode([{"role": "user", "content": "bad"}])
        assert time.monotonic() - began < 10
        assert renderer.encode(good) == want
    assert not [child for child in psutil.Process().children() if "chat.worker" in str(child)]


def test_what_a_template_refuses_is_told_in_its_words() -> None:
    with rendering(serve_fakes.ALTERNATING) as (tokenizer, process):
        twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        with pytest.raises(UserError, match="refuses them: Conversation roles must alternate"):
            ChatRenderer(tokenizer, process).encode(twice)


def test_a_template_that_does_not_parse_is_told_apart() -> None:
    with rendering("{% for m in messages %}\n{{ m.role }}") as (tokenizer, process):
        assert str(syntax_error(tokenizer, process.render)).startswith("line 2: Unexpected end")
    with rendering("{{ raise_exception('no') }}") as (tokenizer, process):
        assert syntax_error(tokenizer, process.render) is None


def test_a_long_conversation_has_longer() -> None:
    text = "word " * 400_000
    limits = TemplateLimits(seconds=5.0, memory=64 << 20, extra=1000)
    with rendering(serve_fakes.QWEN25, limits) as (_, process):
        assert text in process.render([{"role": "user", "content": text}])


def test_it_can_be_ended_in_the_middle_of_its_work() -> None:
    with rendering(_LOOP, TemplateLimits(seconds=60.0)) as (_, process):
        errors: list[Exception] = []

        def ask() -> None:
            try:
                process.render([{"role": "user", "content": "x"}])
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(3.0)
        process.close()
        thread.join(10)
        assert not thread.is_alive() and isinstance(errors[0], TemplateLimitError)
        with pytest.raises(TemplateLimitError, match="shutting down"):
            process.render([{"role": "user", "content": "x"}])
