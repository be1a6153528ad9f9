"""Bytes to text, and never to another text."""

from __future__ import annotations

import codecs
import random

import pytest

from longctx.errors import UserError
from longctx.eval.texts import prose
from longctx.eval.texts.encoding import UndecodableError, check_encoding, decode

# Repeated lines as logs and lists have them: there is little to tell readings by.
JAPANESE = "川のそばの石に子供が座っている95回。朝の市場でりんごを買いました60回。" * 60
GERMAN = "Er öffnete das Fenster und rief den Bäcker. Für die Kinder war der Frühling schön. " * 40
KOREAN = "강가의 돌 위에 아이가 앉아 있다. 아침 시장에서 사과를 샀습니다. " * 20
VARIED_KOREAN = (
    "강가의 돌 위에 아이가 앉아 있다. 아침 시장에서 사과를 샀습니다. 선생님은 내일 수업이 없다고 "
    "말했다. 그는 편지를 서랍에 넣었다. 밤이 되면 산에서 바람이 불어온다. 우리는 함께 바다를 보러 "
    "갔다. 오래된 집의 문은 잘 열리지 않았다. 어머니는 부엌에서 국을 끓이고 있었다. 도서관에는 "
    "사람이 아무도 없었다. 그 노래를 들으면 고향이 생각난다."
)
RUSSIAN = "Старый рыбак сидел на берегу и чинил сети. Утром на рынке мы купили яблоки. " * 20


def generated(language: str, encoding: str) -> str:
    text = prose.haystack(2048, 1, language=language).text[:3000]
    return text.encode(encoding, "ignore").decode(encoding)


def test_utf8_with_and_without_a_mark() -> None:
    assert decode("née".encode()) == decode(codecs.BOM_UTF8 + "née".encode()) == ("née", "utf-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_marks_are_followed(encoding: str) -> None:
    data = ("\ufeff" + "山高").encode(encoding)
    assert decode(data) == ("山高", encoding[:6])
    assert decode(data, "cp1252") == ("山高", encoding[:6])


def test_a_mark_is_followed_strictly() -> None:
    with pytest.raises(UndecodableError, match="not utf-16: bad byte at 2"):
        decode(codecs.BOM_UTF16_LE + b"\x00\xd8a\x00")


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        (generated("zh", "gb18030"), "gb18030", "gb18030"),
        (generated("zh", "big5"), "big5", "big5"),
        (generated("ja", "cp932"), "shift_jis", "cp932"),
        (generated("ja", "euc_jp"), "euc_jp", "euc_jp"),
        (VARIED_KOREAN, "euc_kr", "cp949"),
    ],
)
def test_what_is_beyond_doubt_is_recognised(text: str, encoding: str, found: str) -> None:
    assert decode(text.encode(encoding)) == (text, found)


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("山不在高，有仙则名。", "gb18030", r'gb18030 \("山不'),
        (JAPANESE, "shift_jis", r'cp932 \("川'),
        (GERMAN, "latin-1", r'cp1252 \("öffn.*mac_latin2 \("Ųffn'),
        ("# café\nx=1\n", "latin-1", r'cp1252 \("café"\), cp1251 \("cafй"\).* and others'),
        (RUSSIAN, "cp1251", r"cp1251 .*mac_cyrillic"),
        (RUSSIAN, "koi8_r", "koi8_r"),
        (generated("fr", "cp850"), "cp850", "cp850"),
        (generated("fr", "latin-1"), "utf-16-le", "utf_16_le"),
        (generated("zh", "gb18030"), "utf-16-be", "utf_16_be"),
        ("plain text", "utf-16-le", r'utf_16_le without its mark \("plain'),
        (JAPANESE, "iso2022_jp", "iso2022_jp_2"),
        (KOREAN, "iso2022_kr", "iso2022_kr"),
    ],
)
def test_what_may_be_several_texts_is_refused_until_named(
    text: str, encoding: str, named: str
) -> None:
    with pytest.raises(UndecodableError, match=f"{named}.*--encoding"):
        decode(text.encode(encoding))
    assert decode(text.encode(encoding), encoding) == (text, encoding)


@pytest.mark.parametrize("language", ["de", "fr", "es", "zh", "ja"])
def test_no_text_is_read_as_another(language: str) -> None:
    narrow = ("latin-1", "cp1252", "cp850", "mac_roman", "cp1250")
    wide = {"zh": ("gb18030", "big5"), "ja": ("cp932", "euc_jp")}
    draw = random.Random(language)
    for encoding in wide.get(language, narrow):
        text = generated(language, encoding)
        for size in (10, 40, 300):
            start = draw.randrange(len(text) - size)
            part = text[start : start + size]
            try:
                assert decode(part.encode(encoding)).text == part
            except UndecodableError:
                assert not part.isascii()


@pytest.mark.parametrize(("first", "last"), [(1, None), (0, -1), (1, -1)])
def test_damaged_utf8_is_no_other_encoding(first: int, last: int | None) -> None:
    with pytest.raises(UndecodableError, match="UTF-8 but for a bad byte at"):
        decode((JAPANESE[:300]).encode()[first:last])


def test_a_named_encoding_is_strict() -> None:
    with pytest.raises(UndecodableError, match="not shift_jis: bad byte at 2"):
        decode(b"ab\xff", "shift_jis")
    with pytest.raises(UndecodableError, match="not utf-8: bad byte at 0"):
        decode(b"\xe9", "utf-8")
    with pytest.raises(UndecodableError, match="bad byte at 1"):
        decode(b"a\0\xe9", "cp1252")


def test_utf8_stays_utf8_whatever_is_named() -> None:
    assert decode("née".encode(), "cp1252") == ("née", "utf-8")


def test_random_bytes_are_no_text() -> None:
    with pytest.raises(UndecodableError, match=r"no text: not UTF-8 \(bad byte at "):
        decode(random.Random(0).randbytes(4000))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_nul_is_no_text_and_found_in_bytes(encoding: str) -> None:
    before = "山不在高，有仙则名。\r\n" * 3
    with pytest.raises(UndecodableError, match=f"bad byte at {len(before.encode(encoding))}: "):
        decode(f"{before}\x00".encode(encoding))


def test_line_ends_and_composition_are_settled() -> None:
    assert decode("a\r\nb\rc e\u0301".encode()).text == "a\nb\nc \u00e9"


@pytest.mark.parametrize("name", ["SJIS-8", "rot13", "base64", "idna", "", "a\0b"])
def test_an_unknown_encoding_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^--encoding .*: no encoding of that name: use one as"):
        check_encoding(name)
