"""Generated prose: frozen, varied, and free of what a needle could be mistaken for."""

import hashlib
import re
from itertools import islice, pairwise

import pytest

from longctx.errors import UserError
from longctx.eval import tasks
from longctx.eval.tasks.languages import LANGUAGES as NEEDLES
from longctx.eval.texts import prose
from longctx.eval.texts.text import sentence_ends

# Version 1: a change is a new version, not a new hash here.
FROZEN = {
    ("en", False): "3308ef132e9bd58e300ae147a943b4a5a7745c529357a2894ab9fb2a1b1940c6",
    ("en", True): "d78da735ab4ba7a5a9f355f2881da48543e5cf9a01a1a1f7fd5ab0847d095f93",
    ("zh", False): "e270aefddd39c481eb8da5d8f9bd00b35c085ca0f96a497f7ff02639442e1359",
    ("zh", True): "830558a5a283f5b9068aecced725584ca829f00c80fc08a01f4da6aadc27b0b2",
    ("es", False): "bca096f5585f620750eb92f2c3c1b35cbcf3d23b1a58f272436aa0e3e23f8c8d",
    ("es", True): "06a2c6d972f1a9d93cfd510388a501bd5bb78e77604400532c193ce558ae7153",
    ("fr", False): "023ee40f1b9b2a55bfb6aabfac922cf87cab43b5336fa717a4af3bdac83eae8c",
    ("fr", True): "a875df96609537bf89a158d7e5d20a169cf73a2b4ddab4e91bad87de51aaa22a",
    ("de", False): "e8624867e61e1627f2773a8249b45ea608a6132115a950039cfb95b4cd086eaa",
    ("de", True): "816399b154038357a4b2371f3c3ee31c8cf7b404e91d058ab799a2afaceffdca",
    ("ja", False): "0c7d12695483fc01ced09640fd02d1d75555f18ce2705ce5e50d738131579ac2",
    ("ja", True): "7ecc4fddbc8ba60d6b4dcd3196cdc6e6869835170a43d8ff356700683ae2bb24",
}
KINDS = pytest.mark.parametrize(("language", "numbers"), FROZEN)
DATA = pytest.mark.parametrize("data", [one.data for one in prose._LANGUAGES.values()])
# Written to be checked: one sentence to a pattern, and what the language never writes.
ADDED = {
    # del, al; e before i, u before o; an interjection is no preposition.
    "es": r"\b(de|a) el\b|\by h?[ií](?!e)|\bo h?[oó]|\bde de\b",
    # du, des, au, aux; elision before a vowel.
    "fr": r"\b(de|à) les?\b|\b([dlmnstj]e|que|jusque|si) [aâeéèêiîoôuû]|\bsi ils?\b",
    # Adjectives end in e and en behind an article; prepositions that take the dative.
    "de": r"\beine (?-i:[a-zäöüß]+ )*(?-i:[a-zäöüß]*[^e\W]) (?-i:[A-ZÄÖÜ])"
    r"|\beine[rm] (?-i:[a-zäöüß]+ )*(?-i:[a-zäöüß]*(?<!en)) (?-i:[A-ZÄÖÜ])"
    r"|\b(aus|bei|mit|nach|von|zu) (eine?|die|das)\b",
    # Particles that meet, and the copula before one that does not follow it.
    "ja": "だなら|だの[だは]|がが|をを|はは|にに|への?へ|の前の前|の話の話|[a-z ]",
}
EACH_ADDED = pytest.mark.parametrize("language", ADDED)


def text_of(language: str, *, numbers: bool = False, seed: int = 0, count: int = 200) -> str:
    return "\n\n".join(islice(prose.paragraphs(seed, language, numbers=numbers), count))


def sentences(text: str) -> list[str]:
    ends = sentence_ends(text)
    return [text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)]


@KINDS
def test_version_1_is_frozen(language: str, numbers: bool) -> None:
    text = text_of(language, numbers=numbers)
    assert hashlib.sha256(text.encode()).hexdigest() == FROZEN[language, numbers]


@KINDS
def test_digits_stand_only_where_they_were_asked_for(language: str, numbers: bool) -> None:
    text = text_of(language, numbers=numbers)
    assert not re.search(r"[{}|]", text)
    found = re.findall(r"\d+", text)
    if numbers:
        assert 0.05 < len(found) / len(sentences(text)) < 0.3
        assert all(2 <= len(number) <= 7 and number[0] != "0" for number in found)
        assert len(set(found)) > 0.8 * len(found)
    else:
        assert not found


@pytest.mark.parametrize("language", prose.LANGUAGES)
def test_passages_do_not_repeat(language: str) -> None:
    paragraphs = list(islice(prose.paragraphs(3, language), 2000))
    assert len(set(paragraphs)) == len(paragraphs)
    found = [part for paragraph in paragraphs for part in sentences(paragraph) if len(part) > 20]
    # Dialogue holds sentences of its own, which are views that may be held twice.
    assert len(set(found)) > 0.97 * len(found)
    pairs = set(pairwise(found))
    assert len(pairs) == len(found) - 1


def test_seeds_differ_and_sizes_do_not() -> None:
    first, again, other = prose.haystack(1024), prose.haystack(2048), prose.haystack(1024, seed=1)
    assert first == again
    assert first.sha256 != other.sha256
    assert len({text_of("en", seed=seed, count=3) for seed in range(50)}) == 50


def test_the_text_grows_with_the_length() -> None:
    assert len(prose.haystack(1 << 18).text) >= 9 << 18


def test_the_id_says_what_it_is() -> None:
    assert prose.haystack(1024).id == "generated prose 1 (en), seed 0"
    assert prose.haystack(64, 2, "zh", numbers=True).id == "generated prose 1 (zh, numbers), seed 2"


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(UserError, match=r"language eo: not known: use en, zh.* or [a-z]{2}$"):
        next(prose.paragraphs(0, "eo"))


@DATA
def test_word_lists_are_large_and_hold_nothing_twice(data) -> None:
    assert len(data.PATTERNS) >= 160
    for words in (data.NAMES, data.TRADES, *data.WORDS.values(), data.PATTERNS):
        assert len(set(words)) == len(words) >= 24
        assert not any(re.search(r"\d", word.replace("2}", "}")) for word in words)


@DATA
def test_every_pattern_uses_known_slots(data) -> None:
    known = {"a", "b", "c", "ta", "tb", "tc", *data.WORDS}
    for pattern in data.PATTERNS:
        slots = {slot.lower() for slot in re.findall(r"\{([A-Za-z]+)2?\}", pattern)}
        assert slots <= known, pattern
        assert len(re.findall(r"\{", pattern)) >= 2, pattern
    for pattern in data.NUMBER_PATTERNS:
        slots = {slot.lower() for slot in re.findall(r"\{([A-Za-z]+)2?\}", pattern)}
        assert "n" in slots <= {*known, "n"}, pattern


def test_every_language_is_one_that_the_needle_speaks() -> None:
    assert {*prose.LANGUAGES} == {"en", "zh", *ADDED} <= {*tasks.LANGUAGES}
    assert {language for language, _ in FROZEN} == {*prose.LANGUAGES}


@EACH_ADDED
def test_every_pattern_is_one_sentence_whatever_fills_it(language: str) -> None:
    """A place is a gap between whole sentences: none ends inside a quotation that goes on."""
    data = prose._LANGUAGES[language].data
    for seed in range(4):
        draw = prose._Draw(f"{seed}")
        for pattern in (*data.PATTERNS, *data.NUMBER_PATTERNS):
            sentence = prose._Scene(draw, data).sentence(pattern)
            assert sentence_ends(sentence) == [len(sentence)], sentence
            assert not re.match(r"[^\w]*[a-zà-ÿ]", sentence), sentence
            assert not re.search(ADDED[language], sentence, re.IGNORECASE), sentence
            assert "  " not in sentence and sentence == sentence.strip()
            for opening, closing in ("«»", "„“", "「」"):
                assert sentence.count(opening) == sentence.count(closing)


@EACH_ADDED
def test_forms_of_one_list_do_not_meet_in_a_sentence(language: str) -> None:
    """`about` is `topic` in another form, drawn apart: together they could be the same words."""
    data = prose._LANGUAGES[language].data
    for pattern in (*data.PATTERNS, *data.NUMBER_PATTERNS):
        slots = {slot.lower() for slot in re.findall(r"\{([A-Za-z]+)2?\}", pattern)}
        for forms in data.FORMS:
            assert len(slots & {*forms}) <= 1, pattern


@EACH_ADDED
def test_no_name_of_a_needle_stands_in_the_prose(language: str) -> None:
    text = text_of(language, count=2000)
    assert not [key for key in NEEDLES[language].keys if key in text]
