"""Prompts: exact lengths, depths, the needle once, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import needle_fakes
import pytest

from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval.needle.grid import Cell
from longctx.eval.prompt import DEPTH_TOLERANCE_TOKENS, Prompt, PromptBuilder
from longctx.eval.spec import PromptSpec
from longctx.eval.texts.haystack import Haystack
from longctx.eval.texts.text import boundary_of, sentence_ends

ANSWER = 32


def recipe(**changes: Any) -> PromptSpec:
    base = PromptSpec(
        length=2048,
        depth=50.0,
        seed=0,
        repeat=0,
        answer_tokens=ANSWER,
        answer_prefix="The number for {key} is",
        system=None,
        exact=False,
        allow_repeat=False,
        haystack_sha256="h",
        tokenizer_sha256="t",
        template_sha256="c",
    )
    return replace(base, **changes)


def builder(tokenizer: Any, haystack: Haystack, **options: Any) -> PromptBuilder:
    return PromptBuilder(haystack, ChatEncoder(tokenizer), **{"allow_repeat": False, **options})


def body_of(prompt: Prompt) -> str:
    return prompt.conversation.user.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]


@pytest.mark.parametrize("length", [300, 1024, 4096, 16384])
@pytest.mark.parametrize("depth", [0.0, 33.0, 100.0])
def test_length_is_kept_with_at_most_a_sentence_to_spare(
    tokenizer: Any, book: Haystack, length: int, depth: float
) -> None:
    prompt = builder(tokenizer, book).build(recipe(length=length, depth=depth))
    assert len(prompt.ids) + ANSWER + prompt.slack == length
    assert prompt.slack >= 0
    # One more sentence of the haystack would not have fitted.
    body = body_of(prompt).replace(prompt.sample.statements[0].text, "").strip()
    tail = body[-60:].strip()
    end = book.text.index(tail, prompt.haystack_offset + len(body) - 200) + len(tail)
    following = book.text[end:][: sentence_ends(book.text[end:])[0]]
    assert prompt.slack <= len(ChatEncoder(tokenizer).offsets(following)) + 2


@pytest.mark.parametrize("length", [300, 1024, 4096])
@pytest.mark.parametrize("depth", [0.0, 50.0, 100.0])
def test_exact_leaves_nothing_over(
    tokenizer: Any, book: Haystack, length: int, depth: float
) -> None:
    prompt = builder(tokenizer, book).build(recipe(length=length, depth=depth, exact=True))
    assert len(prompt.ids) + ANSWER == length
    assert prompt.slack == 0


def test_exact_where_characters_take_several_tokens(chatml: Any) -> None:
    mixed = Haystack.from_text(needle_fakes.CHINESE.replace("，", ", "), "陋室铭")
    for length in range(700, 712):
        prompt = builder(chatml, mixed).build(recipe(length=length, exact=True))
        assert len(prompt.ids) + ANSWER == length
        assert "\ufffd" not in chatml.decode(prompt.ids)
    # Three bytes a character and a token a byte: two counts of three do not exist.
    threes = Haystack.from_text(needle_fakes.CHINESE, "陋室铭")
    with pytest.raises(UserError, match="--exact: no cut of 陋室铭 gives exactly 701 tokens"):
        builder(chatml, threes).build(recipe(length=701, exact=True))


@pytest.mark.parametrize(("length", "bound"), [(4096, 1.5), (32768, 0.2)])
def test_depth_is_kept(tokenizer: Any, length: int, bound: float) -> None:
    haystack = Haystack.from_text(needle_fakes.english(400_000), "book")
    make = builder(tokenizer, haystack)
    for depth in (0.0, 12.5, 50.0, 77.0, 100.0):
        prompt = make.build(recipe(length=length, depth=depth))
        assert abs(prompt.depth_actual - depth) <= bound


def test_depth_is_kept_among_endless_sentences(chatml: Any) -> None:
    endless = needle_fakes.english().replace(".", ",").replace("?", ",").replace("\n\n", " ")
    endless = endless.replace("!", ",").replace("…", ",")
    prompt = builder(chatml, Haystack.from_text(endless)).build(recipe(length=4096, exact=True))
    assert abs(prompt.depth_actual - 50) <= 1.5
    before = prompt.conversation.user.split(prompt.sample.statements[0].text)[0].rstrip()
    assert before[-1] in ',;"'


def test_the_needle_stands_between_sentences(chatml: Any, book: Haystack) -> None:
    for depth in (10.0, 40.0, 90.0):
        prompt = builder(chatml, book).build(recipe(depth=depth))
        before, after = prompt.conversation.user.split(prompt.sample.statements[0].text)
        assert before.rstrip()[-1] in '.?!"'
        assert before[-1].isspace()
        assert after[0].isspace()
        # Without the needle the text is the book, letter for letter.
        body = body_of(prompt)
        around = body.split(prompt.sample.statements[0].text)
        assert (around[0].rstrip() + around[1]) in book.text or "\n\n" in around[1][:2]


def test_the_value_stands_once_and_the_span_points_at_it(tokenizer: Any, book: Haystack) -> None:
    prompt = builder(tokenizer, book).build(recipe())
    value = prompt.sample.expected[0]
    assert len(value) == 7
    assert value not in book.text
    whole = prompt.conversation.user + prompt.conversation.answer_prefix
    assert whole.count(value) == 1
    first, last = prompt.needle_span
    assert tokenizer.decode(prompt.ids[first:last]).strip() == prompt.sample.statements[0].text
    # Its first token may begin with what stands before the question, and holds its first letter.
    asked, after = (tokenizer.decode(prompt.ids[prompt.question_start + n :]) for n in (0, 1))
    assert prompt.sample.question in asked
    assert prompt.sample.question not in after
    assert prompt.distance_to_question == prompt.question_start - last > 0
    key = prompt.sample.question.split(" for ")[1].split()[0]
    assert key in prompt.conversation.answer_prefix


def test_chinese_text_stays_whole(chatml: Any) -> None:
    haystack = Haystack.from_text(needle_fakes.CHINESE, "陋室铭")
    prompt = builder(chatml, haystack).build(recipe(length=1500))
    text = chatml.decode(prompt.ids)
    assert "\ufffd" not in text
    before, _after = prompt.conversation.user.split(prompt.sample.statements[0].text)
    assert before.rstrip()[-1] in "。！"
    assert abs(prompt.depth_actual - 50) <= 100 * DEPTH_TOLERANCE_TOKENS / 1400


def test_a_prompt_is_a_function_of_its_recipe(tokenizer: Any, book: Haystack) -> None:
    first = builder(tokenizer, book).build(recipe())
    other = builder(tokenizer, book)
    other.build(recipe(length=512))  # what was built before must not matter
    again = other.build(recipe())
    assert first == again
    assert first.sha256 == again.sha256


def test_repeats_and_seeds_vary_needle_and_place(chatml: Any, book: Haystack) -> None:
    make = builder(chatml, book)
    built = [make.build(recipe(repeat=n)) for n in range(6)]
    built += [make.build(recipe(seed=n)) for n in range(1, 4)]
    assert len({prompt.sample.expected[0] for prompt in built}) == len(built)
    assert len({prompt.haystack_offset for prompt in built}) == len(built)
    assert len({prompt.sample.statements[0].text[:8] for prompt in built}) > 1


def test_a_column_shares_needle_and_text(chatml: Any, book: Haystack) -> None:
    make = builder(chatml, book)
    shallow, deep = make.build(recipe(depth=10.0)), make.build(recipe(depth=90.0))
    assert shallow.sample.expected == deep.sample.expected
    assert shallow.haystack_offset == deep.haystack_offset
    shared = shallow.needle_span[0] - 1
    assert shallow.ids[:shared] == deep.ids[:shared]


def test_closed_book_has_no_needle(tokenizer: Any, book: Haystack) -> None:
    control = builder(tokenizer, book).build_closed_book(recipe(length=1024))
    text = tokenizer.decode(control.ids)
    assert control.expected[0] not in text
    assert 1024 - ANSWER - 80 <= len(control.ids) <= 1024 - ANSWER


def test_too_little_text_says_how_much(chatml: Any) -> None:
    short = Haystack.from_text("A short text. It ends here. " * 20, "short.txt")
    with pytest.raises(UserError, match=r"short\.txt.*2048 tokens needs \d+.*has \d+.*--allow-rep"):
        builder(chatml, short).build(recipe())
    prompt = builder(chatml, short, allow_repeat=True).build(recipe(allow_repeat=True))
    assert 0 <= prompt.slack <= 20


def test_a_length_without_room(chatml: Any, book: Haystack) -> None:
    with pytest.raises(UserError, match=r"--lengths 64.*larger"):
        builder(chatml, book).build(recipe(length=64))


def test_too_little_room_for_one_character(chatml: Any) -> None:
    wide = Haystack.from_text("𠮷" * 5000)  # four tokens each
    said = set()
    for length in range(170, 200):
        try:
            builder(chatml, wide).build(recipe(length=length, boundary="character"))
        except UserError as error:
            said.add(str(error).partition(": ")[2])
    assert "not one character of text fits: give a larger length" in said


def test_keys_change_with_what_they_stand_for(
    chatml: Any, book: Haystack, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = needle_fakes.make_sweep(chatml, book, ("none", "dca"))
    cell = Cell("none", 512, 50.0, 0)
    keys = {
        sweep.key(cell),
        sweep.key(Cell("dca", 512, 50.0, 0)),
        sweep.key(Cell("none", 1024, 50.0, 0)),
        sweep.key(Cell("none", 512, 0.0, 0)),
        sweep.key(Cell("none", 512, 50.0, 1)),
        replace(sweep, identity=replace(sweep.identity, model="other")).key(cell),
        replace(sweep, identity=replace(sweep.identity, dtype="bfloat16")).key(cell),
        replace(sweep, schemes={"none": {**needle_fakes.scheme(), "factor": 2.0}}).key(cell),
        needle_fakes.make_sweep(chatml, book, seed=1).key(cell),
        needle_fakes.make_sweep(chatml, book, system="x").key(cell),
        needle_fakes.make_sweep(chatml, book, exact=True).key(cell),
        needle_fakes.make_sweep(chatml, book, answer_prefix="").key(cell),
        needle_fakes.make_sweep(chatml, Haystack.from_text(book.text + "!")).key(cell),
    }
    assert len(keys) == 13
    assert needle_fakes.make_sweep(chatml, book, repeats=9, limit=1).key(cell) == sweep.key(cell)


# -- texts without sentences ----------------------------------------------------------------------

WORDS = [
    *("window", "garden", "whisper", "captain", "letter", "bridge"),
    *("orchard", "stone", "silver", "river", "thunder"),
]
PLAIN = {
    "list": ("line", "".join(f"- {a} {b} {c}\n" for a in WORDS for b in WORDS for c in WORDS)),
    "log": ("line", "".join(f"2026-01-02 10:{n % 60:02} INFO job={n} ok\n" for n in range(900))),
    "csv": ("line", "".join(f"{n},{WORDS[n % 11]},{n * 7919 % 1000}\n" for n in range(1800))),
    "transcript": ("line", "".join(f"A: well {WORDS[n % 11]} you know\n" for n in range(1800))),
    "code": ("line", "".join(f"x{n} = f(x{n - 1})\n" for n in range(1, 1400))),
    "one line": ("word", " ".join(f"{WORDS[n % 11]} {n}" for n in range(4000))),
    "numbers": ("word", " ".join(str(n * 7919 % 10007) for n in range(4000))),
    "no gaps": ("character", "".join(f"{WORDS[n % 11]}{n}" for n in range(4000))),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("length", [300, 1500])
def test_a_text_without_sentences_is_a_haystack(chatml: Any, name: str, length: int) -> None:
    boundary, text = PLAIN[name]
    assert boundary_of(text) == boundary
    haystack = Haystack.from_text(text, name)
    built = builder(chatml, haystack)
    for depth in (0.0, 30.0, 100.0):
        one = recipe(length=length, depth=depth, boundary=boundary)
        prompt = built.build(one)
        assert prompt.ids == built.build(replace(one)).ids
        assert len(prompt.ids) + ANSWER + prompt.slack == length
        assert 0 <= prompt.slack <= 40
        assert prompt.depth_actual is not None and abs(prompt.depth_actual - depth) < 12
        before, _, behind = body_of(prompt).partition(prompt.sample.statements[0].text)
        assert before.strip() in text and behind.strip() in text
        if boundary == "line":
            assert not before or f"{before.rstrip(' ')}\n" in text
            assert not behind or behind.startswith("\n") or not before
        elif boundary == "word":
            assert all(part in text.split() for part in (before + behind).split())


def test_a_sentence_longer_than_the_prompt_is_cut_at_a_word(chatml: Any) -> None:
    text = "A short one. " * 300 + PLAIN["one line"][1][:3000] + ". Another. " * 300
    assert boundary_of(text) == "sentence"
    long = Haystack.from_text("word " * 400 + "end. " + "Then it ended. " * 2000)
    assert boundary_of(long.text) == "sentence"
    built = builder(chatml, long)
    for repeat in range(12):
        prompt = built.build(recipe(length=300, repeat=repeat))
        assert prompt.slack <= 20


def test_prose_is_in_sentences_and_recipes_do_not_say_so(book: Haystack) -> None:
    assert boundary_of(book.text) == boundary_of(needle_fakes.CHINESE) == "sentence"
    assert "boundary" not in recipe().to_dict()
    assert recipe(boundary="line").to_dict()["boundary"] == "line"
