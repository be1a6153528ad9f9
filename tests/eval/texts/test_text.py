"""Where sentences end, and what stands between them."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest

from longctx.eval.texts.text import Boundaries, join, sentence_ends, settle


def test_line_ends_and_composition_are_settled() -> None:
    assert settle("a\r\nb\rc e\u0301") == "a\nb\nc \u00e9"


def parts(text: str) -> list[str]:
    ends = [0, *sentence_ends(text)]
    return [text[a:b].strip() for a, b in itertools.pairwise(ends)]


def test_sentences_keep_their_quotes_and_names() -> None:
    text = 'Mr. Knightley said, "Not at all." He left... J. Smith stayed! Why?\n\nA heading\n\nEnd.'
    assert parts(text) == [
        'Mr. Knightley said, "Not at all."',
        "He left...",
        "J. Smith stayed!",
        "Why?",
        "A heading",
        "End.",
    ]


def test_numbers_do_not_end_sentences() -> None:
    assert parts("It is 3.14 or so. Yes.") == ["It is 3.14 or so.", "Yes."]


def test_chinese_sentences() -> None:
    assert parts("山不在高。“有仙则名！”水深……好") == ["山不在高。", "“有仙则名！”", "水深……"]


def test_near_offers_weaker_borders_in_turn() -> None:
    text = "one two, three four"
    tiers = list(Boundaries(text).near(5, len(text)))
    assert tiers[0] == []
    assert tiers[1] == [8]
    assert 3 in tiers[2]
    assert tiers[3] == [4, 5]


def test_join() -> None:
    assert join("a.", "B") == " "
    assert join("a.\n", "B") == join("", "B") == join("山。", "水") == ""


def test_no_space_beside_chinese_quotes() -> None:
    assert (
        join("“山高。”", "水")
        == join("山……", "水")
        == join("山。", "“水")
        == join("。”", "“水")
        == ""
    )
    assert join("He said “no.”", "The") == join("a.", "“B") == join("“山。”", "The") == " "
    assert join("”", "“") == " "  # nothing tells the script


@pytest.mark.parametrize(
    "text",
    [
        "La Sra. García y el Sr. Ruiz salieron. Era tarde.",
        "Er kaufte z. B. Brot, d. h. nur Brot. Es war spät.",
        "Пришёл А. С. Пушкин, т. е. поэт. Было поздно.",
        "وصل د. محمد إلى المدينة. كان الوقت متأخرا.",
        "Anh ở TP. Huế với É. Dupont. Trời đã tối.",
    ],
)
def test_abbreviations_end_no_sentence(text: str) -> None:
    assert [text[:end] for end in sentence_ends(text)] == [
        text[: text.rindex(".", 0, -1) + 1],
        text,
    ]


@pytest.mark.parametrize("text", ["It was he who said he'd. Then.", "Это был я. Потом."])
def test_short_words_end_sentences(text: str) -> None:
    assert len(sentence_ends(text)) == 2


def test_a_japanese_quotation_goes_on() -> None:
    assert parts("「だれ？」と聞いた。「行こう！」って言う。「はい。」彼は笑った。") == [
        "「だれ？」と聞いた。",
        "「行こう！」って言う。",
        "「はい。」",
        "彼は笑った。",
    ]


def test_thai_parts_phrases_by_spaces() -> None:
    text = "แมวนอนบนหลังคา ฝนตกหนัก เด็กๆ เดินกลับบ้าน ปี 2547 ใน Bangkok เขา"
    parts = [text[a:b].strip() for a, b in pairwise([0, *sentence_ends(text), len(text)])]
    # Not behind the sign of repetition, not around numbers and foreign words.
    assert parts == ["แมวนอนบนหลังคา", "ฝนตกหนัก", "เด็กๆ เดินกลับบ้าน", "ปี 2547 ใน Bangkok เขา"]


def test_thai_abbreviations_part_nothing() -> None:
    text = "กรุงเทพฯ มีแมว หมา ฯลฯ ปี พ.ศ. 2547 ฝนตก เขานอน"
    parts = [text[a:b].strip() for a, b in pairwise([0, *sentence_ends(text), len(text)])]
    assert parts == ["กรุงเทพฯ มีแมว", "หมา ฯลฯ ปี พ.ศ. 2547 ฝนตก", "เขานอน"]


def test_other_closing_quotes() -> None:
    assert parts("„Nein.“ Er ging. »Doch!« Sie blieb.") == [
        *("„Nein.“", "Er ging.", "»Doch!«", "Sie blieb."),
    ]
    assert parts("« Non. » Il part. «\u00a0Si\u202f!\u00a0» Elle reste.") == [
        *("« Non. »", "Il part.", "«\u00a0Si\u202f!\u00a0»", "Elle reste."),
    ]
    assert parts("山高。“水深。”") == ["山高。", "“水深。”"]  # there it opens


def test_arabic_marks() -> None:
    text = "أين السفينة؟ كانت هنا، ثم رحلت."
    assert [text[:end][-1] for end in sentence_ends(text)] == ["؟", "."]
    assert [text[:end][-1] for end in Boundaries(text).of("clause")] == ["،"]
