"""A folder of code as one document: which files, in which order, and what is skipped."""

from __future__ import annotations

from pathlib import Path

import pdf_fakes
import pytest

from longctx.reading import ReadingError, folder, read_document
from longctx.reading.folder import ignored, rule_of


def write(root: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    write(
        root,
        b_DOT_py="\nsecond = 2\n",
        a__z_DOT_py="first = 1\n",
        a__page_DOT_html="<p>source</p>\n",
        a__logo_DOT_bin=b"\0\1\2",
        a__empty_DOT_py="\n",
        a__bad_DOT_txt="\u5c71".encode()[:2] + "\u5c71\u5ddd".encode() * 9,
        build__out_DOT_py="no\n",
        deep__notes_DOT_log="no\n",
        deep__keep_DOT_log="kept\n",
        node_modules__x_DOT_js="no\n",
        _DOT_git__config="no\n",
        _DOT_gitignore="/build/\n*.log\n!keep.log\n",
    )
    (root / "c.pdf").write_bytes(pdf_fakes.pdf(["page one", "page two"]))
    (root / "again.py").symlink_to(root / "b.py")
    (root / "loop").symlink_to(root)
    (root / "passwd").symlink_to("/etc/passwd")
    return root


def test_files_stand_under_their_paths_in_order(code: Path) -> None:
    found = read_document(code, "code/")
    assert found.text == (
        "## a/page.html\n\n<p>source</p>\n\n"
        "## a/z.py\n\nfirst = 1\n\n"
        "## again.py\n\nsecond = 2\n\n"
        "## b.py\n\nsecond = 2\n\n"
        "## c.pdf\n\npage one\n\npage two\n\n"
        "## deep/keep.log\n\nkept"
    )
    assert found.notes[0] == "6 files"
    assert found.notes[1] == (
        "skipped: 1 binary, 1 empty, 1 folders ignored by .gitignore, 1 hidden, "
        "1 ignored by .gitignore, 2 links that lead elsewhere"
    )
    assert found.notes[2].startswith("skipped a/bad.txt: UTF-8 but for a bad byte")


def test_places_are_those_of_the_files(code: Path) -> None:
    found = read_document(code, "code")
    at = found.text.index("## b.py") + len("## b.py\n\nsec")
    assert str(found.place(at)) == "code/b.py:2"
    assert str(found.place(found.text.index("page two"))) == "code/c.pdf, page 2"


def test_a_second_reading_is_equal(code: Path) -> None:
    assert read_document(code, "code") == read_document(code, "code")


def test_folders_without_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReadingError, match="x: holds no file with text: name files"):
        read_document(tmp_path, "x")
    write(tmp_path, a="x\n", b="y\n")
    monkeypatch.setattr(folder, "MOST_FILES", 1)
    with pytest.raises(ReadingError, match="holds more than 1 files: name a folder below it"):
        read_document(tmp_path, "x")


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        ("*.log", "a/b.log", True),
        ("/*.log", "a/b.log", False),
        ("a/*.log", "a/b.log", True),
        ("a/*.log", "x/a/b.log", False),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/b", True),
        ("**/b", "x/b", True),
        ("a/**", "a/x/y", True),
        ("*.log\n!keep.log", "keep.log", False),
        ("!keep.log\n*.log", "keep.log", True),
        ("# *.log", "b.log", False),
        (r"\#a", "#a", True),
        ("build/", "build", False),
        ("[ab].py", "b.py", True),
        ("[!ab].py", "b.py", False),
        ("x.py  ", "x.py", True),
        ("*a" * 40, "a" * 200 + "b", False),
    ],
)
def test_gitignore(lines: str, path: str, expected: bool) -> None:
    rules = [rule for line in lines.splitlines() if (rule := rule_of(line)) is not None]
    assert ignored(path, False, rules) is expected


def test_rules_hold_below_their_folder(tmp_path: Path) -> None:
    write(tmp_path, x__a="kept\n", x__b="no\n", b="kept too\n", x___DOT_gitignore="b\n/y/\n")
    write(tmp_path, x__y__a="no\n")
    assert read_document(tmp_path, "t").text == "## b\n\nkept too\n\n## x/a\n\nkept"
