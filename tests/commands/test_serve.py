"""`longctx serve` as it is started and stopped, and where its settings come from."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from schemas import bomb, response_format
from serve_helpers import body as chat_body
from serve_helpers import json_bytes, long_text
from typer.testing import CliRunner

from longctx import tiny
from longctx.chat.process import TemplateLimits
from longctx.cli import app
from longctx.commands import serve
from longctx.errors import UserError
from longctx.options.shared import parse_bytes
from longctx.serve.listen import listening_socket
from longctx.serve.loading import prepare
from longctx.serve.settings import ServeSettings


class Process:
    """A server in a process of its own; its lines on stderr are kept."""

    def __init__(self, *arguments: str, code: str | None = None, **environment: str) -> None:
        self.lines: list[str] = []
        command = ["-m", "longctx", "serve", "--port", "0"] if code is None else ["-c", code]
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern: str, seconds: float = 90) -> re.Match[str]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(f"no line with {pattern!r}: {self.lines}")

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[Process, str]]:
    process = Process(*arguments, **environment)
    try:
        yield process, process.wait_for(r"API +(http://\S+)/v1")[1]
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.end()


@pytest.mark.slow
def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones() -> None:
    with running("--chunk-budget", "64", "--log-format", "json", "--kv-budget", "256M") as (
        process,
        url,
    ):
        told = "\n".join(process.lines)
        assert process.lines[0] == f"loading embedded, for {url}"
        for fact in ("embedded", "yarn+dca", "chunk_size 512", " on cpu", "16K tokens",
                     "0.25 GiB"):  # fmt: skip
            assert fact in told
        foreign = urllib.request.Request(f"{url}/ready", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as sent_away:
            urllib.request.urlopen(foreign)
        assert f"ask for {url}," in json.loads(sent_away.value.read())["error"]["message"]
        answers: list[Any] = []

        def ask() -> None:
            secret = "a very private question"
            messages = [{"role": "user", "content": f"{secret} {long_text(9000)}"}]
            body = json_bytes({"messages": messages, "max_tokens": 5})
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                answers.append((answer.status, json.loads(answer.read())))

        client = threading.Thread(target=ask)
        client.start()
        waited = time.monotonic() + 60
        while (
            b"longctx_requests_running 1.0" not in urllib.request.urlopen(f"{url}/metrics").read()
        ):
            assert time.monotonic() < waited
            time.sleep(0.02)
        process.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/ready")
        assert refused.value.code == 503
        assert json.loads(refused.value.read())["error"]["code"] == "shutting_down"
        assert urllib.request.urlopen(f"{url}/health").status == 200
        client.join(120)
        assert answers and answers[0][0] == 200
        assert answers[0][1]["usage"]["completion_tokens"] == 5
        assert process.end() == 0
        lines = [json.loads(line) for line in process.lines if line.startswith("{")]
        (done,) = [line for line in lines if line.get("path") == "/v1/chat/completions"]
        assert (done["status"], done["completion_tokens"]) == (200, 5)
        assert done["prompt_tokens"] > 8000 and done["id"].startswith("req-")
        assert "private" not in "\n".join(process.lines)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_line(tmp_path: Path) -> None:
    from longctx import tiny

    for file in tiny.WEIGHTS.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "longctx", "serve", str(tmp_path), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    loading, error = done.stderr.splitlines()
    assert loading.startswith("loading ")
    assert error.startswith("error: MODEL") and "no .safetensors weights" in error


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be bound"):
            listening_socket(ServeSettings("embedded", port=port))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """Settings of servers that would have been started."""
    found: list[ServeSettings] = []
    monkeypatch.setattr(serve, "run", found.append)
    return found


def invoke(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(app, ["serve", *arguments], env=environment)


def test_flags_win_over_the_environment_and_that_over_the_file(
    started: list[ServeSettings], tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'model = "models/x"\nport = 1\nhost = "0.0.0.0"\ncontext = "64K"\nkv-budget = "2G"\n'
        'allowed-host = ["Box.example"]\ndrain_timeout = 3\nchunk-size = 4096\n'
    )
    done = invoke("--config", str(file), "--port", "3", LONGCTX_PORT="2", LONGCTX_HOST="::1")
    assert done.exit_code == 0, done.output
    (settings,) = started
    assert (settings.model, settings.port, settings.host) == ("models/x", 3, "::1")
    assert (settings.context, settings.kv_budget) == (65536, 2 << 30)
    assert (settings.chunk_size, settings.max_body) == (4096, 64 << 20)
    assert settings.allowed_hosts == ("box.example",) and settings.drain_timeout == 3


def test_without_anything_the_embedded_model_is_served_on_loopback(
    started: list[ServeSettings],
) -> None:
    assert invoke().exit_code == 0
    assert started == [ServeSettings("embedded")] == [ServeSettings()]
    assert started[0].on_loopback and started[0].url == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "prot is no option: did you mean port?"),
        ("x = 1", "x is no option: use allowed-host, api-key, cap, chunk-budget, "),
        ("config = 'x'", "config is no option: "),
        ("limits = 1", "limits is no option: "),
        ("port = 'x'", "port = 'x': a number is needed"),
        ("port = true", "port = True: a number is needed"),
        ("max_running = 1.5", "max_running = 1.5: a whole number is needed"),
        ("drain-timeout = []", "drain-timeout = []: a number is needed"),
        ("host = true", "host = True: a text is needed"),
        ("context = '2X'", "--context 2X: not a length"),
        ("allowed-host = 'x'", "a list of names is needed"),
        ("port =", "not TOML"),
    ],
)
def test_a_wrong_file_is_one_line(
    started: list[ServeSettings], tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    done = invoke("--config", str(file))
    assert isinstance(done.exception, UserError) and message in str(done.exception)
    missing = invoke("--config", str(tmp_path / "none.toml"))
    assert "cannot be read" in str(missing.exception)
    assert not started


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "x"], "--context"),
        (["--context", "0"], "--context"),
        (["--kv-budget", "much"], "--kv-budget much: not an amount of memory"),
        (["--max-body", "10"], "--max-body 10: must be at least 1024"),
        (["--chunk-budget", "0"], "--chunk-budget 0: must be at least 1"),
        (["--port", "70000"], "--port 70000: must be 0 to 65535"),
        (["--log-format", "xml"], "--log-format xml: use text or json"),
        (["--engine", "vllm", "--", "--seed", "1"], "MODEL --seed: .* and MODEL comes before it"),
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "secret\n"], "--api-key begins or ends with white space"),
        (["--api-key", "schlüssel"], "--api-key .* that a header cannot carry"),
    ],
)
def test_wrong_flags_are_one_line(
    started: list[ServeSettings], arguments: list[str], message: str
) -> None:
    done = invoke(*arguments)
    assert isinstance(done.exception, UserError) and re.match(message, str(done.exception))
    assert not started
    assert "secret" not in str(done.exception)


def test_unknown_methods_and_kernels_are_refused_before_anything_is_loaded() -> None:
    for arguments in (["--method", "magic"], ["--kernel", "warp"], ["--dtype", "int3"]):
        done = invoke(*arguments, "--port", "0")
        assert isinstance(done.exception, UserError), done.output
        assert " ".join(arguments) in str(done.exception)
    for arguments in (["--factor", "2"], ["--kernel", "reference"]):
        done = invoke(*arguments, "--method", "none", "--port", "0")
        assert re.search(r"add one of .* to --method$", str(done.exception)), done.output


def test_a_member_of_the_family_gets_its_published_context(tmp_path: Path) -> None:
    """By the directory's name; another name, or another method, goes by the rule."""
    for name, method, context in (
        ("Qwen2-57B-A14B-Instruct", None, 65536),
        ("Qwen2-57B-A14B-Instruct", "none", 512),
        ("mine", None, 2048),
    ):
        directory = tmp_path / name
        shutil.copytree(tiny.WEIGHTS, directory, dirs_exist_ok=True)
        assert prepare(ServeSettings(str(directory), method=method)).context == context


def test_a_directory_that_is_named_by_dots_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "Qwen2-57B-A14B-Instruct"
    shutil.copytree(tiny.WEIGHTS, directory)
    (directory / "inner").mkdir()
    for where, model in ((directory, "."), (directory / "inner", ".."), (tmp_path, "inner/../")):
        monkeypatch.chdir(where)
        if where == tmp_path:
            model = f"{directory.name}/{model}"
        prepared = prepare(ServeSettings(model))
        assert (prepared.name, prepared.context) == (directory.name, 65536)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("4G", 4 << 30), ("512MiB", 512 << 20), ("1.5g", 3 << 29), ("77", 77), ("2 KB", 2048)],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text, "--kv-budget") == amount


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2], ids=["drain timeout", "second signal"])
def test_a_server_that_compiles_ends_in_time(signals: int) -> None:
    drain = "1" if signals == 1 else "60"
    with running("--drain-timeout", drain, "--kv-budget", "256M") as (process, url):
        statuses: list[int] = []

        def ask(name: str) -> None:
            body = json_bytes(chat_body(response_format=response_format(bomb(name))))
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
            )
            try:
                urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)

        clients = [threading.Thread(target=ask, args=(str(n),)) for n in range(6)]
        for client in clients:
            client.start()
        time.sleep(1)
        children = psutil.Process(process.process.pid).children()
        assert children
        began = time.monotonic()
        for _ in range(signals):
            process.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert process.end() == 0
        assert time.monotonic() - began < (1 if signals == 1 else 0) + 2 + 1  # a busy machine
        for client in clients:
            client.join(10)
        assert set(statuses) <= {400, 503} and 503 in statuses
        psutil.wait_procs(children, 5)
        assert not [each for each in children if each.is_running()]


_STUCK = """
import sys, threading
from longctx.engine.runner import Runner
def stuck(*arguments):
    print("stuck", file=sys.stderr, flush=True)
    threading.Event().wait()
Runner.forward = stuck
from longctx.cli import main
sys.argv = ["longctx", "serve", "--port", "0", "--drain-timeout", "0.5", "--kv-budget", "256M"]
main()
"""


@pytest.mark.slow
def test_a_thread_that_never_ends_ends_with_the_process() -> None:
    process = Process(code=_STUCK)
    try:
        url = process.wait_for(r"API +(http://\S+)/v1")[1]
        body = json_bytes(chat_body())
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )

        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(request, timeout=60)

        client = threading.Thread(target=ask)
        client.start()
        process.wait_for("^stuck$")
        began = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert process.end() == 1
        assert time.monotonic() - began < 0.5 + 2 + 1
        assert process.lines[-1].startswith("error: the server did not end by itself in time")
        client.join(10)
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.end()


def test_a_port_in_use_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longctx.serve.loading.prepare", lambda settings: pytest.fail("loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = invoke("--port", str(taken.getsockname()[1]))
        assert re.search(r"--port \d+: cannot be bound", str(done.exception))
    code = "import sys, longctx.commands.serve, longctx.serve.listen; print(*sys.modules)"
    known = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "longctx.serve.listen" in known
    assert not {"torch", "transformers", "fastapi"} & set(known)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
    ids=["memory", "system", "library"],
)
def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(settings: ServeSettings) -> Any:
        raise error

    monkeypatch.setattr("longctx.serve.loading.prepare", fails)
    done = invoke("--port", "0")
    assert isinstance(done.exception, UserError)
    assert "there is not enough memory to load it" in str(done.exception)
    monkeypatch.setattr("longctx.serve.loading.prepare", lambda settings: Path("/no/such").stat())
    assert isinstance(invoke("--port", "0").exception, FileNotFoundError)


@pytest.mark.parametrize(
    ("template", "where"),
    [
        ("{% for m in messages %}{{ m['role'] }", r"line 1: unexpected '}'"),
        ("{% for m in messages %}\n{{ m.role }}", r"line 2: Unexpected end of template"),
        ("{{ messages | no_such_filter }}", r"line 1: No filter named 'no_such_filter'"),
    ],
)
def test_a_template_that_does_not_parse_is_refused_at_start(
    tmp_path: Path, template: str, where: str
) -> None:
    shutil.copytree(tiny.WEIGHTS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=rf"its chat template does not parse \({where}"):
        prepare(ServeSettings(str(tmp_path)))


def test_a_template_that_refuses_a_conversation_is_served(tmp_path: Path) -> None:
    shutil.copytree(tiny.WEIGHTS, tmp_path, dirs_exist_ok=True)
    template = "{{ raise_exception('a system message is needed') }}"
    (tmp_path / "chat_template.jinja").write_text(template)
    assert prepare(ServeSettings(str(tmp_path))).tokenizer.chat_template == template


def test_a_template_without_an_end_is_refused_at_start(tmp_path: Path) -> None:
    shutil.copytree(tiny.WEIGHTS, tmp_path, dirs_exist_ok=True)
    template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    settings = ServeSettings(str(tmp_path), templates=TemplateLimits(seconds=1.0))
    with pytest.raises(UserError, match=r"its chat template does not come to an end within 1 s"):
        prepare(settings)


@pytest.mark.slow
def test_a_full_disk_for_its_log_costs_nobody_an_answer() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("the system has no device that is always full")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "longctx", "serve", "--port", str(port), "--kv-budget", "256M"],
            stderr=full, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            end = time.monotonic() + 90
            while True:
                with contextlib.suppress(OSError):
                    if urllib.request.urlopen(f"http://127.0.0.1:{port}/ready").status == 200:
                        break
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.1)
            for _ in range(5):
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/v1/chat/completions",
                    json_bytes(chat_body()),
                    {"Content-Type": "application/json"},
                )
                assert urllib.request.urlopen(request).status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
