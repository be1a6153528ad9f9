"""Every task: RULER's published counts, and the rules that all prompts keep."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import needle_fakes
import pytest
from needle_fakes import NEEDLE, NUMBER, UUID, build, recipe

from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval import tasks
from longctx.eval.prompt import PromptBuilder
from longctx.eval.scoring import judge
from longctx.eval.spec import PromptSpec
from longctx.eval.tasks import base, latent, styles
from longctx.eval.texts.haystack import Haystack

VARIED = ("seed", "repeat")


# -- all tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", tasks.TASKS)
def test_prompts_of_every_task(
    task: str, tokenizer: Any, book: Haystack, questions: Haystack
) -> None:
    about = tasks.get(task).about
    haystack = questions if about.questions else book
    builder = PromptBuilder(haystack, ChatEncoder(tokenizer), allow_repeat=False)
    length = 8192 if task == "cwe" else 4096  # one of the tokenizers spells its list out
    prompt = builder.build(recipe(task, length=length))
    assert len(prompt.ids) + about.answer_tokens + prompt.slack == length
    assert 0 <= prompt.slack <= 120
    assert (prompt.depth_actual is None) == (not about.has_depth)
    if prompt.depth_actual is not None:
        assert abs(prompt.depth_actual - 50) <= 1.5
    again = PromptBuilder(haystack, ChatEncoder(tokenizer), allow_repeat=False)
    again = again.build(recipe(task, length=length))
    assert again.sha256 == prompt.sha256
    others = [
        builder.build(recipe(task, length=length, **{what: 1})) for what in ("seed", "repeat")
    ]
    assert len({prompt.sha256, *(other.sha256 for other in others)}) == 3
    # The answer prefix is not scored, and the text without evidence has no answer.
    sample = prompt.sample
    assert judge(prompt.conversation.answer_prefix, sample.expected, "stop").score == 0
    right = " ".join(sample.expected)
    assert judge(right, sample.expected, "stop", sample.match).status == "ok"
    if prompt.evidence_spans:
        shown = " ".join(tokenizer.decode(prompt.ids[a:b]) for a, b in prompt.evidence_spans)
        assert any(value in shown for value in sample.expected)
    closed = builder.build_closed_book(recipe(task, length=length))
    assert closed.expected == sample.expected
    for value in sample.expected:
        assert value not in closed.conversation.user


@pytest.mark.parametrize("task", [name for name in tasks.TASKS if not name.startswith("qa")])
def test_recipes_survive_json(task: str) -> None:
    one = recipe(task)
    again = PromptSpec(**json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert ("options" in one.to_dict()) == bool(one.options)


def test_unknown_tasks_are_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="--tasks niah_singel_1: not known: did you mean niah_sin"):
        tasks.parse_tasks("vt,niah_singel_1")
    with pytest.raises(UserError, match="--tasks: empty"):
        tasks.parse_tasks(" , ")
    assert tasks.parse_tasks("vt, cwe,vt") == ("vt", "cwe")
    with pytest.raises(UserError, match="--language zh: vt is in en"):
        tasks.check_language("vt", "zh")


def test_values_that_stand_in_the_text_are_not_drawn() -> None:
    draws = iter(["kettle", "1234567", "lantern"])
    text = Haystack.from_text("A kettle, 1234567 times.", "kettles")
    taken: set[str] = set()
    assert base.fresh(lambda: next(draws), text, taken) == "lantern"
    assert taken == {"lantern"}
    with pytest.raises(UserError, match="--haystack kettles: it holds every value"):
        base.fresh(lambda: "kettle", text, taken)
    # Names may stand in a book, but not twice in a prompt.
    assert base.fresh(lambda: "kettle", text, taken, strict=False) == "kettle"
    with pytest.raises(UserError, match="--haystack kettles: it holds every value"):
        base.fresh(lambda: "kettle", text, taken, strict=False)


# -- RULER --------------------------------------------------------------------------------------


def test_text_that_suffices_is_enough_wherever_a_repeat_begins(chatml: Any, book: Haystack) -> None:
    mixed = Haystack.from_text("他在河边等着她回来。" * 1200 + "\n\n" + book.text[:8_000])
    builder = PromptBuilder(mixed, ChatEncoder(chatml), allow_repeat=False)
    for repeat in range(8):
        prompt = builder.build(recipe("needle", repeat=repeat))
        assert prompt.slack < 100
        assert abs((prompt.depth_actual or 0) - 50) <= 1.5


def test_the_control_needs_no_more_text_than_the_prompts(chatml: Any) -> None:
    """Without its evidence a prompt has room for more: that is no error behind a finished run."""
    text = needle_fakes.english(4_000)
    encoder = ChatEncoder(chatml)
    for end in range(1_000, 4_000, 40):
        builder = PromptBuilder(Haystack.from_text(text[:end]), encoder, allow_repeat=False)
        one = recipe("uuid_chain", length=2048)
        try:
            prompt = builder.build(one)
        except UserError:
            continue
        control = builder.build_closed_book(one)
        assert len(control.ids) < len(prompt.ids)
        break
    else:
        raise AssertionError("no text was long enough")


def test_of_several_references_a_letter_is_no_cut() -> None:
    words = ["table", "lantern", "brick"]
    assert judge("the chair and b", words, "length").status == "miss"
    assert judge("the chair and bri", words, "length").status == "truncated_output"
    assert judge("a brick and bri", words, "length").status == "partial"


def test_closed_books_of_counting_have_no_text(chatml: Any, book: Haystack) -> None:
    builder = PromptBuilder(book, ChatEncoder(chatml), allow_repeat=False)
    for task in ("cwe", "fwe"):
        closed = builder.build_closed_book(recipe(task))
        assert len(closed.ids) < 2000 and closed.expected


def test_short_lengths_and_exact_are_told(chatml: Any, book: Haystack) -> None:
    with pytest.raises(UserError, match=r"--lengths 400: the shortest prompt of fwe takes \d+"):
        build("fwe", chatml, book, length=400)
    with pytest.raises(UserError, match="--exact: vt is made of whole words"):
        build("vt", chatml, book, exact=True)


# -- harder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 60])
def test_distractors_are_as_many_as_asked(chatml: Any, book: Haystack, count: int) -> None:
    prompt = build("distractors", chatml, book, options={"distractors": count})
    found = re.findall(r"The access code of the (\S+) room is (\d{7})\.", prompt.conversation.user)
    assert len(found) == len(set(found)) == count + 1
    (value,) = prompt.sample.expected
    assert [key in prompt.sample.question for key, held in found if held == value] == [True]
    with pytest.raises(UserError, match="--distractors -1: must be a number from 0"):
        build("distractors", chatml, book, options={"distractors": -1})


@pytest.mark.parametrize("hops", [1, 4, 7])
def test_a_chain_ends_after_its_hops(chatml: Any, book: Haystack, hops: int) -> None:
    prompt = build("uuid_chain", chatml, book, options={"hops": hops}, length=8192)
    text = prompt.conversation.user
    follow = dict(re.findall(r"Note (\S+) says: go on to note (\S+)\.", text))
    last = dict(re.findall(r"Note (\S+) says: the number is (\d+)\.", text))
    assert len(last) == 4
    assert len(follow) == 4 * hops
    at = UUID.findall(prompt.sample.question)[0]
    for _ in range(hops):
        at = follow[at]
    assert (last[at],) == prompt.sample.expected
    with pytest.raises(UserError, match="--hops 0: must be a number from 1"):
        build("uuid_chain", chatml, book, options={"hops": 0})


@pytest.mark.parametrize("depth", [0.0, 40.0, 100.0])
@pytest.mark.parametrize("repeat", range(4))
def test_the_nth_poem_is_the_nth(chatml: Any, book: Haystack, depth: float, repeat: int) -> None:
    prompt = build("ordered_recall", chatml, book, depth=depth, repeat=repeat)
    found = re.findall(
        r"Here is a poem about ([^:]+): .*? It is signed (\S+)\.", prompt.conversation.user
    )
    ordinal, topic = re.findall(r"the (\w+) poem about (.+) in the", prompt.sample.question)[0]
    signed = [signature for about, signature in found if about == topic]
    assert len(signed) == 4
    assert len(found) == 8
    place = ("first", "second", "third", "fourth").index(ordinal)
    assert (signed[place],) == prompt.sample.expected
    assert abs((prompt.depth_actual or 0) - depth) <= 1.5


STOP = frozenset(re.findall(r"\w+", """
who which what whose that this with from have has had was were
    the and not for one person people does did can all out"""))  # fmt: skip


def words_of(text: str) -> set[str]:
    found = re.findall(r"[a-z]+", text.lower().replace("{name}", ""))
    return {word[:5] for word in found if len(word) > 2 and word not in STOP}


def test_latent_pairs_share_no_content_word() -> None:
    assert len(latent.PAIRS["en"]) >= 20
    assert len(latent.PAIRS["zh"]) >= 8
    for told, asked in latent.PAIRS["en"]:
        assert not words_of(told) & words_of(asked), told
    common = set("的了谁哪个人一在，。？")
    for told, asked in latent.PAIRS["zh"]:
        shared = (set(told) & set(asked)) - common
        assert not shared, (told, shared)
    for pairs in latent.PAIRS.values():
        assert len({asked for _, asked in pairs}) == len(pairs)
        assert all(told.count("{name}") == 1 for told, _ in pairs)


# -- languages and styles -----------------------------------------------------------------------


@pytest.mark.parametrize("language", tasks.LANGUAGES)
def test_the_needle_in_every_language(chatml: Any, book: Haystack, language: str) -> None:
    prompt = build("needle", chatml, book, language=language, length=2048)
    (value,) = prompt.sample.expected
    assert NUMBER.fullmatch(value)
    assert value in chatml.decode(prompt.ids[slice(*prompt.needle_span or (0, 0))])
    assert judge(f" {value}。", [value], "stop").status == "ok"
    assert "\ufffd" not in chatml.decode(prompt.ids)
    if language != "en":
        assert build("needle", chatml, book, language="en", length=2048).sha256 != prompt.sha256
    assert len(tasks.LANGUAGES) == 12


def test_styles_of_the_needle(chatml: Any, book: Haystack, tmp_path: Path) -> None:
    passkey = build("needle", chatml, book, options={"needle": "passkey"})
    (value,) = passkey.sample.expected
    assert passkey.conversation.user.count(value) == 2
    magic = build("needle", chatml, book, options={"needle": "magic-number"})
    assert len(NEEDLE.findall(magic.conversation.user)) == 1
    sandwich = build("needle", chatml, book, options={"needle": "sf-sandwich"}).sample
    assert judge("Eat a sandwich in Dolores Park on a sunny day.", sandwich.expected, "stop").score
    known = Haystack.from_text(book.text + " In Dolores Park a Sandwich, on a sunny day.", "known")
    with pytest.raises(UserError, match="--haystack known: sandwich, Dolores Park, sunny"):
        build("needle", chatml, known, options={"needle": "sf-sandwich"})
    file = tmp_path / "own.yaml"
    file.write_text(
        "introduction: Codes are hidden.\nstatements: ['The code of {key} is {value}.']\n"
        "question: What is the code of {key}?\nvalue: uuid\nkeys: [Oslo]\n"
    )
    own = build("needle", chatml, book, options={"needle": styles.read_style(str(file), "en")})
    assert UUID.fullmatch(own.sample.expected[0])
    assert own.sample.question == "What is the code of Oslo?"
    assert styles.read_style("random-number", "en") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not YAML"),
        ("- a", "must be a mapping with introduction"),
        ("question: a\nstatement: b", "statement: not known: did you mean statements"),
        ("question: a", "introduction: is missing"),
        ("introduction: a\nstatements: b\nquestion: c", "statements: must be a list of texts"),
        ("introduction: a\nstatements: [b]\nquestion: c", "'b' has no {value}"),
        ("introduction: a\nstatements: ['{value}']\nquestion: 7", "question: must be a text"),
        ("introduction: a\nstatements: ['{value}']\nquestion: c\nvalue: x", "value: 'x': use"),
        ("introduction: a\nstatements: ['{value}']\nquestion: '{value}'", "gives the answer away"),
        ("introduction: a\nstatements: [b]\nquestion: c\nexpected: [x]", "'x' is not in 'b'"),
        (
            "introduction: a\nstatements: [The Cat]\nquestion: a cat?\nexpected: [Cat]",
            "Cat gives the answer away",
        ),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_bad_needle_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=f"--needle .*bad.yaml: .*{re.escape(message)}"):
        styles.read_style(str(file), "en")


def test_unknown_needles() -> None:
    with pytest.raises(UserError, match="--needle x: not known: use random-number, magic-number"):
        styles.read_style("x", "en")
    with pytest.raises(UserError, match="cannot be read"):
        styles.read_style("nowhere.yaml", "en")
    with pytest.raises(UserError, match="--needle passkey: is in English only"):
        styles.read_style("passkey", "de")
