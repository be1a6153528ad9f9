"""The page at `/`: one file that loads nothing and runs nothing but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from serve_helpers import Served, served

from longctx.serve.page.page import page

PREVIEW = "/v1/documents/preview"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(document_store=tmp_path_factory.mktemp("store")) as found:
        yield found


def form(name: str, data: bytes, kind: str = "text/plain") -> tuple[bytes, dict[str, str]]:
    body = (
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    ).encode()
    return body + data + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def preview(server: Served, name: str, data: bytes, kind: str = "text/plain") -> tuple[int, Any]:
    body, headers = form(name, data, kind)
    status, _, told = server.call(PREVIEW, body, headers=headers)
    return status, told


def test_the_file_is_whole_and_names_nobody_else() -> None:
    text = page().body.decode()
    assert "{{" not in text and text.startswith("<!doctype html>")
    assert not re.findall(r"https?://", text)
    assert not re.findall(r"\s(?:src|action|on[a-z]+)\s*=\s*[\"']", text)
    assert re.findall(r'href="([^"]*)"', text) == ["data:,", "#question"]
    assert ".innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text


def test_its_policy_allows_its_own_style_and_script_alone() -> None:
    text, policy = page().body.decode(), page().headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'" and rules["frame-ancestors"] == "'none'"
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_every_field_has_a_label_and_every_id_is_there_once() -> None:
    text = page().body.decode()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    labelled = set(re.findall(r'<label[^>]* for="([^"]+)"', text))
    fields = set(re.findall(r'<(?:input|textarea)[^>]* id="([^"]+)"', text))
    assert fields <= labelled
    asked = set(re.findall(r'byId\("([^"]+)"\)', text))
    assert asked <= set(ids)


def test_it_is_served_to_who_has_no_key_and_nothing_else_is() -> None:
    with served(api_key="right") as server:
        status, headers, text = server.call("/")
        assert status == 200 and text == page().body.decode()
        assert headers["content-type"].startswith("text/html")
        assert headers["content-security-policy"] == page().headers["Content-Security-Policy"]
        assert server.error("/v1/documents", None)[0] == 401
        assert server.error("/", None, headers={"Host": "elsewhere.example"})[0] == 403


def test_a_preview_tells_the_size_and_keeps_nothing(server: Served) -> None:
    text = "A line of text. " * 50
    status, told = preview(server, "a.txt", text.encode())
    assert status == 200 and told["object"] == "document.preview"
    assert (told["name"], told["characters"]) == ("a.txt", len(text))
    assert told["max_tokens"] == server.service.engine.max_context - 1
    assert server.call("/v1/documents")[2]["data"] == []
    status, _, added = server.call("/v1/documents", {"text": text, "name": "a.txt"})
    assert status == 200 and added["progress"]["total"] == told["tokens"]
    status, headers, content = server.call(f"/v1/documents/{added['id']}/content")
    assert (status, content) == (200, text)
    assert headers["content-type"].startswith("text/plain")
    assert headers["x-content-type-options"] == "nosniff"
    assert server.call(f"/v1/documents/{added['id']}", method="DELETE")[0] == 200
    status, error = server.error(f"/v1/documents/{added['id']}/content", None)
    assert (status, error["code"]) == (404, "document_not_found")


def test_a_preview_expects_a_time_before_any_prompt_was_read() -> None:
    """Marked as the estimate that it is, until prompts were measured."""
    with served() as server:
        text = ("A line of text. " * 400).encode()
        _, first = preview(server, "a.txt", text)
        assert first["seconds"] > 0 and first["seconds_estimated"]
        assert first["tokens_per_second"] is None
        _, less = preview(server, "a.txt", text[: len(text) // 2])
        assert 0 < less["seconds"] < first["seconds"]
        said = {"messages": [{"role": "user", "content": "word " * 400}], "max_tokens": 1}
        assert server.call("/v1/chat/completions", said)[0] == 200
        _, later = preview(server, "a.txt", text)
        assert later["seconds"] == pytest.approx(
            later["tokens"] / later["tokens_per_second"], abs=0.01
        )
        assert not later["seconds_estimated"]


def test_a_preview_of_what_is_too_long_tells_by_how_much(server: Served) -> None:
    status, told = preview(server, "long.txt", b"word " * 40_000)
    assert status == 200 and told["tokens"] > told["max_tokens"]


def test_a_preview_reads_pages_and_refuses_what_is_no_text(server: Served) -> None:
    html = b"<html><script>x()</script><h1>Title</h1><p>One &amp; two</p></html>"
    status, told = preview(server, "page.html", html, "text/html")
    assert status == 200 and told["characters"] == len("# Title\n\nOne & two"), told
    for data in (b"\0\1\2\xff\xfe" * 9, b"", b"%PDF-1.7\nnothing"):
        status, told = preview(server, "a.bin", data, "application/octet-stream")
        assert (status, told["error"]["code"]) == (400, "unreadable_document")
        assert "\n" not in told["error"]["message"]
