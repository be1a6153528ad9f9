"""Exact lengths under three kinds of tokenizers, in six languages and the needle's own words.

chatml         byte-level BPE: any text, a rare character is several tokens
metaspace      Unigram: what it has not seen is one unknown token
byte_fallback  BPE over characters: what it has not seen falls back to tokens of single bytes
"""

from __future__ import annotations

import functools
import json
import random
import string
from itertools import pairwise
from typing import Any

import needle_fakes
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from longctx.chat.encoder import ChatEncoder
from longctx.chat.template import CHATML
from longctx.eval import tasks
from longctx.eval.prompt import Prompt, PromptBuilder
from longctx.eval.texts.haystack import Haystack
from longctx.eval.texts.text import sentence_ends

ANSWER = 32
TOKENIZERS = ("chatml", "unigram", "byte_fallback")
# Words, what joins them, and what ends a sentence and begins the next.
SPEECH = {
    "en": ("the ferry waits while rain falls on every empty quay tonight", " ", (". ", "! ", "? ")),
    "zh": ("山路 很长 我们 慢慢 走到 河边 看见 一条 旧船 停在 岸上", "", ("。", "！", "？")),
    "ja": ("港 には 古い 船 が あり 誰も いない 朝 に 静かに 揺れて いた", "", ("。", "！")),
    "ru": ("река шумит под старым мостом и никто не помнит её имени", " ", (". ", "? ")),
    "ar": ("كانت السفينة تنتظر عند الميناء القديم بينما نزل المطر طوال الليل", " ", (". ", "؟ ")),
    "th": ("แม่น้ำ ไหล ผ่าน หมู่บ้าน เก่า ไม่มี ใคร จำ ชื่อ ได้ ฝน ตก ทั้งคืน", "", (" ",)),
}


def speech(language: str, characters: int) -> Haystack:
    rng = random.Random(f"speech {language}")
    words, seam, ends = SPEECH[language]
    known, made, size = words.split(), list[str](), 0
    while size < characters:
        sentence = seam.join(rng.choices(known, k=rng.randint(6, 12))) + rng.choice(ends)
        made.append(sentence)
        size += len(sentence)
    return Haystack.from_text("".join(made).strip(), language)


@pytest.fixture(scope="module")
def unigram() -> Any:
    corpus = [speech(language, 8_000).text for language in SPEECH]
    wordings = [tasks.get("needle").wording(language, {}) for language in SPEECH]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=1500,
        special_tokens=["<s>", "<unk>", "<|head|>", "<|/head|>", "<|end|>"],
        unk_token="<unk>",
        initial_alphabet=sorted({*string.printable, *"".join(corpus + wordings)} - {" "}),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return needle_fakes._wrap(
        tokenizer, bos_token="<s>", eos_token="<|end|>", chat_template=needle_fakes.LLAMA_LIKE
    )


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, max_token_length=8, show_progress=False
    )
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(needle_fakes.english(40_000).splitlines(), trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    # Ordinary tokens, as in SentencePiece's models: special ones would be refused in a text.
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [(left, right) for left, right in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=False)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(special)
    return needle_fakes._wrap(
        tokenizer, eos_token="<|im_end|>", unk_token="<unk>", chat_template=CHATML
    )


def test_the_tokenizers_differ(chatml: Any, unigram: Any, byte_fallback: Any) -> None:
    text = speech("ru", 400).text
    pieces = [tokenizer.tokenize(text) for tokenizer in (chatml, unigram, byte_fallback)]
    assert len({len(piece) for piece in pieces}) == 3
    assert "<0xD1>" in pieces[2] and "<0xD1>" not in pieces[1]
    for tokenizer in (chatml, unigram, byte_fallback):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).strip() == text


def build(builder: PromptBuilder, language: str, **changes: Any) -> Prompt:
    usual = {
        "answer_tokens": ANSWER,
        "haystack_sha256": builder.haystack.sha256,
        "language": language,
    }
    return builder.build(needle_fakes.recipe("needle", **{**usual, **changes}))


@pytest.fixture(scope="module")
def builder_of(chatml: Any, unigram: Any, byte_fallback: Any) -> Any:
    tokenizers = dict(zip(TOKENIZERS, (chatml, unigram, byte_fallback), strict=True))

    @functools.cache
    def of(name: str, language: str) -> tuple[Any, PromptBuilder]:
        chat = ChatEncoder(tokenizers[name])
        haystack = speech(language, 26_000)
        return tokenizers[name], PromptBuilder(haystack, chat, allow_repeat=False)

    return of


@pytest.mark.parametrize("language", SPEECH)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_lengths_are_exact(name: str, language: str, builder_of: Any) -> None:
    tokenizer, builder = builder_of(name, language)
    haystack = builder.haystack
    prompt = build(builder, language)
    user = prompt.conversation.user
    assert len(prompt.ids) + ANSWER + prompt.slack == 4096
    # The same text through the tokenizer's own template has as many tokens, its prefix included.
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], add_generation_prompt=True, tokenize=False
    )
    counted = len(tokenizer(whole, add_special_tokens=False)["input_ids"])
    counted += len(ChatEncoder(tokenizer).offsets(prompt.conversation.answer_prefix))
    # Whole-string and piecewise encoding may differ at the two seams around the contents.
    assert abs(counted - len(prompt.ids)) <= 2
    # At most a sentence is left over, and depth is what was asked for.
    ends = sentence_ends(haystack.text)
    longest = max(
        len(ChatEncoder(tokenizer).offsets(haystack.text[a:b]))
        for a, b in pairwise([0, *ends[:80]])
    )
    assert 0 <= prompt.slack <= longest + 2
    assert prompt.depth_actual is not None
    assert abs(prompt.depth_actual - 50) <= 1.5


@pytest.mark.parametrize("language", SPEECH)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_needles_stand_between_sentences(name: str, language: str, builder_of: Any) -> None:
    tokenizer, builder = builder_of(name, language)
    haystack = builder.haystack
    for depth in (0.0, 30.0, 100.0):
        prompt = build(builder, language, depth=depth, length=2048)
        (statement,) = prompt.sample.statements
        before, after = prompt.conversation.user.split(statement.text)
        head = prompt.sample.introduction + prompt.sample.before
        body = before[len(head) :].rstrip() + after[: after.rindex(prompt.sample.question)]
        start = haystack.text.index(body.strip()[:40])
        place = start + len(before[len(head) :].rstrip())
        assert place == start or place in sentence_ends(haystack.text)
        first, last = prompt.needle_span or (0, 0)
        assert statement.text in tokenizer.decode(prompt.ids[first:last])
        assert "\ufffd" not in tokenizer.decode(prompt.ids)


@pytest.mark.parametrize("language", ["en", "ru", "ar"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_exact_leaves_nothing_over(name: str, language: str, builder_of: Any) -> None:
    _, builder = builder_of(name, language)
    for length in (900, 901, 902, 2048):
        prompt = build(builder, language, length=length, exact=True)
        assert len(prompt.ids) + ANSWER == length
        assert prompt.slack == 0
