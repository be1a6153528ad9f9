"""Prompts that exist stay what they are: runs go on, and stored recipes rebuild what was asked.

A change that fails here makes finished cells of users' runs another experiment. What is meant to
change needs a new task or a new wording, which has another key.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import needle_fakes
import pytest

from longctx import tiny
from longctx.chat.encoder import ChatEncoder
from longctx.eval import tasks
from longctx.eval.prompt import PromptBuilder
from longctx.eval.spec import PromptSpec
from longctx.eval.texts import prose
from longctx.eval.texts.haystack import Haystack
from longctx.models import source

QUESTIONS = [
    {"question": f"Which colour has door {n}?", "answers": [f"blue{n}"],
     "documents": [f"Door {n} of the house is blue{n}. It was painted long ago."]}
    for n in range(300)
]  # fmt: skip
# sha256 of the first ids of each task, by the embedded model's tokenizer.
FROZEN = {
    "needle": "c8ef6c8bece4a7f0",
    "niah_single_1": "e49c338e4dc46f74",
    "niah_single_2": "99995ae8e4144725",
    "niah_single_3": "458f1e4414f2b7dd",
    "niah_multikey_1": "b124ec3551f38927",
    "niah_multikey_2": "b39e8333200d1adb",
    "niah_multikey_3": "3679004b993c804b",
    "niah_multivalue": "1a40ad8c8b28a644",
    "niah_multiquery": "ad157040ea5ed396",
    "vt": "4496910d6cb29560",
    "cwe": "e96b91ad92208cd0",
    "fwe": "2e8bbac91be895c6",
    "qa_1": "6df9564881046a5a",
    "qa_2": "641902a2648ea0c5",
    "distractors": "be13e3216e1c0edb",
    "latent": "522bd160764be497",
    "uuid_chain": "e41f8f58d0c3b5d3",
    "ordered_recall": "f6564acf34bf57c9",
}
NEEDLES = {
    (256, 0.0, False): "f62bc2f8d0e0cc58",
    (1024, 30.0, False): "0cd6adf1d85e0421",
    (2048, 100.0, False): "b9799fd3a2f7fbba",
    (2048, 50.0, True): "ea65c6130ad282cf",
}
# sha256 of the needle's wording, and of the rules for texts in that language: part of every key.
WORDINGS = {
    "en": "22f569e6f0599f61",
    "zh": "a6b1c6b4a5fec6db",
    "es": "0425386321ac1c76",
    "fr": "e5f29e9871c42442",
    "de": "e8b8ae45c0032a01",
    "ja": "224c2c3a7c3def66",
    "ko": "9bb9646f3a07960e",
    "ar": "9094c907c101bcb7",
    "ru": "fd8c444071343b1a",
    "th": "6e568b6a53f637ae",
    "vi": "46c1745c3946fed9",
    "pt": "7cbca530ea2dfd74",
}
CHINESE = {"needle": "2bd6ac1c28fdd0b7", "latent": "b8b617592024fd26"}


@pytest.fixture(scope="module")
def chat() -> ChatEncoder:
    return ChatEncoder(source.load_tokenizer(source.locate(tiny.EMBEDDED, weights=False)))


@pytest.fixture(scope="module")
def prose_builder(chat: ChatEncoder) -> PromptBuilder:
    return PromptBuilder(prose.haystack(2048), chat, allow_repeat=False)


def recipe(task: str, haystack: Haystack, **changes: Any) -> PromptSpec:
    usual = {
        "length": 4096 if task == "cwe" else 2048,
        "depth": 30.0 if tasks.get(task).about.has_depth else None,
        "repeat": 1,
        "haystack_sha256": haystack.sha256,
    }
    return needle_fakes.recipe(task, **{**usual, **changes})


@pytest.mark.parametrize(("length", "depth", "exact"), NEEDLES)
def test_the_needle_is_frozen(
    prose_builder: PromptBuilder, length: int, depth: float, exact: bool
) -> None:
    one = recipe("needle", prose_builder.haystack, length=length, depth=depth, exact=exact)
    assert prose_builder.build(one).sha256[:16] == NEEDLES[length, depth, exact]


def test_recipes_of_the_needle_are_frozen() -> None:
    """Keys hash them: one more field would make every finished cell of the default task missing."""
    one = recipe("needle", Haystack.from_text("text"))
    text = json.dumps(one.to_dict(), sort_keys=True)
    assert sorted(one.to_dict()) == [
        *("allow_repeat", "answer_prefix", "answer_tokens", "depth", "exact", "haystack_sha256"),
        *("language", "length", "repeat", "seed", "system", "task", "template_sha256"),
        *("tokenizer_sha256", "wording_sha256"),
    ]
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ed31cb7676ec5d00"


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_is_frozen(task: str, prose_builder: PromptBuilder, chat: ChatEncoder) -> None:
    builder = prose_builder
    if tasks.get(task).about.questions:
        doors = Haystack.from_text(json.dumps(QUESTIONS), "doors.json")
        builder = PromptBuilder(doors, chat, allow_repeat=False)
    found = builder.build(recipe(task, builder.haystack)).sha256[:16]
    assert found == FROZEN.get(task, "not in FROZEN yet")


def test_wordings_are_frozen() -> None:
    found = {one: tasks.wording_sha256("needle", one, {})[:16] for one in tasks.LANGUAGES}
    assert found == WORDINGS


@pytest.mark.parametrize("task", CHINESE)
def test_chinese_is_frozen(task: str, chat: ChatEncoder) -> None:
    builder = PromptBuilder(prose.haystack(2048, language="zh"), chat, allow_repeat=False)
    one = recipe(task, builder.haystack, language="zh")
    prompt = builder.build(one)
    assert " " not in prompt.conversation.user
    assert prompt.sha256[:16] == CHINESE[task]
