"""Documents over HTTP: kept, listed, deleted, and asked; answers are those without a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serve_helpers import (
    ANSWER_PREFIX,
    CHAT,
    NEEDLE,
    QUESTION,
    Served,
    long_text,
    served,
    wait_for,
)

from longctx.documents.documents import HEAD_ROOM
from longctx.documents.prompt import part_of
from longctx.engine import EngineRequest

DOCUMENTS = "/v1/documents"
METHODS = ("dca", "yarn+dca")


def text_of(tokens: int, seed: int = 0) -> str:
    """Prose with the needle in its middle."""
    prose = long_text(tokens, seed)
    at = prose.index(". ", len(prose) // 2) + 2
    return f"{prose[:at]}{NEEDLE} {prose[at:]}"


def add(server: Served, text: str, name: str = "report.txt") -> dict[str, Any]:
    status, _, told = server.call(DOCUMENTS, {"text": text, "name": name})
    assert status == 200, told
    wait_for(lambda: get(server, told["id"])["state"] in ("ready", "failed"))
    return get(server, told["id"])


def get(server: Served, id: str) -> dict[str, Any]:
    status, _, told = server.call(f"{DOCUMENTS}/{id}")
    assert status == 200, told
    return told


def question(**options: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER_PREFIX},
    ]
    if system := options.pop("system", None):
        messages.insert(0, {"role": "system", "content": system})
    return {
        "messages": messages,
        "max_tokens": 12,
        "temperature": 0,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "logprobs": True,
        **options,
    }


def ask(server: Served, ids: list[str] | None = None, **options: Any) -> tuple[Any, Any]:
    """The answer's tokens, and what the prompt cost."""
    body = question(**options) if ids is None else question(document_ids=ids, **options)
    status, _, told = server.call(CHAT, body)
    assert status == 200, told
    found = [one["token"] for one in told["choices"][0]["logprobs"]["content"]]
    return found, told["usage"]["prompt_tokens_details"]


@pytest.fixture(params=METHODS)
def method(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_document_is_kept_listed_asked_and_deleted(store: Path) -> None:
    with served(document_store=store) as server:
        text = text_of(1500)
        told = add(server, text)
        assert told["state"] == "ready" and told["persistent"] and told["reason"] is None
        assert told["progress"] == {"total": told["tokens"], "processed": told["tokens"]}
        assert told["tokens"] == told["stored_tokens"] > 1400
        assert told["characters"] == len(text)
        _, _, listed = server.call(DOCUMENTS)
        assert [each["id"] for each in listed["data"]] == [told["id"]]
        answer, cost = ask(server, [told["id"]])
        assert "7239160" in "".join(answer)
        assert cost["document_tokens"] == told["tokens"]
        assert cost["cached_tokens"] >= told["tokens"] and cost["recomputed_tokens"] == 0
        assert add(server, text)["id"] == told["id"]
        status, _, gone = server.call(f"{DOCUMENTS}/{told['id']}", method="DELETE")
        assert status == 200 and gone["deleted"]
        assert server.error(f"{DOCUMENTS}/{told['id']}", None)[0] == 404
        status, error = server.error(CHAT, question(document_ids=[told["id"]]))
        assert (status, error["code"], error["param"]) == (
            404,
            "document_not_found",
            "document_ids",
        )
        assert {path.name for path in store.iterdir()} == {".lock", "weights.json"}


def test_the_second_question_after_a_restart_is_answered_as_without_a_store(
    store: Path, method: str
) -> None:
    """Token by token, with another system text, and on two documents."""
    first, second = ("a.txt", text_of(1200)), ("b.txt", long_text(700, seed=3))
    systems = (None, "Be brief.", "Answer in one word, and only if you are sure of it.")
    with served(document_store=store, method=method) as server:
        ids = [add(server, text, name)["id"] for name, text in (first, second)]
        ask(server, [ids[0]])
    with served(document_store=store, method=method) as server:
        again = [ask(server, [ids[0]], system=system) for system in systems]
        tokens = get(server, ids[0])["tokens"]
        both = [ask(server, ids, system="Be brief."), ask(server, ids[::-1])]
    for _, cost in again:
        assert cost["cached_tokens"] >= tokens and cost["recomputed_tokens"] == 0
    for _, cost in both:
        assert cost["recomputed_tokens"] > 0 and cost["recomputed_why"] == "several_documents"
    if method == "dca":  # no temperature: the first document's keys are those of any prompt
        assert both[0][1]["cached_tokens"] >= tokens
    with served(method=method) as server:  # knows of no documents
        fresh = [computed(server, [first], system) for system in systems]
        fresh += [computed(server, [first, second], "Be brief."), computed(server, [second, first])]
    assert [answer for answer, _ in (*again, *both)] == fresh


def computed(
    server: Served, documents: list[tuple[str, str]], system: str | None = None
) -> list[str]:
    """What the engine answers to the same prompt by itself, nothing cached."""
    renderer, engine = server.service.renderer, server.service.engine
    parts: list[int] = []
    for at, (name, text) in enumerate(documents):
        parts += renderer.encode_text("\n\n") if at else []
        parts += renderer.encode_text(part_of(name, text))
    tail = renderer.encode_text(f"\n\n{system}") if system else []
    messages = [{"role": "system", "content": "HERE"}, *question()["messages"]]
    around = renderer.encode(messages, continue_final=True, inserted={"HERE": [-1]})
    at = around.index(-1)
    prompt = [*around[:at], *parts, *tail, *around[at + 1 :]]
    length = max(len(prompt), at + len(parts) + HEAD_ROOM)
    request = EngineRequest(prompt, max_new_tokens=12, share_prefix=False, request_length=length)
    found = engine.submit(request).result(60).token_ids
    return [server.service.text.of(token)[0] for token in found]
