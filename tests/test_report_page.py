"""The report in a real browser: no request, no complaint, pointer, keyboard, dark, paper."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from run_fakes import window, write_run

from longctx.plots.look import Look
from longctx.report.collect import collect
from longctx.report.page import render

PROGRAM = browser.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on the PATH to open the page with"),
]
HOSTILE = "</script><img src=http://localhost:9/x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    folder = tmp_path_factory.mktemp("report")
    first = write_run(folder / "a", answer=HOSTILE, text=HOSTILE, prompts="a")
    second = write_run(folder / "b", window(1024), methods=["none"], model="m/b", prompts="a")
    file = folder / "report.html"
    report = collect([first, second])
    file.write_text(render(report, Look(), date="2026-11-25", command="longctx report a b"))
    assert PROGRAM is not None
    with browser.Browser(PROGRAM, folder / "profile") as opened:
        opened.open(file)
        yield opened


def tip(page: browser.Browser) -> str | None:
    shown = (
        "document.getElementById('tip').hidden ? null : document.getElementById('tip').innerText"
    )
    found = page.evaluate(shown)
    return None if found is None else str(found)


def test_the_page_asks_nobody_and_complains_about_nothing(page: browser.Browser) -> None:
    assert [url.split(":")[0] for url in page.requests] == ["file"]
    assert page.complaints == []
    assert page.evaluate("document.title").startswith("Needle in a haystack")
    assert page.evaluate("document.images.length") == 0


def test_the_policy_is_in_force(page: browser.Browser) -> None:
    page.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); s.remove(); })()"
    )
    assert page.evaluate("window.ran === undefined")
    page.complaints.clear()  # the one just provoked


def test_the_pointer_shows_what_was_answered_as_text(page: browser.Browser) -> None:
    x, y = page.evaluate(
        "(() => { const c = document.querySelector('#arm-0 .cell:nth-of-type(5)');"
        " c.scrollIntoView({block: 'center', behavior: 'instant'});"
        " const r = c.getBoundingClientRect(); return [r.x + 6, r.y + 6]; })()"
    )
    page.point(x, y)
    shown = tip(page)
    assert shown is not None
    assert HOSTILE in shown
    assert "results.jsonl line" in shown and "needle" in shown and "recipe" in shown
    assert page.evaluate("document.images.length") == 0
    page.point(2, 2)
    assert tip(page) is None


def test_the_keyboard_walks_over_a_map(page: browser.Browser) -> None:
    place = "document.activeElement.dataset.place"
    page.evaluate("document.querySelector('#arm-1 .cell').focus()")
    assert page.evaluate(place) == "1/256/0"
    shown = tip(page)
    assert shown is not None and shown.startswith("256 at 0%: 2 of 2 found")
    for key, expected in (
        ("ArrowRight", "1/512/0"),
        ("ArrowDown", "1/512/10"),
        ("End", "1/8192/10"),
        ("ArrowRight", "1/8192/10"),
    ):
        page.press(key)
        assert page.evaluate(place) == expected
    assert page.evaluate("document.querySelectorAll('#arm-1 .cell[tabindex=\"0\"]').length") == 1
    page.press("Enter")
    page.point(2, 2)
    shown = tip(page)
    assert shown is not None and shown.startswith("8K at 10%")
    page.press("Escape")
    assert tip(page) is None


def test_dark_and_paper(page: browser.Browser, tmp_path: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page.media(dark=True)
    dark = page.evaluate(colour)
    page.media()
    assert dark != page.evaluate(colour)
    page.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_sticks_out_at_any_width(page: browser.Browser, width: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride",
        **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    time.sleep(0.1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")
