"""Pictures of every size and with any name: nothing is cut off, nothing lies on anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from picture_checks import check, texts_of
from run_fakes import METHODS, all_states, four_methods, write_run

from longctx.errors import UserError
from longctx.eval.needle.summary import load
from longctx.plots import fonts, heatmap
from longctx.plots.style import Style

LONG = "models/a-model-whose-name-goes-on-" + "and-on-" * 20 + "instruct"
CHINESE = "models/通义千问"


def figure_for(*folders: Path, style: Style | None = None) -> Figure:
    return heatmap.figure_of([load(folder) for folder in folders], style or Style())


@pytest.mark.parametrize("methods", [1, 4])
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (1, 20), (21, 1), (6, 11)])
def test_grids_of_every_shape(tmp_path: Path, methods: int, columns: int, rows: int) -> None:
    folder = write_run(
        tmp_path,
        methods=METHODS[:methods],
        lengths=[256 * (step + 1) for step in range(columns)],
        depths=[round(100 * step / max(rows - 1, 1), 1) for step in range(rows)],
    )
    check(figure_for(folder), tmp_path / "a.png")


@pytest.mark.slow
def test_the_largest_grid(tmp_path: Path) -> None:
    lengths, depths = (
        [1024 * (n + 1) for n in range(21)],
        [round(100 * n / 19, 1) for n in range(20)],
    )
    folder = write_run(tmp_path, lengths=lengths, depths=depths, repeats=1)
    check(figure_for(folder), tmp_path / "a.png")
    width = imread(tmp_path / "a.png").shape[1]
    assert 8.5 / 72 * 1200 / (width / heatmap.DPI) >= 9


@pytest.mark.parametrize("lengths", [(512,), (512, 1024, 2048, 4096, 8192)])
def test_long_names_are_shortened_in_the_middle(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    methods = ["none", "a-method-with-a-name-of-its-own"]
    folder = write_run(tmp_path, methods=methods, lengths=lengths, model=LONG, text="t" * 300)
    figure = figure_for(folder)
    check(figure, tmp_path / "a.png")
    shown = [text.get_text() for text in texts_of(figure)]
    title = next(text for text in shown if text.startswith("Needle in a haystack"))
    assert "…" in title and title.endswith("instruct")


def test_names_are_no_mathematics_and_stay_on_a_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path, model="a$\\frac{x$b", text="one\ntwo\x07$y$")
    figure = figure_for(folder)
    check(figure, tmp_path / "a.png")
    shown = " | ".join(text.get_text() for text in texts_of(figure))
    assert "a$\\frac{x$b" in shown
    assert "one two $y$" in shown


def test_chinese_is_drawn_or_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, model=CHINESE, text="红楼梦.txt")
    check(figure_for(folder), tmp_path / "as-installed.png")
    monkeypatch.setattr(fonts, "fallback", lambda: None)
    figure = figure_for(folder)
    check(figure, tmp_path / "without.png")
    shown = " | ".join(text.get_text() for text in texts_of(figure))
    assert "Needle in a haystack: ▯▯▯▯" in shown
    assert fonts.undrawable("红楼 a红") == "红楼"


def test_another_font_is_used_where_the_first_lacks_a_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A font that is always there stands for one that may be installed.
    monkeypatch.setattr(fonts, "fallback", lambda: "STIXGeneral")
    missing = next(
        chr(code)
        for code in sorted(fonts._letters("STIXGeneral") - fonts._letters(fonts.BASE))
        if code > 32
    )
    assert fonts.families("abc") == (fonts.BASE,)
    assert fonts.families(missing) == (fonts.BASE, "STIXGeneral")
    assert fonts.drawable(missing) == missing


def test_fitted_text_keeps_its_ends() -> None:
    assert fonts.fitted("short", 3, 10) == "short"
    shown = fonts.fitted("beginning-" + "x" * 100 + "-end", 2, 10)
    assert shown.startswith("begin") and shown.endswith("-end") and "…" in shown
    assert fonts.width_of(shown, 10) <= 2
    assert fonts.fitted("abc", 0.01, 10) == "…"


def test_runs_lie_below_each_other_under_one_title(tmp_path: Path) -> None:
    small = write_run(tmp_path / "a", methods=["none", "dca"], lengths=(512, 1024))
    large = write_run(tmp_path / "b", all_states, model="models/large")
    figure = figure_for(small, large, style=Style(title="Small and large"))
    check(figure, tmp_path / "a.png")
    shown = [text.get_text() for text in texts_of(figure)]
    for words_shown in (
        "Small and large",
        "Needle in a haystack: small",
        "Needle in a haystack: large",
    ):
        assert words_shown in shown
    assert len(figure.subfigs) == 3


def test_one_run_takes_the_title(tmp_path: Path) -> None:
    figure = figure_for(write_run(tmp_path), style=Style(title="Mine"))
    shown = [text.get_text() for text in texts_of(figure)]
    assert "Mine" in shown and not any(text.startswith("Needle in") for text in shown)


@pytest.mark.parametrize(("annotate", "counts"), [("all", 132), ("none", 0), ("imperfect", 32)])
def test_annotate(tmp_path: Path, annotate: str, counts: int) -> None:
    folder = write_run(tmp_path, methods=["none", "dca"])
    figure = figure_for(folder, style=Style(annotate=annotate))
    shown = [text.get_text() for axes in figure.axes[:2] for text in axes.texts]
    assert sum("/" in text for text in shown) == counts


def test_a_style_knows_its_words() -> None:
    with pytest.raises(UserError, match="--style bare: not known: use full, plain or qwen2"):
        Style(kind="bare")
    with pytest.raises(UserError, match="--annotate all: --style plain shows no counts"):
        Style(annotate="all", kind="plain")
    with pytest.raises(UserError, match="--palette jet: not known: use default or classic"):
        Style("jet")
    with pytest.raises(UserError, match="--annotate some: not known: use imperfect, all or none"):
        Style(annotate="some")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("book.txt", "book.txt, seed 0, 2 samples a cell"),
        ("generated prose 1 (en), seed 0", "generated prose 1 (en), seed 0, 2 samples a cell"),
    ],
)
def test_the_subtitle_names_the_seed_once(tmp_path: Path, text: str, shown: str) -> None:
    assert heatmap.subtitle(load(write_run(tmp_path, text=text))) == shown


def test_differences_do_not_lie_on_stars(tmp_path: Path) -> None:
    check(figure_for(write_run(tmp_path, four_methods)), tmp_path / "a.png")
