"""The page in a browser, against a server in a process of its own.

Run by `make test-page`, with a Chromium that is there; elsewhere nothing here is collected.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = bool(os.environ.get("LONGCTX_PAGE"))
if not HERE:
    collect_ignore_glob = ["test_*.py"]


@contextmanager
def serve(store: Path, *arguments: str) -> Iterator[str]:
    """The address of `longctx serve` with the embedded model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.environ["LONGCTX_PAGE"], "serve", "--port", str(port), "--kv-budget", "512M"]
    process = subprocess.Popen([*command, "--document-store", str(store), *arguments])
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url + "ready", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, "the server ended"
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=os.environ["CHROMIUM"], args=arguments, headless=True
        )
        yield found
        found.close()


class Watched:
    """A page, what it complained of, and whom it asked."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.set_default_timeout(120_000)

    def _hear(self, message: Any) -> None:
        # Chromium logs every status above 399, which the page handles.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    @property
    def foreign(self) -> list[str]:
        return [each for each in self.asked if not each.startswith((self.url, "data:", "blob:"))]

    def wait_for(self, condition: str, seconds: float = 120.0) -> None:
        """Until it is true. (The browser's own waiting needs an eval, which the page forbids.)"""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def open(self) -> None:
        self.page.goto(self.url)
        self.wait_for("document.getElementById('model').textContent.includes('reads up to')")

    def ask(self, question: str) -> str:
        """The answer's item."""
        self.page.fill("#question", question)
        self.page.press("#question", "Control+Enter")
        self.wait_for(
            "document.getElementById('status').textContent === 'Answered.'"
            " && document.getElementById('stop').hidden"
        )
        return str(self.page.inner_text("#talk > li:last-child"))

    def hand_in(self, name: str, text: str) -> None:
        file = {"name": name, "mimeType": "text/plain", "buffer": text.encode()}
        self.page.set_input_files("#files", [file])


@pytest.fixture
def watched(browser: Any, url: str) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1240, "height": 900}, accept_downloads=True)
    found = Watched(context.new_page(), url)
    found.open()
    yield found
    context.close()
    assert found.complaints == []
    assert found.foreign == []
