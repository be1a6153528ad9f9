"""The needle in each language: its words, and how it stands in a text of that language."""

from __future__ import annotations

import functools
import random
import re
import unicodedata
from typing import Any

import needle_fakes
import pytest

from longctx.eval import tasks
from longctx.eval.prompt import Prompt
from longctx.eval.tasks.languages import LANGUAGES
from longctx.eval.texts.haystack import Haystack
from longctx.eval.texts.text import sentence_ends

# Sentences with their closing marks: the last of each ends in a quotation or the like.
TEXTS = {
    "zh": ("雨下了一夜。", "老桥还在吗？", "“谁也不记得了。”"),
    "es": ("Llovió toda la noche.", "¿Dónde está el puente?", "«Nadie lo recuerda.»"),
    "fr": ("Il a plu toute la nuit.", "Où est le vieux pont ?", "« Personne ne sait. »"),
    "de": ("Es regnete die ganze Nacht.", "Wo steht die alte Brücke?", "„Das weiß niemand.“"),
    "ja": ("一晩中雨が降った。", "古い橋はどこですか？", "「だれも覚えていない。」"),
    "ko": ("밤새 비가 내렸다.", "낡은 다리는 어디에 있을까?", '"아무도 기억하지 못한다."'),
    "ar": ("هطل المطر طوال الليل.", "أين الجسر القديم؟", "«لا أحد يتذكر.»"),
    "ru": ("Всю ночь шёл дождь.", "Где старый мост?", "«Никто не помнит.»"),
    "th": ("ฝนตกทั้งคืน", "สะพานเก่าอยู่ที่ไหน", "ไม่มีใครจำได้"),
    "vi": ("Mưa suốt cả đêm.", "Cây cầu cũ ở đâu?", "“Không ai nhớ cả.”"),
    "pt": ("Choveu a noite toda.", "Onde fica a velha ponte?", "“Ninguém se lembra.”"),
}
SPACE = {language: "" if language in ("zh", "ja") else " " for language in TEXTS}
EACH = pytest.mark.parametrize("language", TEXTS)


@functools.lru_cache
def text_of(language: str) -> Haystack:
    draw = random.Random(language)
    sentences = (draw.choice(TEXTS[language]) for _ in range(500))
    return Haystack.from_text(SPACE[language].join(sentences), f"{language} text")


def prompt_of(language: str, tokenizer: Any, repeat: int, depth: float) -> Prompt:
    changes = {"length": 1024, "depth": depth, "repeat": repeat, "language": language}
    return needle_fakes.build("needle", tokenizer, text_of(language), **changes)


def test_every_language_has_a_text_here() -> None:
    assert {*TEXTS} == {*LANGUAGES} == {*tasks.LANGUAGES} - {"en"}


@EACH
def test_words_fit_together(language: str) -> None:
    style = LANGUAGES[language]
    asked = (style.question, style.answer_prefix)
    assert len(style.statements) == 3
    for text in (*style.statements, *asked):
        assert text.count("{key}") == 1
    for text in style.statements:
        assert text.count("{value}") == 1
    assert len({*style.statements, *asked, style.introduction}) == 6
    # A text is composed (NFC) when it is read, so what is sought in it has to be; no marks of
    # direction, and digits come from the value alone.
    for text in (style.introduction, *style.statements, *asked, *style.keys):
        assert unicodedata.is_normalized("NFC", text)
        assert not any(unicodedata.category(letter) in ("Cf", "Nd") for letter in text)
        assert text == text.strip()
    if language != "th":  # Thai marks neither sentences nor questions
        assert all(
            text[-1] == ("。" if SPACE[language] == "" else ".") for text in style.statements
        )
        assert style.question[-1] == {"zh": "？", "ja": "？", "ar": "؟"}.get(language, "?")


@EACH
def test_names_are_sixteen_and_apart(language: str) -> None:
    keys = LANGUAGES[language].keys
    assert len({*keys}) == 16
    assert not [(a, b) for a in keys for b in keys if a != b and a in b]


def test_russian_names_have_one_case() -> None:
    """They follow `для города`, the genitive, and stand in the text as they are."""
    assert all(re.search("[еиоу]$", key) for key in LANGUAGES["ru"].keys)


def test_korean_endings_are_written_with_the_number() -> None:
    for text in LANGUAGES["ko"].statements:
        assert re.search(r"\{value\}(입니다|임을)", text)  # after a vowel and a consonant alike


@EACH
@pytest.mark.parametrize("depth", [0.0, 50.0, 100.0])
def test_a_needle_is_a_sentence_among_others(chatml: Any, language: str, depth: float) -> None:
    """Between whole sentences, with the spaces of its language, whatever marks its neighbours."""
    neighbours = set()
    for repeat in range(8):
        prompt = prompt_of(language, chatml, repeat, depth)
        (statement,) = (one.text for one in prompt.sample.statements)
        user = prompt.conversation.user
        before, after = user.split(statement)
        *_, before = before.rsplit("\n", 1)
        after = after.split("\n", 1)[0]
        space = SPACE[language]
        ends = tuple(one + space for one in TEXTS[language])
        begins = tuple(space + one for one in TEXTS[language])
        assert not before or before.endswith(ends)
        assert not after or after.startswith(begins)
        neighbours.add(before[-3:])
        # The question is about the name in the needle.
        (key,) = (key for key in LANGUAGES[language].keys if key in prompt.sample.question)
        assert key in statement
        assert key in prompt.sample.answer_prefix
        assert "{" not in user + prompt.sample.answer_prefix
    assert len(neighbours) > 1 or depth == 0


@EACH
def test_sentences_are_known(language: str) -> None:
    text = SPACE[language].join(TEXTS[language])
    ends = [*sentence_ends(text), *([len(text)] if language == "th" else [])]
    starts = [0, *ends]
    found = [text[a:b].strip() for a, b in zip(starts, ends, strict=False)]
    assert found == [*TEXTS[language]]
