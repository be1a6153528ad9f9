"""Two scorers on the answers that they judge differently: what each of them says, kind by kind.

`whole` asks for references as words of their own in the answer without its thinking; `ruler` is
RULER's rule, any substring of the response. Each row: the kind, the answer, its references, the
score by `whole`, the score by `ruler`.
"""

from __future__ import annotations

import random

import pytest

from longctx.eval.scoring import contains_as_ruler, judge, scores_of

NUMBER, WORD = ("1234567",), ("lantern",)
UUID = ("6f1c2b9e-0a4d-4c7e-9b1f-2d3e4f506172",)


def digits(zero: int, separator: str = "") -> str:
    """1234567 in the digits of another script, in groups."""
    written = "".join(chr(zero + digit) for digit in range(1, 8))
    return separator.join((written[:1], written[1:4], written[4:]))


# Right by `whole`, and RULER's rule does not see it.
WRITTEN_OTHERWISE = [
    ("groups by comma", "It is 1,234,567.", NUMBER),
    ("groups by full stop", "Es ist 1.234.567.", NUMBER),
    ("groups by space", "C'est 1 234 567.", NUMBER),
    ("groups by thin space", "1\u2009234\u2009567", NUMBER),
    ("groups by narrow unbreakable space", "1\u202f234\u202f567", NUMBER),
    ("groups by unbreakable space", "1\u00a0234\u00a0567", NUMBER),
    ("groups by apostrophe", "1'234'567", NUMBER),
    ("groups by curved apostrophe", "1\u2019234\u2019567", NUMBER),
    ("groups by underscore", "x = 1_234_567", NUMBER),
    ("groups by Arabic separator", digits(0x660, "\u066c"), NUMBER),
    ("groups by full-width comma", digits(0xFF10, "\uff0c"), NUMBER),
    ("full-width digits", digits(0xFF10), NUMBER),
    ("Arabic-Indic digits", digits(0x660), NUMBER),
    ("Persian digits", digits(0x6F0), NUMBER),
    ("Devanagari digits", digits(0x966), NUMBER),
    ("Bengali digits", digits(0x9E6), NUMBER),
    ("Thai digits", digits(0xE50), NUMBER),
    ("Khmer digits", digits(0x17E0), NUMBER),
    ("mathematical bold digits", digits(0x1D7CE), NUMBER),
    ("decomposed accents", "cafe\u0301", ("caf\u00e9",)),
    ("composed accents", "caf\u00e9", ("cafe\u0301",)),
    ("decomposed Vietnamese", "Ha\u0323 Long", ("H\u1ea1 Long",)),
    ("sharp s in capitals", "STRASSE", ("stra\u00dfe",)),
    ("final sigma", "\u03bb\u03bf\u03b3\u03bf\u03c3", ("\u03bb\u03bf\u03b3\u03bf\u03c2",)),
]  # fmt: skip

# Found by RULER's rule, and not what was asked, or not said as an answer.
ANYWHERE = [
    ("more digits behind", "12345678", NUMBER),
    ("more digits before", "91234567", NUMBER),
    ("within a longer number", "It is 812345679.", NUMBER),
    ("glued letter before", "x1234567", NUMBER),
    ("glued letter behind", "1234567x", NUMBER),
    ("glued word before", "number1234567", NUMBER),
    ("glued unit behind", "1234567km", NUMBER),
    ("ordinal behind", "the 1234567th", NUMBER),
    ("written line end before", "\\n1234567", NUMBER),
    ("part of a name", "key_1234567", NUMBER),
    ("beginning of a name", "1234567_a", NUMBER),
    ("dunder name", "__init__1234567", NUMBER),
    ("hexadecimal", "0x1234567", NUMBER),
    ("superscript behind", "1234567\u00b2", NUMBER),
    ("plural", "lanterns", WORD),
    ("plural in a list", "1. lanterns 2. chairs", WORD),
    ("compound", "lanternlight", WORD),
    ("compound before", "a streetlantern", WORD),
    ("verb form", "lanterned", WORD),
    ("word in capitals, plural", "LANTERNS", WORD),
    ("short word within another", "a starling", ("star",)),
    ("short word at a word's end", "a restart", ("start",)),
    ("answer yes within eyes", "eyes", ("yes",)),
    ("answer no within know", "I do not know", ("no",)),
    ("longer coded word", "abcdefg", ("abcdef",)),
    ("variable within a longer one", "VAR ABCDEF", ("ABCDE",)),
    ("uuid without its end", UUID[0] + "a1", UUID),
    ("thought, and another said", "<think>1234567?</think> It is 7654321.", NUMBER),
    ("thought, and given up", "<think>Is it 1234567?</think> No idea.", NUMBER),
    ("thought, opened by the template", "1234567, or not.</think>I cannot tell.", NUMBER),
    ("thought, and cut off", "<think>The text says 1234567, but", NUMBER),
    ("two thoughts", "<think>1234567</think><think>hm</think> 1", NUMBER),
    ("Arabic word with a suffix", "\u0628\u064a\u062a\u0646\u0627", ("\u0628\u064a\u062a",)),
    ("Korean name with a Latin tail", "SeoulCity", ("Seoul",)),
]  # fmt: skip

# Once scored as misses, and right by both.
BOTH = [
    ("emphasis", "_1234567_", NUMBER),
    ("strong emphasis", "__1234567__", NUMBER),
    ("emphasis in a sentence", "The number is _1234567_.", NUMBER),
    ("three marks", "___1234567___", NUMBER),
    ("emphasised word", "_lantern_", WORD),
    ("ordinal indicator", "n\u00ba1234567", NUMBER),
    ("feminine indicator", "n\u00aa1234567", NUMBER),
    ("numero sign", "\u21161234567", NUMBER),
    ("stars", "**1234567**", NUMBER),
    ("code", "`1234567`", NUMBER),
    ("boxed", r"$\boxed{1234567}$", NUMBER),
    ("tags", "<b>1234567</b>", NUMBER),
    ("between Chinese words", "\u53f7\u7801\u662f1234567\u3002", NUMBER),
    ("another case", "The LANTERN.", WORD),
]


def test_there_are_58_kinds_that_differ() -> None:
    kinds = [kind for kind, *_ in (*WRITTEN_OTHERWISE, *ANYWHERE, *BOTH)]
    assert len(WRITTEN_OTHERWISE) + len(ANYWHERE) == 58
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(("kind", "answer", "expected"), WRITTEN_OTHERWISE)
def test_written_otherwise(kind: str, answer: str, expected: tuple[str, ...]) -> None:
    assert scores_of(answer, expected) == {"whole": 1.0, "ruler": 0.0}, kind


@pytest.mark.parametrize(("kind", "answer", "expected"), ANYWHERE)
def test_found_anywhere(kind: str, answer: str, expected: tuple[str, ...]) -> None:
    assert scores_of(answer, expected) == {"whole": 0.0, "ruler": 1.0}, kind


@pytest.mark.parametrize(("kind", "answer", "expected"), BOTH)
def test_right_by_both(kind: str, answer: str, expected: tuple[str, ...]) -> None:
    assert scores_of(answer, expected) == {"whole": 1.0, "ruler": 1.0}, kind


def test_the_scorer_that_is_asked_for_gives_score_and_state() -> None:
    words = ["lantern", "chair", "brick", "stone"]
    answer = "lanterns, chairs and a brick"
    whole, ruler = (judge(answer, words, "stop", "all", scorer) for scorer in ("whole", "ruler"))  # type: ignore[arg-type]
    assert (whole.score, whole.status) == (0.25, "partial")
    assert (ruler.score, ruler.status) == (0.75, "partial")
    assert whole.scores == ruler.scores == {"whole": 0.25, "ruler": 0.75}
    part = judge(answer, words, "stop", "part", "ruler")
    assert (part.score, part.status, part.scores) == (1.0, "ok", {"whole": 1.0, "ruler": 1.0})


def test_three_of_four_and_the_fourth_cut_off_are_three_quarters() -> None:
    values = ["1111111", "2222222", "3333333", "4444444"]
    verdict = judge("1111111, 2222222, 3333333 and 4444", values, "length")
    assert (verdict.score, verdict.status) == (0.75, "truncated_output")
    assert verdict.scores == {"whole": 0.75, "ruler": 0.75}
    ended = judge("1111111, 2222222, 3333333 and 4444", values, "stop")
    assert (ended.score, ended.status) == (0.75, "partial")
    nothing = judge("<think>well, the", values, "length")
    assert (nothing.score, nothing.status) == (0.0, "truncated_output")


def test_rulers_rule_as_its_code_has_it() -> None:
    """Written anew from string_match_all and _part: the mean over samples, in percent, of two
    decimals; on 300 answers by seed."""

    def share(answer: str, references: list[str]) -> float:
        return sum(1.0 if one.lower() in answer.lower() else 0.0 for one in references) / len(
            references
        )

    rng = random.Random(0)
    words = ["lantern", "Chair", "1234567", "7654321", "star", "starling", "ABCDE"]
    for _ in range(300):
        references = rng.sample(words, rng.randint(1, 4))
        pieces = [
            rng.choice([str.upper, str.lower, str.title])(one) for one in rng.sample(words, 3)
        ]
        answer = rng.choice([" ", ", ", "", "x", "\n", "<think>"]).join(pieces)
        found = scores_of(answer, references)["ruler"]
        assert found == share(answer, references)
        assert scores_of(answer, references, "part")["ruler"] == (1.0 if found else 0.0)
    assert contains_as_ruler("a\x00b 1", "1")
