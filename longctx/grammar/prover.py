"""Whether a stranger's schema can be compiled, in bounded time and memory: asked before it is.

    submit -> known? -> a lane (bounded) -> a process proves it, or is ended -> a verdict, kept

What compiles there compiles here as well, with the same limits: a matcher cannot be sent. Threads
wait for processes; nobody else does. Plain schemas have a lane of their own: others may take all of
their time there. Knows no HTTP and no event loop.
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
from longctx.grammar.plain import is_plain
from longctx.grammar.process import CompileLimits, CompileProcess
from longctx.killable.process import EndedError, TooSlowError

_log = logging.getLogger(__name__)

LIMITS = CompileLimits()
PROCESSES = 2  # beside the one for plain schemas
WAITING = 16  # schemas of a lane; more are sent away
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
class Lane:
    """Schemas that wait for one another, and who takes them."""

    most: int  # processes, a thread each
    queue: deque[SchemaProof] = field(default_factory=deque)
    threads: int = 0
    free: int = 0  # of them: without a schema


@dataclass(eq=False)
class SchemaProof:
    """One schema on its way, for all who ask for it at the time."""

    key: str
    schema: str
    lane: Lane
    done: Future[SchemaVerdict] = field(default_factory=Future)
    wanted_by: int = 1


class Prover:
    """Proves schemas one after the other, in processes that are kept warm.

    Args:
        vocabulary: made in the first thread that needs it.
        processes: for schemas that are not plain; one more is for those.
        waiting: schemas of a lane beside those in work.
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
        self._most = waiting
        self._made: Vocabulary | None = None
        self._making = threading.Lock()
        self._wake = threading.Condition()  # guards all that follows
        self._plain, self._others = Lane(1), Lane(processes)
        self._open: dict[str, SchemaProof] = {}
        self._known: OrderedDict[str, SchemaVerdict] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._at_work: dict[CompileProcess, SchemaProof | None] = {}
        self._closed = False

    def warm(self) -> None:
        """Start a process a lane, so that no first schema waits for it. Returns at once."""
        with self._wake:
            for lane in (self._plain, self._others):
                if not self._closed and not lane.threads:
                    self._add_thread(lane)

    def submit(self, schema: str) -> SchemaProof:
        """Ask for a schema, in JSON. Whoever wants to know no longer says so: `leave`.

        Raises:
            ProverFullError: too many wait already.
        """
        key = hashlib.sha256(schema.encode("utf-8", "surrogatepass")).hexdigest()
        lane = self._plain if is_plain(schema) else self._others
        with self._wake:
            proof = SchemaProof(key, schema, lane)
            verdict = SchemaVerdict("closed") if self._closed else self._recall(key)
            if verdict is not None:
                proof.done.set_result(verdict)
                return proof
            if key in self._open:
                self._open[key].wanted_by += 1
                return self._open[key]
            to_be_taken = lane.most - lane.threads + lane.free
            if len(lane.queue) >= self._most + to_be_taken:
                rounds = -(-len(lane.queue) // lane.most) + 1
                raise ProverFullError(len(lane.queue), rounds * self._bounds.seconds)
            self._open[key] = proof
            lane.queue.append(proof)
            if lane.free < len(lane.queue) and lane.threads < lane.most:
                self._add_thread(lane)
            self._wake.notify_all()
        return proof

    def leave(self, proof: SchemaProof) -> None:
        """One asks no longer; with the last one the work ends."""
        with self._wake:
            proof.wanted_by -= 1
            if proof.wanted_by > 0 or proof.done.done():
                return
            if self._open.get(proof.key) is proof:
                del self._open[proof.key]
            if proof in proof.lane.queue:
                proof.lane.queue.remove(proof)
            for process, worked_at in self._at_work.items():
                if worked_at is proof:
                    process.kill()

    @property
    def waiting(self) -> int:
        """Schemas that are not plain, and that no process has taken yet."""
        with self._wake:
            return len(self._others.queue)

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
            for lane in (self._plain, self._others):
                lane.queue.clear()
            for process in self._at_work:
                process.kill()
            self._wake.notify_all()
        for proof in waiting:
            proof.done.set_result(SchemaVerdict("closed"))
        for thread in self._threads:
            thread.join(1.0)

    # -- in the threads ---------------------------------------------------------------------------

    def _add_thread(self, lane: Lane) -> None:
        # Daemons: an exit waits for none of them, and their processes end with their pipes.
        thread = threading.Thread(
            target=self._work, args=(lane,), name="longctx-prover", daemon=True
        )
        self._threads.append(thread)
        lane.threads += 1
        lane.free += 1
        thread.start()

    def _work(self, lane: Lane) -> None:
        process: CompileProcess | None = None
        try:
            while True:
                failed = None
                if process is None:
                    process, failed = self._begin()
                proof = self._next(lane)
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

    def _next(self, lane: Lane) -> SchemaProof | None:
        """The next schema; None when all is over."""
        with self._wake:
            while not lane.queue and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            lane.free -= 1
            return lane.queue.popleft()

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
            proof.lane.free += 1
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
