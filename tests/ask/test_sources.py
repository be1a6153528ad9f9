"""Where an answer's words stand, and what is not worth a place."""

from __future__ import annotations

import time

import pdf_fakes
import pytest
from needle_fakes import english

from longctx.ask import sources
from longctx.reading import ReadDocument, read_document

TEXT = """The ship left Lisbon on a Monday.

On the third day the captain, Ana Duarte, opened a letter from the owners.
It named the port of Recife and a cargo of 412 barrels.

The crew of the ship never saw the letter, and the captain of the port never asked.
"""


def document(text: str = TEXT, name: str = "log.txt") -> ReadDocument:
    return read_document(text.encode(), name)


def places(answer: str, question: str = "What?", text: str = TEXT) -> list[tuple[str, str]]:
    found = sources.find([document(text)], answer, question)
    return [(str(each.place), each.words) for each in found]


def test_shared_runs_are_found_with_their_line_and_words() -> None:
    (found,) = sources.find([document()], "It was the captain, Ana Duarte.", "Who?")
    assert (found.words, str(found.place)) == ("the captain, Ana Duarte", "log.txt:3")
    assert TEXT[found.start : found.end] == found.words
    assert "On the third day the captain, Ana Duarte, opened" in found.to_dict()["excerpt"]


def test_case_and_line_ends_do_not_matter() -> None:
    assert places("IT NAMED THE PORT of recife") == [("log.txt:4", "It named the port of Recife")]
    assert places("opened a letter from the owners. It named it") == [
        ("log.txt:3", "opened a letter from the owners. It named")
    ]


def test_a_number_is_enough() -> None:
    assert places("412") == [("log.txt:4", "412")]
    assert places("There were 413 of them") == []


def test_common_words_alone_are_no_place() -> None:
    text = "the cat of the house. " * 400 + "Ana Duarte came. " + "a dog and the cat. " * 400
    answer = "Of the many things that the people said in the town, none held."
    assert places(answer, text=text) == []
    assert places("Ana", text=text) == [("log.txt:1", "Ana")]


def test_of_equal_places_the_one_that_speaks_of_the_question_is_taken() -> None:
    gap = " and nothing else happened there at all" * 20
    text = f"Blue door, code 7781.\n{gap}\nRed door, code 7781.\n{gap}\nGreen door, code 7781.\n"
    assert places("7781", "Which code has the red door?", text)[0][0] == "log.txt:3"
    assert places("7781", "Which code has the green door?", text)[0][0] == "log.txt:5"


def test_the_best_come_first_and_neighbours_are_one() -> None:
    answer = "412 barrels. Later the captain, Ana Duarte, opened a letter from the owners."
    found = places(answer)
    assert found[0][0] == "log.txt:3"
    assert len(found) == 1  # the next line stands in the same excerpt
    assert found[0][1].endswith("412 barrels")


def test_chinese_is_compared_by_characters() -> None:
    text = "學而時習之，不亦說乎？\n有朋自遠方來，不亦樂乎？\n人不知而不慍，不亦君子乎？"
    assert places("有朋自遠方來", text=text) == [("log.txt:2", "有朋自遠方來")]
    assert places("他說：人不知而不慍。", text=text)[0] == ("log.txt:3", "人不知而不慍")


def test_places_are_pages_of_a_pdf_and_names_of_several() -> None:
    pages = read_document(pdf_fakes.pdf(["Nothing here.", "The key is 55123."]), "a.pdf")
    found = sources.find([document(), pages], "The key is 55123.", "What is the key?")
    assert str(found[0].place) == "a.pdf, page 2"
    assert found[0].to_dict()["page"] == 2


@pytest.mark.parametrize("answer", ["", "…", "?!", "never-seen-before"])
def test_answers_without_shared_words(answer: str) -> None:
    assert places(answer, text="something else") == []


def test_a_long_document_takes_no_long_time() -> None:
    text = english(400_000)
    began = time.process_time()
    sources.find([document(text)], english(3_000), "What is it about?")
    assert time.process_time() - began < 5
