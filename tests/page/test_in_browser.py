"""Read a document and ask about it, as a person does, with mouse, keyboard and a phone's width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Watched, serve

NEEDLE = "One of the special magic numbers for amber-anchor is: 7239160."
QUESTION = "What is the special magic number for amber-anchor mentioned in the provided text?"
HOSTILE = "a<img src=x onerror=alert(1)>'&.txt"


def prose(sentences: int, seed: int = 0) -> str:
    words = [
        "river",
        "stone",
        "winter",
        "garden",
        "letter",
        "morning",
        "silver",
        "window",
        "quiet",
        "harbour",
    ]
    return "".join(
        f"The {words[(at + seed) % 10]} of the {words[(3 * at + 1 + seed) % 10]} was seen "
        f"{at + seed} times. "
        for at in range(sentences)
    )


def document(sentences: int, seed: int = 0) -> str:
    half = prose(sentences // 2, seed)
    return f"{half}\n{NEEDLE}\n{half}"


def read(watched: Watched, name: str, text: str) -> None:
    page = watched.page
    watched.hand_in(name, text)
    page.click("#waiting >> text=Read it")
    page.wait_for_selector(f"#stored li[data-state=ready] >> text={name}")


def test_a_document_is_read_asked_twice_and_deleted(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    watched.hand_in("report.txt", document(300))
    page.wait_for_selector("#waiting >> text=Read it")
    assert " of 16,383 tokens" in page.inner_text("#waiting")
    page.click("#waiting >> text=Read it")
    page.wait_for_selector("#stored li[data-state=ready]")
    assert page.inner_text("#waiting") == ""
    assert "on the disk" in page.inner_text("#stored")
    assert page.inner_text("#asked-about") == "About report.txt."
    page.click("summary")
    page.fill("#most", "40")
    first = watched.ask(QUESTION)
    assert "tokens read" in first
    answer = page.inner_text("#talk > li:last-child .text >> nth=1")
    page.click("#clear")
    again = watched.ask(QUESTION)
    assert answer and page.inner_text("#talk > li:last-child .text >> nth=1") == answer
    read_tokens, reused = (
        int(part.split()[0].replace(",", "")) for part in again.split("\n")[-1].split(" · ")[:2]
    )
    assert reused >= read_tokens - 40  # the question alone is new
    with page.expect_download() as download:
        page.click("#export")
    saved = Path(download.value.path()).read_text(encoding="utf-8")
    assert saved.startswith(f"## {QUESTION}") and answer in saved
    page.reload()
    page.wait_for_selector("#stored li")
    assert answer in page.inner_text("#talk")
    page.click("#stored >> text=Delete")
    page.wait_for_selector("#none-stored", state="visible")


def test_the_places_of_an_answers_words_are_shown(watched: Watched) -> None:
    """Of an answer that is known, which the embedded model may not give."""
    page = watched.page
    read(watched, "places.txt", document(40))
    events = (
        {"choices": [{"delta": {"content": "The special magic number "}}]},
        {"choices": [{"delta": {"content": "for amber-anchor is: 7239160, as it says."}}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
    )
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=stream),
    )
    watched.ask(QUESTION)
    page.wait_for_selector("#talk .places mark")
    assert page.inner_text("#talk .places mark >> nth=0") == "for amber-anchor is: 7239160"
    assert "places.txt, line 2 (at 5" in page.inner_text("#talk .places li >> nth=0")
    page.click("#stored >> text=Delete")
    page.wait_for_selector("#none-stored", state="visible")


def test_a_reading_goes_on_after_a_reload_and_can_be_cancelled(watched: Watched) -> None:
    page = watched.page
    watched.hand_in("long.txt", document(900, seed=1))
    page.click("#waiting >> text=Read it")
    page.wait_for_selector("#stored progress")
    page.reload()
    page.wait_for_selector("#stored li")
    page.wait_for_selector("#stored li[data-state=ready]")
    watched.hand_in("other.txt", document(900, seed=2))
    page.click("#waiting >> text=Read it")
    page.click("#stored >> text=Cancel")
    watched.wait_for("!document.getElementById('stored').innerText.includes('other.txt')")
    page.click("#stored >> text=Delete")
    page.wait_for_selector("#none-stored", state="visible")


def test_what_cannot_be_read_says_why(watched: Watched) -> None:
    page = watched.page
    watched.hand_in("too long.txt", prose(4000))
    page.wait_for_selector("#waiting >> text=too long by")
    assert (
        "would fit" in page.inner_text("#waiting") and page.query_selector("text=Read it") is None
    )
    page.click("#waiting >> text=Leave out")
    binary = {"name": "a.bin", "mimeType": "application/octet-stream", "buffer": b"\0\1\xff" * 50}
    page.set_input_files("#files", [binary])
    page.wait_for_selector("#waiting .over-limit")
    assert "a.bin" in page.inner_text("#waiting")


def test_names_and_texts_stay_text(watched: Watched) -> None:
    page = watched.page
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    watched.hand_in(HOSTILE, "<script>alert(1)</script><b>bold</b> " + document(30))
    page.click("#waiting >> text=Read it")
    page.wait_for_selector("#stored li[data-state=ready]")
    assert HOSTILE in page.inner_text("#stored")
    watched.ask("<img src=x onerror=alert(2)>")
    assert "<img src=x onerror=alert(2)>" in page.inner_text("#talk")
    assert page.query_selector("#talk img, #stored img, #stored b") is None
    page.click("#stored >> text=Delete")
    page.wait_for_selector("#none-stored", state="visible")


def test_pasted_text_is_a_document_by_keyboard_alone(watched: Watched) -> None:
    page = watched.page
    page.focus("#paste")
    page.keyboard.press("Enter")
    page.keyboard.type("Only a few words here. ")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#waiting >> text=Read it")
    page.keyboard.press("Enter")  # the button has the focus
    page.wait_for_selector("#stored li[data-state=ready]")
    watched.wait_for("document.activeElement.id === 'question'")
    page.click("#stored >> text=Delete")
    page.wait_for_selector("#none-stored", state="visible")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1240, 390])
def test_it_is_accessible_and_fits_a_phone(watched: Watched, scheme: Any, width: int) -> None:
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    read(watched, "small.txt", document(20))
    watched.hand_in("too long.txt", prose(4000))
    page.wait_for_selector("#waiting >> text=too long by")
    page.click("summary")
    page.click("#paste")
    found = [
        (each["id"], [node["target"] for node in each["nodes"]])
        for each in Axe().run(page).response["violations"]
    ]
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#stored >> text=Delete")
    page.wait_for_selector("#none-stored", state="visible")


def test_the_key_is_asked_for_and_kept(browser: Any, tmp_path: Path) -> None:
    with serve(tmp_path / "store", "--api-key", "right") as url:
        watched = Watched(browser.new_page(), url)
        page = watched.page
        page.goto(url)
        for given in ("wrong", "right"):
            page.wait_for_selector("#key", state="visible")
            page.fill("#key", given)
            page.press("#key", "Enter")
        page.wait_for_selector("#none-stored", state="visible")
        watched.wait_for("document.getElementById('model').textContent.includes('reads')")
        page.reload()
        watched.wait_for("document.getElementById('model').textContent.includes('reads')")
        assert not page.is_visible("#key")
        assert watched.complaints == [] and watched.foreign == []
        page.close()
