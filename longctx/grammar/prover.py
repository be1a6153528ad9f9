"""Whether a stranger's schema can be compiled, in bounded time and memory: asked before it is.

    submit -> known? -> queue (bounded) -> a process proves it, or is ended -> a verdict, kept

What compiles there compiles here as well, with the same limits: a matcher cannot be sent. Threads
wait for processes; nobody else does. Knows no HTTP and no event loop.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from longctx.grammar.compiler import Vocabulary
from longctx.grammar.process import CompileLimits, CompileProcess, EndedError, TooSlowError

_log = logging.getLogger(__name__)

LIMITS = CompileLimits()
PROCESSES = 2
WAITING = 16  # schemas; more are sent away
_KEPT = 1024  # verdicts
# A busy machine may have been to blame: such a verdict is asked for again, after so many seconds.
_FORGET_AFTER = 300.0


class SchemaVerdict(NamedTuple):
    """`good`, or `refused` with the reason; or why there is no answer: no verdict on the schema."""

    kind: Literal["good", "refused", "missing", "failed", "closed"]
    reason: str = ""
    until: float | None = None  # of time.monotonic
    seconds: float = 0.0  # that a good one took


class ProverFullError(Exception):
    """As many schemas wait as may.

    Attributes:
        wait_s: until all of them are done, at most.
    """

    def __init__(self, waiting: int, wait_s: float) -> None:
        super().__init__(f"{waiting} schemas are waiting to be compiled")
        self.waiting, self.wait_s = waiting, wait_s


@dataclass(eq=False)
class SchemaProof:
    """One schema on its way, for all who ask for it at the time."""

    key: str
    schema: str
    done: Future[SchemaVerdict] = field(default_factory=Future)
    wanted_by: int = 1


class Prover:
    """Proves schemas one after the other, in up to PROCESSES processes that are kept warm.

    Args:
        vocabulary: made in the first thread that needs it.
        waiting: schemas beside those in work.
    """

    def __init__(
        self,
        vocabulary: Callable[[], Vocabulary],
        bounds: CompileLimits = LIMITS,
        *,
        processes: int = PROCESSES,
        waiting: int = WAITING,
    ) -> None:
        self._make, self._bounds = vocabulary, bounds
        self._processes, self._most = processes, waiting
        self._made: Vocabulary | None = None
        self._making = threading.Lock()
        self._wake = threading.Condition()  # guards all that follows
        self._queue: deque[SchemaProof] = deque()
        self._open: dict[str, SchemaProof] = {}
        self._known: OrderedDict[str, SchemaVerdict] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._free = 0  # threads without a schema
        self._at_work: dict[CompileProcess, SchemaProof | None] = {}
        self._closed = False

    def warm(self) -> None:
        """Start one process, so that the first schema does not wait for it. Returns at once."""
        with self._wake:
            if not self._closed and not self._threads:
                self._add_thread()

    def submit(self, schema: str) -> SchemaProof:
        """Ask for a schema, in JSON. Whoever wants to know no longer says so: `leave`.

        Raises:
            ProverFullError: too many wait already.
        """
        key = hashlib.sha256(schema.encode("utf-8", "surrogatepass")).hexdigest()
        with self._wake:
            proof = SchemaProof(key, schema)
            verdict = SchemaVerdict("closed") if self._closed else self._recall(key)
            if verdict is not None:
                proof.done.set_result(verdict)
                return proof
            if key in self._open:
                self._open[key].wanted_by += 1
                return self._open[key]
            to_be_taken = self._processes - len(self._threads) + self._free
            if len(self._queue) >= self._most + to_be_taken:
                rounds = -(-len(self._queue) // self._processes) + 1
                raise ProverFullError(len(self._queue), rounds * self._bounds.seconds)
            self._open[key] = proof
            self._queue.append(proof)
            if self._free < len(self._queue) and len(self._threads) < self._processes:
                self._add_thread()
            self._wake.notify()
        return proof

    def leave(self, proof: SchemaProof) -> None:
        """One asks no longer; with the last one the work ends."""
        with self._wake:
            proof.wanted_by -= 1
            if proof.wanted_by > 0 or proof.done.done():
                return
            if self._open.get(proof.key) is proof:
                del self._open[proof.key]
            if proof in self._queue:
                self._queue.remove(proof)
            for process, worked_at in self._at_work.items():
                if worked_at is proof:
                    process.kill()

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there."""
        with self._wake:
            return [process.pid for process in self._at_work]

    def close(self) -> None:
        """End all processes, and answer "closed" to all who wait. Harmless when repeated."""
        with self._wake:
            self._closed = True
            waiting = list(self._open.values())
            self._open.clear()
            self._queue.clear()
            for process in self._at_work:
                process.kill()
            self._wake.notify_all()
        for proof in waiting:
            proof.done.set_result(SchemaVerdict("closed"))
        for thread in self._threads:
            thread.join(1.0)

    # -- in the threads ---------------------------------------------------------------------------

    def _add_thread(self) -> None:
        # Daemons: an exit waits for none of them, and their processes end with their pipes.
        thread = threading.Thread(target=self._work, name="longctx-prover", daemon=True)
        self._threads.append(thread)
        self._free += 1
        thread.start()

    def _work(self) -> None:
        process: CompileProcess | None = None
        try:
            while True:
                failed = None
                if process is None:
                    process, failed = self._begin()
                proof = self._next()
                if proof is None:
                    return
                verdict, spent = (failed, True) if failed else self._prove(process, proof)
                assert verdict is not None
                self._end(proof, verdict)
                if spent:
                    self._drop(process)
                    process = None
        finally:
            self._drop(process)

    def _next(self) -> SchemaProof | None:
        """The next schema; None when all is over."""
        with self._wake:
            while not self._queue and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            self._free -= 1
            return self._queue.popleft()

    def _begin(self) -> tuple[CompileProcess | None, SchemaVerdict | None]:
        """A process that is ready; or why there is none, and the next schema is told so."""
        process = None
        try:
            with self._making:
                self._made = self._made or self._make()
            process = CompileProcess(self._bounds)
            with self._wake:
                if self._closed:
                    raise EndedError("closed")
                self._at_work[process] = None
            process.set_up(self._made)
            return process, None
        except ImportError as error:
            verdict = SchemaVerdict("missing", str(error))
        except EndedError as error:
            verdict = SchemaVerdict("failed", str(error))
        except Exception as error:
            _log.exception("the compiler of schemas could not be started")
            verdict = SchemaVerdict("failed", str(error))
        self._drop(process)
        return None, verdict

    def _prove(
        self, process: CompileProcess | None, proof: SchemaProof
    ) -> tuple[SchemaVerdict, bool]:
        assert process is not None
        with self._wake:
            if proof.wanted_by <= 0 or self._closed:
                return SchemaVerdict("closed"), self._closed
            self._at_work[process] = proof
        try:
            told = process.prove(proof.schema)
        except TooSlowError:
            seconds = f"{self._bounds.seconds:g}"
            words = f"it takes more than {seconds} seconds to compile: make it simpler"
            return SchemaVerdict("refused", words, time.monotonic() + _FORGET_AFTER), True
        except EndedError:
            memory = self._bounds.memory >> 20
            words = f"it takes more than {memory} MiB to compile: make it simpler"
            return SchemaVerdict("refused", words, time.monotonic() + _FORGET_AFTER), True
        finally:
            with self._wake:
                self._at_work[process] = None
        if told["refused"] is None:
            return SchemaVerdict("good", seconds=told["seconds"]), told["spent"]
        return SchemaVerdict("refused", told["refused"]), told["spent"]

    def _end(self, proof: SchemaProof, verdict: SchemaVerdict) -> None:
        with self._wake:
            self._free += 1
            wanted = self._open.get(proof.key) is proof  # else left, or closed
            if wanted:
                del self._open[proof.key]
            if wanted and verdict.kind in ("good", "refused"):
                self._known[proof.key] = verdict
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        if wanted:
            proof.done.set_result(verdict)

    def _drop(self, process: CompileProcess | None) -> None:
        if process is not None:
            with self._wake:
                self._at_work.pop(process, None)
            process.close()

    def _recall(self, key: str) -> SchemaVerdict | None:
        verdict = self._known.get(key)
        if verdict is None:
            return None
        if verdict.until is not None and verdict.until < time.monotonic():
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return verdict
