"""Schemas are proven in processes that end: in time, in memory, when nobody asks any longer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from schemas import bomb, thing
from serve_helpers import wait_for
from transformers import AutoTokenizer

from longctx import tiny
from longctx.grammar import prover as module
from longctx.grammar.compiler import Vocabulary, vocabulary_of
from longctx.grammar.process import CompileLimits, CompileProcess
from longctx.grammar.prover import Prover, ProverFullError, SchemaProof
from longctx.killable.process import EndedError

GOOD = json.dumps(thing("a", {"type": "integer"}))
ENDLESS = CompileLimits(seconds=120.0, memory=4 << 30)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = AutoTokenizer.from_pretrained(tiny.WEIGHTS)
    return vocabulary_of(tokenizer, len(tokenizer))


@pytest.fixture
def make(vocabulary: Vocabulary) -> Iterator[Callable[..., Prover]]:
    made: list[Prover] = []

    def one(*arguments: Any, **options: Any) -> Prover:
        made.append(Prover(lambda: vocabulary, *arguments, **options))
        return made[-1]

    yield one
    for each in made:
        each.close()


def verdict(prover: Prover, schema: str) -> tuple[str, str]:
    found = prover.submit(schema).done.result(60)
    return found.kind, found.reason


def alive(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def busy(prover: Prover, proof: SchemaProof) -> bool:
    return proof in prover._at_work.values()


def test_what_compiles_is_good_and_what_does_not_has_a_reason(make: Callable[..., Prover]) -> None:
    prover = make()
    prover.warm()
    prover.warm()  # once is enough
    assert verdict(prover, GOOD) == ("good", "")
    kind, why = verdict(prover, '{"type": "nonsense"}')
    assert kind == "refused" and "nonsense" in why
    assert len(prover.pids) == 2  # one a lane


def test_what_never_ends_is_ended_and_refused_at_once_from_then_on(
    make: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    prover = make(CompileLimits(seconds=0.5, memory=4 << 30))
    schema = json.dumps(bomb())
    refused = ("refused", "it takes more than 0.5 seconds to compile: make it simpler")
    assert verdict(prover, schema) == refused
    assert prover.submit(schema).done.done()
    assert verdict(prover, GOOD) == ("good", "")
    # A busy machine may have been to blame: not for ever.
    later = time.monotonic() + 301
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    assert not prover.submit(schema).done.done()


def test_what_fills_the_memory_is_ended(make: Callable[..., Prover]) -> None:
    if sys.platform != "linux":
        pytest.skip("the system does not limit a process's memory")
    prover = make(CompileLimits(seconds=60.0, memory=48 << 20))
    why = "it takes more than 48 MiB to compile: make it simpler"
    assert verdict(prover, json.dumps(bomb())) == ("refused", why)
    assert verdict(prover, GOOD) == ("good", "")


def test_what_nobody_asks_for_any_longer_is_ended(make: Callable[..., Prover]) -> None:
    prover = make(ENDLESS, processes=1)
    schema = json.dumps(bomb())
    first, second = prover.submit(schema), prover.submit(schema)
    assert first is second  # one work for both
    wait_for(lambda: busy(prover, first))
    (pid,) = prover.pids
    prover.leave(first)
    time.sleep(0.2)
    assert alive([pid]) and busy(prover, first)
    prover.leave(second)
    wait_for(lambda: not alive([pid]))
    assert not first.done.done()
    assert verdict(prover, GOOD) == ("good", "")  # the next process is there
    prover.leave(prover.submit(GOOD))  # known: there is nothing to leave


def test_a_full_queue_says_so_and_what_waits_can_be_left(make: Callable[..., Prover]) -> None:
    prover = make(ENDLESS, processes=1, waiting=2)
    working = prover.submit(json.dumps(bomb("0")))
    wait_for(lambda: busy(prover, working))
    waiting = [prover.submit(json.dumps(bomb(str(n)))) for n in (1, 2)]
    with pytest.raises(ProverFullError, match="2 schemas are waiting") as caught:
        prover.submit(json.dumps(bomb("3")))
    assert caught.value.wait_s == 360.0
    assert verdict(prover, GOOD) == ("good", "")  # plain: it waits for none of them
    assert busy(prover, working)
    for proof in (*waiting, working):
        prover.leave(proof)
    assert verdict(prover, GOOD) == ("good", "")


def test_a_close_ends_all(make: Callable[..., Prover]) -> None:
    prover = make(ENDLESS)
    proofs = [prover.submit(json.dumps(bomb(str(n)))) for n in range(3)]
    wait_for(lambda: busy(prover, proofs[0]) and busy(prover, proofs[1]))
    pids = prover.pids
    assert len(pids) == 2
    prover.close()
    prover.close()
    assert [proof.done.result(1).kind for proof in proofs] == ["closed"] * 3
    wait_for(lambda: not alive(pids))
    assert verdict(prover, GOOD)[0] == "closed"
    prover.warm()
    assert not any(thread.is_alive() for thread in prover._threads)


def test_a_worker_that_has_grown_is_not_used_again(
    make: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"refused": None, "seconds": 0.1, "spent": True}
    monkeypatch.setattr(CompileProcess, "prove", lambda self, schema: told)
    prover = make(processes=1)
    assert verdict(prover, "0")[0] == "good"
    wait_for(lambda: len(prover.pids) == 1)
    pids = prover.pids
    assert verdict(prover, "1")[0] == "good"
    wait_for(lambda: len(prover.pids) == 1 and prover.pids != pids)
    wait_for(lambda: not alive(pids))
    assert verdict(prover, "2")[0] == "good"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ImportError("no such thing"), "missing"), (EndedError("no process"), "failed"),
     (RuntimeError("odd"), "failed")],
)  # fmt: skip
def test_a_compiler_that_cannot_be_started_is_no_verdict_on_the_schema(
    make: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def fails(self: CompileProcess, vocabulary: Vocabulary) -> None:
        raise error

    prover = make(processes=1)
    with monkeypatch.context() as patched:
        patched.setattr(CompileProcess, "set_up", fails)
        assert verdict(prover, GOOD) == (kind, str(error))
        assert verdict(prover, GOOD)[0] == kind
    assert not prover.submit(GOOD).done.done()  # tried again


def test_a_process_that_does_not_get_ready_is_ended(vocabulary: Vocabulary) -> None:
    process = CompileProcess(CompileLimits())
    process.kill()
    with pytest.raises(EndedError, match="it ended"):
        process.set_up(vocabulary)
    process.close()


def test_a_process_without_llguidance_says_so(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = CompileProcess(CompileLimits())
    monkeypatch.setattr(process, "ask", lambda *arguments: {"failed": "no llguidance"})
    with pytest.raises(ImportError, match="no llguidance"):
        process.set_up(vocabulary)
    process.close()


def test_a_worker_imports_no_torch() -> None:
    import subprocess

    code = "import sys, longctx.grammar.worker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
