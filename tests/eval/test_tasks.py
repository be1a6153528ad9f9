"""Every task: RULER's published counts, and the rules that all prompts keep."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import needle_fakes
import pytest

from longctx.errors import UserError
from longctx.eval import tasks
from longctx.eval.chat import ChatEncoder
from longctx.eval.haystack import Haystack
from longctx.eval.prompt import Prompt, PromptBuilder, Recipe
from longctx.eval.scoring import judge
from longctx.eval.tasks import base, counting, latent, niah, qa, styles

NUMBER = re.compile(r"(?<!\d)\d{7}(?!\d)")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NEEDLE = re.compile(r"One of the special magic (\w+)s for (\S+) is: (\S+)\.")

QA = [
    {"question": f"Which colour has door {n}?", "answers": [f"blue{n}", f"Blue {n}"],
     "documents": [f"Door {n} of the house is blue{n}. It was painted long ago."]}
    for n in range(400)
]  # fmt: skip


@pytest.fixture(scope="module")
def questions() -> Haystack:
    return Haystack.from_text(json.dumps(QA), "doors.json")


def recipe(task: str, **changes: Any) -> Recipe:
    about = tasks.get(task).about
    given = {"options": {}, "language": "en", **changes}
    options = tasks.options_of(task, given.pop("options"))
    values: dict[str, Any] = {
        "length": 4096,
        "depth": 50.0 if about.has_depth else None,
        "seed": 0,
        "repeat": 0,
        "answer_tokens": about.answer_tokens,
        "answer_prefix": tasks.get(task).answer_prefix(given["language"], options),
        "system": None,
        "exact": False,
        "allow_repeat": False,
        "haystack_sha256": "h",
        "tokenizer_sha256": "t",
        "template_sha256": "c",
        "wording_sha256": tasks.wording_sha256(task, given["language"], options),
        "task": task,
        "options": options,
    }
    return Recipe(**{**values, **given})


def build(task: str, tokenizer: Any, haystack: Haystack, **changes: Any) -> Prompt:
    builder = PromptBuilder(haystack, ChatEncoder(tokenizer), allow_repeat=False)
    return builder.build(recipe(task, **changes))


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
    exercise = prompt.exercise
    assert judge(prompt.conversation.answer_prefix, exercise.expected, "stop").score == 0
    right = " ".join(exercise.expected)
    assert judge(right, exercise.expected, "stop", exercise.match).status == "ok"
    if prompt.evidence_spans:
        shown = " ".join(tokenizer.decode(prompt.ids[a:b]) for a, b in prompt.evidence_spans)
        assert any(value in shown for value in exercise.expected)
    closed = builder.build_closed_book(recipe(task, length=length))
    assert closed.expected == exercise.expected
    for value in exercise.expected:
        assert value not in closed.conversation.user


@pytest.mark.parametrize("task", [name for name in tasks.TASKS if not name.startswith("qa")])
def test_recipes_survive_json(task: str) -> None:
    one = recipe(task)
    again = Recipe(**json.loads(json.dumps(one.to_dict())))
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


def test_tokens_to_generate_are_rulers() -> None:
    budgets = {task.about.name: task.about.answer_tokens for task in tasks.RULER}
    assert len(budgets) == 13
    niahs = {name: 128 for name in budgets if name.startswith("niah")}
    assert budgets == {**niahs, "vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}
    assert len(niahs) == 8


# Needles in the text (None: as many as fit), their values, keys, and how many are expected.
@pytest.mark.parametrize(
    ("task", "needles", "value", "keys", "expected"),
    [
        ("niah_single_1", 1, NUMBER, 1, 1),
        ("niah_single_2", 1, NUMBER, 1, 1),
        ("niah_single_3", 1, UUID, 1, 1),
        ("niah_multikey_1", 4, NUMBER, 4, 1),
        ("niah_multikey_2", None, NUMBER, None, 1),
        ("niah_multikey_3", None, UUID, None, 1),
        ("niah_multivalue", 4, NUMBER, 1, 4),
        ("niah_multiquery", 4, NUMBER, 4, 4),
    ],
)
def test_niah_has_rulers_counts(
    chatml: Any, book: Haystack, task: str, needles: int | None, value: Any, keys: int | None,
    expected: int,
) -> None:  # fmt: skip
    prompt = build(task, chatml, book)
    text = prompt.conversation.user
    found = NEEDLE.findall(text)
    assert all(value.fullmatch(needle[2]) for needle in found)
    assert len({needle[2] for needle in found}) == len(found)
    if needles is None:
        assert len(found) > 40
        assert niah.NOISE.split(".")[0] not in text
        assert len({key for _, key, _ in found}) == len(found)
    else:
        assert len(found) == needles
        assert len({key for _, key, _ in found}) == keys
    assert len(prompt.exercise.expected) == len(prompt.evidence_spans) == expected
    kind = "uuid" if value is UUID else "number"
    asked = prompt.exercise.question
    for _, key, held in found:
        assert (key in asked) == (held in prompt.exercise.expected)
    if expected == 1:
        assert text.startswith(f"A special magic {kind} is hidden within the following text.")
        assert asked.startswith(f"What is the special magic {kind} for ")
        assert prompt.conversation.answer_prefix.endswith("mentioned in the provided text is")
    else:
        assert text.startswith("Some special magic numbers are hidden within")
        assert asked.startswith("What are all the special magic numbers for ")
        assert prompt.conversation.answer_prefix.endswith("mentioned in the provided text are")
        assert (", and " in asked) == (task == "niah_multiquery")


def test_noise_is_rulers_sentences(chatml: Any, book: Haystack) -> None:
    text = build("niah_single_1", chatml, book, depth=0.0).conversation.user
    intro, needle, *noise, question = text.split("\n")
    assert NEEDLE.fullmatch(needle)
    assert set(noise) == {
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    }
    assert intro.endswith("afterwards.") and question.endswith("provided text?")
    assert build("niah_single_1", chatml, book, depth=0.0).depth_actual == 0
    assert build("niah_single_1", chatml, book, depth=100.0).depth_actual == 100


def test_vt_has_four_hops_in_order(chatml: Any, book: Haystack) -> None:
    prompt = build("vt", chatml, book, length=8192)
    text = prompt.conversation.user
    example, text = text.split("they are: ")
    assert len(re.findall(r"VAR ([A-Z]{3}) = ", example)) == 5
    assert example.count(niah.NOISE) == 12
    links = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)", text)
    assert len(links) == 5
    assert links[0][1].isdigit() and len(links[0][1]) == 5
    assert [before for before, _ in links[:-1]] == [source for _, source in links[1:]]
    assert tuple(name for name, _ in links) == prompt.exercise.expected
    assert links[0][1] in prompt.exercise.question
    assert "5 variables are assigned the value " + links[0][1] in prompt.conversation.answer_prefix
    short = build("vt", chatml, book, length=2048).conversation.user.split("they are: ")[0]
    assert niah.NOISE not in short


@pytest.mark.parametrize(("length", "often", "rarely"), [(3000, 6, 1), (8192, 30, 3)])
def test_cwe_counts(chatml: Any, book: Haystack, length: int, often: int, rarely: int) -> None:
    prompt = build("cwe", chatml, book, length=length)
    shown = prompt.conversation.user.split(counting._CWE_INTRODUCTION)[2]
    entries = re.findall(r"(\d+)\. (\S+)", shown)
    assert [int(n) for n, _ in entries] == list(range(1, len(entries) + 1))
    counts = Counter(word for _, word in entries)
    assert {word for word, n in counts.items() if n == often} == set(prompt.exercise.expected)
    assert len(prompt.exercise.expected) == 10
    assert set(counts.values()) == {often, rarely}
    example = prompt.conversation.user.split(counting._CWE_INTRODUCTION)[1]
    taught = Counter(re.findall(r"\d+\. ([a-z]+)", example.split("\nQuestion")[0]))
    assert sorted(set(taught.values())) == ([1, 3] if length < 4096 else [3, 10])
    assert len(taught) == (20 if length < 4096 else 40)
    assert not set(taught) & set(counts)


def test_cwe_goes_on_where_single_words_run_out() -> None:
    found = counting._pairs(1, 5000)
    assert len(set(found)) == 5000
    assert all("-" in word for word in found)
    with pytest.raises(UserError, match="cwe has words for"):
        counting._pairs(1, 10**7)


def test_fwe_follows_zipf(chatml: Any, book: Haystack) -> None:
    prompt = build("fwe", chatml, book, length=16384)
    text = prompt.conversation.user.split("coded words. ")[1].split("\nQuestion")[0]
    counts = Counter(text.split(" "))
    ranked = counts.most_common()
    assert ranked[0][0] == "..."
    assert tuple(word for word, _ in ranked[1:4]) == prompt.exercise.expected
    total = ranked[0][1] / 0.6079271  # 1 / zeta(2)
    for rank, (word, count) in enumerate(ranked[:10], start=1):
        assert count == pytest.approx(total * 0.6079271 / rank**2, abs=1.5)
        assert word == "..." or re.fullmatch("[a-z]{6}", word)
    assert sum(counting.zipf_counts(10_000, 100)) < 10_000
    assert counting.zipf_counts(10_000, 3) == [6079, 1519, 675]


def test_qa_reads_what_is_published(tmp_path: Path) -> None:
    squad = {"data": [{"paragraphs": [
        {"context": "The sea is deep.", "qas": [
            {"question": "What is deep?", "is_impossible": False,
             "answers": [{"text": "The sea"}, {"text": "sea"}]},
            {"question": "Why?", "is_impossible": True, "answers": []}]},
        {"context": "The sky is high.", "qas": []}]}]}  # fmt: skip
    found = qa.read("squad.json", json.dumps(squad))
    (one,) = found.questions
    assert one == (
        "What is deep?",
        ("The sea", "sea"),
        ("The sea is deep.",),
        ("The sky is high.",),
    )
    assert found.documents == ["The sea is deep.", "The sky is high."]
    hotpot = [{"question": "Who?", "answer": "Ann", "context": [["A", ["Ann ", "sang."]]]}]
    (one,) = qa.read("hotpot.json", json.dumps(hotpot)).questions
    assert one[:3] == ("Who?", ("Ann",), ("A\nAnn sang.",))
    own = '{"question": "Q", "answers": ["a"], "documents": ["d"]}\n' * 2
    assert len(qa.read("own.jsonl", own).questions) == 2
    for text, message in (
        ("hello", "neither JSON nor JSON lines"),
        ("[]", "there is no question"),
        ('[{"question": "Q"}]', "not SQuAD, HotpotQA or question/answers/documents"),
        (
            '[{"question": "Q", "answers": [], "documents": ["d"]}]',
            "not SQuAD.*lacks answers or documents",
        ),
        ('{"data": 1}', "not SQuAD"),
    ):
        with pytest.raises(UserError, match=f"--qa bad: {message}"):
            qa.read("bad", text)


def test_qa_shows_its_document_once(chatml: Any, questions: Haystack) -> None:
    prompt = build("qa_1", chatml, questions)
    text = prompt.conversation.user
    documents = re.findall(r"Document (\d+):\n", text)
    assert documents == [str(n) for n in range(1, len(documents) + 1)]
    (span,) = prompt.evidence_spans
    assert prompt.exercise.expected[0] in chatml.decode(prompt.ids[slice(*span)])
    assert text.endswith(f"Question: {prompt.exercise.question.split('Question: ')[1]}")
    assert prompt.exercise.match == "part"
    few = Haystack.from_text(json.dumps(QA[:5]), "few.json")
    with pytest.raises(UserError, match=r"--qa few\.json: it has too few documents for 4096"):
        build("qa_1", chatml, few)


def test_qa_asks_a_file_for_no_more_documents_than_fit(chatml: Any) -> None:
    data = [{**one, "documents": [one["documents"][0] + " Nobody knows why." * 30]} for one in QA]
    few = Haystack.from_text(json.dumps(data[:8]), "few.json")
    prompt = build("qa_1", chatml, few, length=1024)
    fitted = prompt.conversation.user.count("Document ")
    assert 2 <= fitted <= 7
    assert prompt.slack < 1024 / fitted
    # All of the others fit and one more would as well: then there are too few.
    with pytest.raises(UserError, match="too few documents for 4096"):
        build("qa_1", chatml, few)


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


def test_part_is_the_best_reference() -> None:
    assert judge("b", ["a", "a", "b"], "stop", "part").score == 1.0
    assert judge("b", ["a", "a", "b"], "stop").score == pytest.approx(1 / 3)
    assert judge("c", ["a", "a", "b"], "stop", "part").status == "miss"


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
    (value,) = prompt.exercise.expected
    assert [key in prompt.exercise.question for key, held in found if held == value] == [True]
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
    at = UUID.findall(prompt.exercise.question)[0]
    for _ in range(hops):
        at = follow[at]
    assert (last[at],) == prompt.exercise.expected
    with pytest.raises(UserError, match="--hops 0: must be a number from 1"):
        build("uuid_chain", chatml, book, options={"hops": 0})


@pytest.mark.parametrize("depth", [0.0, 40.0, 100.0])
@pytest.mark.parametrize("repeat", range(4))
def test_the_nth_poem_is_the_nth(chatml: Any, book: Haystack, depth: float, repeat: int) -> None:
    prompt = build("ordered_recall", chatml, book, depth=depth, repeat=repeat)
    found = re.findall(
        r"Here is a poem about ([^:]+): .*? It is signed (\S+)\.", prompt.conversation.user
    )
    ordinal, topic = re.findall(r"the (\w+) poem about (.+) in the", prompt.exercise.question)[0]
    signed = [signature for about, signature in found if about == topic]
    assert len(signed) == 4
    assert len(found) == 8
    place = ("first", "second", "third", "fourth").index(ordinal)
    assert (signed[place],) == prompt.exercise.expected
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
    (value,) = prompt.exercise.expected
    assert NUMBER.fullmatch(value)
    assert value in chatml.decode(prompt.ids[slice(*prompt.needle_span or (0, 0))])
    assert judge(f" {value}。", [value], "stop").status == "ok"
    assert "\ufffd" not in chatml.decode(prompt.ids)
    if language != "en":
        assert build("needle", chatml, book, language="en", length=2048).sha256 != prompt.sha256
    assert len(tasks.LANGUAGES) == 12


def test_styles_of_the_needle(chatml: Any, book: Haystack, tmp_path: Path) -> None:
    passkey = build("needle", chatml, book, options={"needle": "passkey"})
    (value,) = passkey.exercise.expected
    assert passkey.conversation.user.count(value) == 2
    magic = build("needle", chatml, book, options={"needle": "magic-number"})
    assert len(NEEDLE.findall(magic.conversation.user)) == 1
    sandwich = build("needle", chatml, book, options={"needle": "sf-sandwich"}).exercise
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
    assert UUID.fullmatch(own.exercise.expected[0])
    assert own.exercise.question == "What is the code of Oslo?"
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
