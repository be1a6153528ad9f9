"""Documents over HTTP: kept, listed, deleted, and asked; answers are those without a store."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
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

from longctx import tiny
from longctx.attention.rope import temperature_bucket
from longctx.chat.documents import HEAD_ROOM, part_of
from longctx.documents import disk
from longctx.documents.prompt import prefix_of
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


def test_after_a_restart_keys_in_int8_are_mapped_and_answer_as_before(store: Path) -> None:
    text, options = text_of(1200), {"method": "yarn+dca", "kv_dtype": "int8"}
    with served(document_store=store, **options) as server:
        id = add(server, text, "a.txt")["id"]
        before = ask(server, [id])[0]
        told = get(server, id)
        per_token = server.service.engine._scheduler.pool.bytes_per_token
        assert told["bytes"] < told["tokens"] * (per_token + 4) + 8192  # numbers, scales, ids
    with served(document_store=store, **options) as server:
        after, cost = ask(server, [id])
        assert cost["cached_tokens"] >= told["tokens"] and cost["recomputed_tokens"] == 0
        assert before == after == computed(server, [("a.txt", text)])


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


# -- what is never reused --------------------------------------------------------------------------


def test_questions_up_to_the_head_room_find_the_keys(store: Path) -> None:
    """On a document one token below the edge of a bucket, where each would fall behind it."""
    edge = temperature_bucket(1400, 512)
    with served(document_store=store, method="yarn+dca") as server:
        text = document_of(server, edge - 1)
        told = add(server, text, "a")
        assert told["tokens"] == edge - 1
        engine, asked = server.service.engine, []
        for words in (1, 30, 500, 1024, 1500):
            messages = [{"role": "user", "content": tokens_of(server, words)}]
            body = question(messages=messages, document_ids=[told["id"]])
            body |= {"continue_final_message": False, "add_generation_prompt": True}
            status, _, found = server.call(CHAT, body)
            assert status == 200, found
            usage = found["usage"]
            asked.append((usage["prompt_tokens"] - told["tokens"], usage["prompt_tokens_details"]))
        assert engine.bucket(edge - 1 + asked[0][0]) != engine.bucket(edge - 1)
        for length, cost in asked:
            if length <= HEAD_ROOM or edge - 1 + length <= engine.bucket(edge - 1 + HEAD_ROOM):
                assert (cost["recomputed_tokens"], "recomputed_why" in cost) == (0, False)
            else:
                assert cost["recomputed_tokens"] == edge - 1
                assert cost["recomputed_why"] == "temperature_bucket"
        assert asked[3][0] > 1024 >= asked[2][0] and "recomputed_why" in asked[-1][1]


def tokens_of(server: Served, count: int) -> str:
    """A text of so many tokens."""
    encode = server.service.renderer.encode_text
    ids = encode(long_text(count + 50, seed=5))[:count]
    text = str(server.service.tokenizer.decode(ids))
    assert abs(len(encode(text)) - count) <= 2
    return text


def document_of(server: Served, tokens: int) -> str:
    """A document whose prefix has so many tokens."""
    renderer = server.service.renderer
    words = long_text(tokens + 100, seed=2).split(" ")

    def size(text: str) -> int:
        return len(renderer.encode_text(part_of("a", text)))

    part = np.asarray(renderer.encode_text(part_of("a", "x")), dtype=np.int64)
    wanted = tokens - (len(prefix_of(renderer, part)) - len(part))
    low, high = 0, len(words)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(" ".join(words[:middle])) <= wanted else (low, middle)
    near = (
        " ".join(words[:count]) + tail
        for count in range(low, low - 40, -1)
        for tail in ("", "!", "1", "?!", "12", "123", "1234", "?!?!1")
    )
    return next(text for text in near if size(text) == wanted)


def test_a_prefill_that_was_cut_goes_on_after_a_restart(store: Path) -> None:
    text = text_of(3000)
    with served(document_store=store, chunk_budget=64) as server:
        _, _, told = server.call(DOCUMENTS, {"text": text, "name": "a"})
        wait_for(lambda: get(server, told["id"])["stored_tokens"] >= 512)
    with served(document_store=store) as server:
        before = get(server, told["id"])
        assert 512 <= before["stored_tokens"] < told["tokens"] and not before["persistent"]
        answer, _ = ask(server, [told["id"]])
        wait_for(lambda: get(server, told["id"])["state"] == "ready")
        after = get(server, told["id"])
        assert after["persistent"] and after["stored_tokens"] == told["tokens"]
        computed_tokens = server.service.engine.stats().counts.prompt_tokens
        assert computed_tokens < told["tokens"] - before["stored_tokens"] + 200
        assert answer == computed(server, [("a", text)])


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["method", "chunk size", "dtype", "int8", "weight", "bucket"])
def test_what_was_computed_otherwise_is_computed_again(
    store: Path, tmp_path: Path, changed: str
) -> None:
    text = text_of(1100)
    with served(document_store=store, method="yarn+dca") as server:
        id = add(server, text, "a")["id"]
    options: dict[str, Any] = {"method": "yarn+dca"}
    if changed == "method":
        options["method"] = "dca"
    elif changed == "chunk size":
        options |= {"chunk_size": 256, "local_size": 32}
    elif changed in ("dtype", "int8"):
        options["kv_dtype"] = "bfloat16" if changed == "dtype" else changed
    elif changed == "bucket":
        options["original_length"] = 500
        options |= {"chunk_size": 500, "local_size": 64}
    else:
        options["model"] = str(shutil.copytree(tiny.WEIGHTS, tmp_path / "model"))
        one_weight_changed(Path(options["model"]))
    with served(document_store=store, **options) as server:
        assert get(server, id)["stored_tokens"] > 0  # as long as nobody has asked
        answer, cost = ask(server, [id])
        wait_for(lambda: get(server, id)["state"] == "ready")
        assert get(server, id)["persistent"]
        counts = server.service.engine.stats().counts
        assert counts.prompt_tokens >= cost["document_tokens"]
        assert answer == computed(server, [("a", text)])


def one_weight_changed(model: Path) -> None:
    (file,) = model.glob("*.safetensors")
    weights = load_file(file)
    name = next(each for each in weights if "layers.0" in each and "v_proj.weight" in each)
    weights[name][0, 0] += 0.5
    save_file(weights, file, metadata={"format": "pt"})


# -- where nothing can be stored -------------------------------------------------------------------


def test_on_a_full_disk_documents_are_answered_and_told_not_to_be_persistent(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(1100)
    with served(document_store=store) as server:
        write, room = disk.write, 200_000

        def full(file: Any, data: Any) -> None:
            nonlocal room
            room -= memoryview(data).nbytes
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, data)

        monkeypatch.setattr(disk, "write", full)
        told = add(server, text, "a")
        assert told["state"] == "ready" and not told["persistent"]
        assert "No space left" in told["reason"]
        answer, _ = ask(server, [told["id"]])
        assert answer == computed(server, [("a", text)])
        other = add(server, "another text", "b")  # not even its text
        assert not other["persistent"] and "No space left" in other["reason"]
        monkeypatch.undo()
        assert add(server, "a third text", "c")["persistent"]


def test_where_the_store_cannot_be_used_the_server_starts_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with served(document_store=tmp_path / "file" / "store") as server:
        told = add(server, text_of(600), "a")
        assert told["state"] == "ready" and not told["persistent"]
        assert "cannot be used" in told["reason"]
        assert "7239160" in "".join(ask(server, [told["id"]])[0])
        assert server.call(DOCUMENTS)[2]["data"][0]["id"] == told["id"]


# -- what is sent ----------------------------------------------------------------------------------


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xyz") -> tuple[bytes, str]:
    raw = b""
    for name, filename, data in parts:
        said = f'Content-Disposition: form-data; name="{name}"'
        said += "" if filename is None else f'; filename="{filename}"'
        raw += f"--{boundary}\r\n{said}\r\n\r\n".encode() + data + b"\r\n"
    return raw + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def send(server: Served, raw: bytes, kind: str, **headers: str) -> tuple[int, Any]:
    given = {"Content-Type": kind, **headers}
    status, _, told = server.call(DOCUMENTS, raw, headers=given)
    return status, told


def test_a_file_is_taken_as_a_form_sends_it(server: Served) -> None:
    raw, kind = form(("file", "../../etc/<b>.md", b"\xef\xbb\xbf# Title\r\n\r\n--xy text\r\n"))
    status, told = send(server, raw, kind, Origin=server.url)
    assert status == 200 and told["name"] == "../../etc/<b>.md"
    assert told["characters"] == len("# Title\n\n--xy text\n")
    named, _ = form(("name", None, b"mine"), ("file", "a.txt", b"some text"))
    assert send(server, named, kind)[1]["name"] == "mine"
    status, _, listed = server.call(DOCUMENTS)
    assert status == 200 and told["id"] in [each["id"] for each in listed["data"]]


@pytest.mark.parametrize(
    ("raw", "kind", "status", "code"),
    [
        (b"", "multipart/form-data", 400, "invalid_form"),
        (b"", "multipart/form-data; boundary=xyz", 400, "invalid_form"),
        (b"--xyz--", "multipart/form-data; boundary=xyz", 400, "invalid_form"),
        (b"--xyz\r\n\r\n", "multipart/form-data; boundary=xyz", 400, "invalid_form"),
        (form(("file", "a", b"x"))[0][:-9], form()[1], 400, "invalid_form"),
        (*form(("other", "a", b"x")), 400, "invalid_value"),
        (*form(("file", "a", b"x"), ("file", "b", b"y")), 400, "invalid_value"),
        (*form(*[(f"f{at}", None, b"x") for at in range(17)]), 400, "invalid_form"),
        (*form(("file", "a", b"\xff\xfe\x00")), 400, "unreadable_document"),
        (*form(("file", "a", b"a\x00b")), 400, "unreadable_document"),
        (*form(("file", "a", b" \n")), 400, "unreadable_document"),
        (b'{"text": ""}', "application/json", 400, "invalid_value"),
        (b'{"text": "\\ud800"}', "application/json", 400, "invalid_json"),
        (b'{"text": " "}', "application/json", 400, "unreadable_document"),
        (b'{"name": "a"}', "application/json", 400, "invalid_value"),
        (b"text", "text/plain", 415, "unsupported_media_type"),
    ],
)
def test_what_is_no_document_is_one_clear_line(
    server: Served, raw: bytes, kind: str, status: int, code: str
) -> None:
    found, told = send(server, raw, kind)
    assert (found, told["error"]["code"]) == (status, code), told


def test_a_form_of_another_sites_page_is_refused(server: Served) -> None:
    raw, kind = form(("file", "a.txt", b"text"))
    status, told = send(server, raw, kind, Origin="http://evil.example")
    assert (status, told["error"]["code"]) == (403, "origin_not_allowed")
    assert server.error(CHAT, raw, headers={"Content-Type": kind})[0] == 415


def test_a_document_beyond_the_context_is_refused_with_the_numbers(server: Served) -> None:
    limit = server.service.engine.max_context
    for text in (long_text(limit + 500), "x" * 2_000_000):
        status, error = server.error(DOCUMENTS, {"text": text})
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert error["max_context"] == limit and error["prompt_tokens"] >= limit


def test_responses_take_documents_and_go_on_with_them(server: Served) -> None:
    id = add(server, text_of(900), "responses.txt")["id"]
    body = {"input": QUESTION, "document_ids": [id], "max_output_tokens": 8, "temperature": 0}
    status, _, first = server.call("/v1/responses", body)
    assert status == 200 and first["document_ids"] == [id]
    assert first["usage"]["input_tokens_details"]["recomputed_tokens"] == 0
    again = {"input": "And?", "previous_response_id": first["id"], "max_output_tokens": 4}
    status, _, second = server.call("/v1/responses", again)
    assert status == 200 and second["document_ids"] == [id]
    assert second["usage"]["input_tokens_details"]["document_tokens"] > 800
    status, error = server.error("/v1/responses", {**body, "document_ids": ["doc_none"]})
    assert (status, error["param"]) == (404, "document_ids")
