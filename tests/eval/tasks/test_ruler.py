"""RULER's tasks: its published counts, wordings and answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from needle_fakes import NEEDLE, NUMBER, QA, UUID, build

from longctx.errors import UserError
from longctx.eval import tasks
from longctx.eval.scoring import judge
from longctx.eval.tasks import counting, niah, qa
from longctx.eval.texts.haystack import Haystack


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
    assert len(prompt.sample.expected) == len(prompt.evidence_spans) == expected
    kind = "uuid" if value is UUID else "number"
    asked = prompt.sample.question
    for _, key, held in found:
        assert (key in asked) == (held in prompt.sample.expected)
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
    assert tuple(name for name, _ in links) == prompt.sample.expected
    assert links[0][1] in prompt.sample.question
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
    assert {word for word, n in counts.items() if n == often} == set(prompt.sample.expected)
    assert len(prompt.sample.expected) == 10
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
    assert tuple(word for word, _ in ranked[1:4]) == prompt.sample.expected
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
    assert prompt.sample.expected[0] in chatml.decode(prompt.ids[slice(*span)])
    assert text.endswith(f"Question: {prompt.sample.question.split('Question: ')[1]}")
    assert prompt.sample.match == "part"
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


def test_part_is_the_best_reference() -> None:
    assert judge("b", ["a", "a", "b"], "stop", "part").score == 1.0
    assert judge("b", ["a", "a", "b"], "stop").score == pytest.approx(1 / 3)
    assert judge("c", ["a", "a", "b"], "stop", "part").status == "miss"
