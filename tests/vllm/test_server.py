"""`longctx serve --engine vllm`: the same API, the same answers, or a refusal."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from longctx.vllm import version

pytestmark = [
    pytest.mark.skipif(
        version.installed() is None,
        reason="vLLM is not installed: `make test-vllm` runs this in an environment that has it",
    ),
    pytest.mark.timeout(900),
]

COMMAND = ("serve", "embedded", "--port", "0", "--dtype", "float32", "--context", "4K")
VLLM = ("--engine", "vllm", "--chunk-budget", "512", "--max-running", "8", "--kv-budget", "1G")
TEXT = "The quick brown fox jumps over the lazy dog. "
FACT = "One of the special magic numbers for amber-anchor is: 7239160.\n"
QUESTION = "What is the special magic number for amber-anchor mentioned in the provided text?"
# Within a chunk of 512 tokens, and over several; what is asked of each is greedy.
DOCUMENTS = (FACT, FACT + TEXT * 60, TEXT * 90 + FACT + TEXT * 90)


class Server:
    def __init__(self, *arguments: str, **environment: str) -> None:
        import vllm_helpers

        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longctx", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | vllm_helpers.ENVIRONMENT | environment,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stderr)

    def end(self) -> None:
        self.reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def url(self, seconds: float = 600.0) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            for line in list(self.lines):
                if found := re.search(r"API +(\S+)/v1", line):
                    return found[1]
            time.sleep(0.1)
        raise AssertionError("\n".join(self.lines[-40:]))


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Server]:
    server = Server(*arguments, **environment)
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        server.end()


def call(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.loads(response.read())


def ask(url: str, document: str, **more: Any) -> Any:
    body = {
        "messages": [{"role": "user", "content": document + QUESTION}],
        "max_tokens": 40,
        "temperature": 0,
        "stop": "\n",
        **more,
    }
    return call(url, "/v1/chat/completions", body)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[str]:
    store = ("--document-store", str(tmp_path_factory.mktemp("own") / "store"))
    with serving(*COMMAND, *store) as server:
        yield server.url()


@pytest.fixture(scope="module")
def vllm(tmp_path_factory) -> Iterator[tuple[str, Server]]:
    store = ("--document-store", str(tmp_path_factory.mktemp("vllm") / "store"))
    with serving(*COMMAND, *VLLM, *store, "--", "--enforce-eager") as server:
        yield server.url(), server


def test_the_banner_says_what_computes(vllm) -> None:
    url, server = vllm
    told = "\n".join(server.lines)
    assert "kernel   DualChunkCpuImpl in vLLM" in told
    assert "method   yarn+dca" in told
    about = call(url, "/v1/models")["data"][0]
    assert (about["max_model_len"], about["method"]) == (4096, "yarn+dca")


@pytest.mark.parametrize("document", DOCUMENTS, ids=["short", "medium", "long"])
def test_answers_are_those_of_longctxs_own_engine(document, own, vllm) -> None:
    want = ask(own, document, logprobs=True)
    got = ask(vllm[0], document, logprobs=True)
    assert got["choices"][0]["message"] == want["choices"][0]["message"]
    assert got["choices"][0]["finish_reason"] == want["choices"][0]["finish_reason"]
    assert got["usage"]["prompt_tokens"] == want["usage"]["prompt_tokens"]
    for mine, other in zip(
        got["choices"][0]["logprobs"]["content"],
        want["choices"][0]["logprobs"]["content"],
        strict=True,
    ):
        assert mine["token"] == other["token"]
        assert mine["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


def test_twenty_prompts_through_the_official_client(own, vllm) -> None:
    """Token ids of half a chunk to five: greedy tokens, and log-probabilities within 1e-3."""
    openai = pytest.importorskip("openai", reason="vLLM brings the client: `make test-vllm`")
    draw = random.Random(4)
    prompts = [
        [draw.randrange(20, 1000) for _ in range(256 + 2304 * number // 19)] for number in range(20)
    ]
    found = []
    for url in (own, vllm[0]):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            model = client.models.list().data[0].id
            made = [
                client.completions.create(
                    model=model, prompt=ids, max_tokens=8, temperature=0, logprobs=1
                ).choices[0]
                for ids in prompts
            ]
        found.append([(each.text, each.finish_reason, each.logprobs) for each in made])
    for want, got in zip(*found, strict=True):
        assert got[:2] == want[:2]
        assert got[2].tokens == want[2].tokens
        assert got[2].token_logprobs == pytest.approx(want[2].token_logprobs, abs=1e-3)
    assert len({text for text, *_ in found[0]}) > 10  # answers differ, so equality says something


def test_a_second_question_finds_the_document_computed(vllm) -> None:
    document = TEXT * 120 + FACT
    first = ask(vllm[0], document)["usage"]
    again = ask(vllm[0], document, max_tokens=3)["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["prompt_tokens_details"]["cached_tokens"] > 1000


def test_documents_are_asked_and_told_not_to_be_persistent(vllm) -> None:
    """Their keys are vLLM's; text and id are kept. Answers are those to the same prompt."""
    from longctx.chat.documents import part_of

    url, text = vllm[0], DOCUMENTS[1]
    told = call(url, "/v1/documents", {"text": text, "name": "a.txt"})
    while told["state"] in ("queued", "prefill"):
        time.sleep(0.05)
        told = call(url, f"/v1/documents/{told['id']}")
    assert told["state"] == "ready" and not told["persistent"]
    assert told["reason"] == "this engine keeps keys to itself"
    assert call(url, "/v1/documents")["data"][0]["persistent"] is False
    asked = [{"role": "user", "content": QUESTION}]
    options = {"max_tokens": 40, "temperature": 0, "stop": "\n"}
    named = {"messages": asked, "document_ids": [told["id"]], **options}
    plain = {"messages": [{"role": "system", "content": part_of("a.txt", text)}, *asked], **options}
    found, want = (call(url, "/v1/chat/completions", body) for body in (named, plain))
    assert found["choices"][0]["message"] == want["choices"][0]["message"]
    assert found["usage"]["prompt_tokens"] == want["usage"]["prompt_tokens"]
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] > 500


def test_schemas_errors_and_metrics_are_the_servers(vllm) -> None:
    url, _ = vllm
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["b", "c"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = ask(url, FACT, response_format=format, stop=None)
    assert json.loads(answer["choices"][0]["message"]["content"])["a"] in ("b", "c")
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(url, TEXT * 1000)
    assert refused.value.code == 400
    assert json.loads(refused.value.read())["error"]["code"] == "context_length_exceeded"
    with urllib.request.urlopen(url + "/metrics", timeout=60) as response:
        assert "longctx_kv_budget_bytes 1.07" in response.read().decode()


def test_a_server_whose_workers_would_not_load_the_plugin_is_refused() -> None:
    server = Server(*COMMAND, *VLLM, VLLM_PLUGINS="none-of-these")
    assert server.process.wait(600) == 2
    server.end()
    (line,) = [line for line in server.lines if line.startswith("error: ")]
    assert "VLLM_PLUGINS=none-of-these leaves longctx out" in line
