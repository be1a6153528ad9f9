"""Documents of one length, from files and generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from longctx.errors import UserError
from longctx.eval.texts import corpus, prose


def by_character(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """A token for every byte, as byte-level vocabularies do with rare characters."""
    found = [(byte, (i, i + 1)) for i, char in enumerate(text) for byte in char.encode()]
    return [byte for byte, _ in found], [span for _, span in found]


def write(directory: Path, **texts: str) -> str:
    for name, text in texts.items():
        (directory / f"{name}.txt").write_text(text)
    return str(directory)


def test_beginnings_come_first_and_short_texts_are_left_out(tmp_path: Path) -> None:
    pattern = write(tmp_path, a="abcdefghij", b="klm", c="nopqrstu")
    found = corpus.load(pattern, 4, 3, by_character)
    assert [bytes(d.ids) for d in found.documents] == [b"abcd", b"nopq", b"efgh"]
    assert [d.id for d in found.documents] == ["a.txt", "c.txt", "a.txt from token 4"]
    assert (found.left_out, len(found.sources.files)) == (1, 3)
    everything = corpus.load(pattern, 4, 99, by_character).documents
    assert [bytes(d.ids) for d in everything] == [b"abcd", b"nopq", b"efgh", b"rstu"]


def test_the_bytes_of_a_character_are_counted_once(tmp_path: Path) -> None:
    (document,) = corpus.load(write(tmp_path, a="x山y"), 5, 1, by_character).documents
    assert document.bytes == [1, 3, 0, 0, 1]


def test_too_short_a_text_says_how_many_of_how_many(tmp_path: Path) -> None:
    pattern = write(tmp_path, a="abc")
    with pytest.raises(UserError, match=r"--text a\.txt: it has 3 of 4 tokens .*add text"):
        corpus.load(str(tmp_path / "a.txt"), 4, 1, by_character)
    write(tmp_path, b="d")
    with pytest.raises(UserError, match=r"\(2 files\): its longest file has 3 of 4 tokens"):
        corpus.load(pattern, 4, 1, by_character)


def test_generated_documents_are_beginnings_of_prose() -> None:
    for seed, seeds in ((0, (1, 2)), (3, (7, 8))):
        made = corpus.generate(3000, 2, seed, by_character)
        assert made.id == f"generated prose 1 (en), seeds {seeds[0]} to {seeds[1]}"
        for document, each in zip(made.documents, seeds, strict=True):
            assert bytes(document.ids) == prose.haystack(64, each).text.encode()[:3000]
            assert document.id == f"generated prose 1 (en), seed {each}"
    assert corpus.generate(64, 1, 0, by_character).id == "generated prose 1 (en), seed 1"
