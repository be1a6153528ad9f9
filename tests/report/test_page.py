"""The report in a real browser: no request, no complaint, pointer, keyboard, dark, paper."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from run_fakes import same_model, window, write_perplexity, write_run

from longctx.plots.style import Style
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
    first = same_model(write_run(folder / "a", answer=HOSTILE, text=HOSTILE, prompts="a"))
    second = write_run(folder / "b", window(1024), methods=["none"], model="m/b", prompts="a")
    file = folder / "report.html"
    report = collect([first, second, write_perplexity(folder / "ppl", text=HOSTILE)])
    file.write_text(render(report, Style(), date="2026-11-25", command="longctx report a b"))
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


def test_the_keyboard_walks_over_a_difference(page: browser.Browser) -> None:
    """A cell of `yarn - none` tells what both answered, each under its name."""
    first = "#differences svg.map .cell"
    page.evaluate(f"document.querySelector('{first}').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.place") == "0/1024/0 1/1024/0"
    shown = tip(page)
    assert shown is not None and shown.startswith("1K at 0%: +2 of 2")
    arms = page.evaluate("[...document.querySelectorAll('#tip h5')].map(one => one.textContent)")
    assert arms == ["small · none", "small · yarn"]
    assert shown.count("sample 1: miss") == shown.count("sample 1: ok") == 1
    assert HOSTILE in shown and page.evaluate("document.images.length") == 0
    page.press("Escape")
    assert tip(page) is None


# The contrast of all text that is shown, with the first few characters; text on the colours of a
# scale is not here: tests/plots/test_heatmap.py has it for every score.
CONTRASTS = """
(() => {
  for (const one of document.querySelectorAll('details')) one.open = true;
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((c) => c / 255).map(
      (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = channels(getComputedStyle(one).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const told = [];
  for (const one of document.querySelectorAll('body *')) {
    const text = [...one.childNodes].filter((node) => node.nodeType === 3).map(
      (node) => node.data).join('').trim();
    if (!text || one.matches('script, style, title, tspan[fill]')) continue;
    if (!one.checkVisibility()) continue;
    const style = getComputedStyle(one);
    const ink = channels(one instanceof SVGElement ? style.fill : style.color);
    const pair = [luminance(ink), luminance(behind(one))].sort((a, b) => b - a);
    told.push([(pair[0] + 0.05) / (pair[1] + 0.05), text.slice(0, 30)]);
  }
  return told;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read(page: browser.Browser, dark: bool) -> None:
    page.evaluate("document.querySelector('#arm-0 .cell').focus()")  # with what it opens
    page.media(dark=dark)
    found = page.evaluate(CONTRASTS)
    page.media()
    page.press("Escape")
    assert len(found) > 500
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_dark_and_paper(page: browser.Browser, tmp_path: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page.media(dark=True)
    dark = page.evaluate(colour)
    page.media()
    assert dark != page.evaluate(colour)
    page.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_what_does_not_differ_is_quiet_in_the_dark(page: browser.Browser) -> None:
    colour = "getComputedStyle(document.querySelector('.cell .even')).fill"
    assert page.evaluate(colour) == "rgb(247, 247, 245)"
    page.media(dark=True)
    dark = page.evaluate(colour)
    page.media()
    assert max(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 80


@pytest.mark.parametrize("width", [360, 500])
def test_captions_wrap_where_the_table_is_wider(page: browser.Browser, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    time.sleep(0.1)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    ends = page.evaluate(
        "[...document.querySelectorAll('caption')].map(one => one.getBoundingClientRect().right)"
    )
    wider = page.evaluate("document.querySelector('table.summary').getBoundingClientRect().right")
    page.call("Emulation.clearDeviceMetricsOverride")
    assert max(ends) <= width < wider


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_sticks_out_at_any_width(page: browser.Browser, width: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride",
        **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    time.sleep(0.1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")
