"""Ray workers that hold a model each, and what is done with those that end.

The driver hands a worker one batch at a time. Where a worker ends, its batch alone is asked again,
by another one, and a new worker takes its place; a batch that ends two of them has failed. Ray is
imported inside functions: everything else of this package runs without it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longctx.errors import UserError
from longctx.eval.protocol import Outcome, Request, TargetLostError
from longctx.models.local import LocalSettings
from longctx.models.ray_worker import RayWorker, WorkerFacts, bare

_TRIES = 2
# Of a Ray that is started here: answers are short, and prompts lists of numbers.
_OBJECT_STORE = 256 << 20
# Ray reports its use to its makers where it is not told otherwise.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}


class WorkerLostError(Exception):
    """A worker ended while it computed this, and so did the next one."""


@dataclass
class Batch:
    """Requests of one method that one worker answers."""

    method: str
    requests: Sequence[Request]
    lost: int = 0


def check_ray() -> None:
    """Raises: UserError: Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UserError(
            "--ray: Ray is not installed: `pip install longctx-dca[ray]`, or leave --ray out"
        ) from None


class RayPool:
    """Workers over the machines of a Ray cluster: that of RAY_ADDRESS, else one that is started
    here for this process.

    Args:
        settings: of the model, settled: the same in every worker.
        workers: None: one for each GPU, or for each machine where there is none.

    Raises:
        UserError: Ray or a worker cannot be started, or workers differ.
    """

    def __init__(self, settings: LocalSettings, fingerprint: str, workers: int | None) -> None:
        check_ray()
        import ray

        if not ray.is_initialized():
            _start()
        self.size, self._asks = _shares(settings, workers)
        self._running: dict[Any, tuple[Any, Batch | None]] = {}
        self._idle = [self._new_worker() for _ in range(self.size)]
        self.prepare(settings, fingerprint)

    def prepare(self, settings: LocalSettings, fingerprint: str) -> None:
        """Let all workers load the model, where they have not, and prove its methods.

        Raises:
            UserError: one cannot, or workers differ.
        """
        self._settings, self._fingerprint = settings, fingerprint
        self._facts: WorkerFacts | None = None
        while self._idle:
            self._get_ready(self._idle.pop())
        try:
            while self._running:
                self._settle(UserError)
        except UserError:
            self.close()
            raise
        if self._facts is None:
            raise UserError("--ray: no worker has started: Ray's logs say why")

    @property
    def facts(self) -> WorkerFacts:
        assert self._facts is not None  # prepare() has seen a worker that is ready
        return self._facts

    def _new_worker(self) -> Any:
        import ray

        return ray.remote(RayWorker).options(max_restarts=0, **self._asks).remote()

    def _get_ready(self, worker: Any) -> None:
        reference = worker.ready.remote(self._settings, self._fingerprint)
        self._running[reference] = (worker, None)

    def _settle(self, raised: type[Exception]) -> tuple[Batch, list[Outcome] | None] | None:
        """Wait for one worker: what it has answered, None for a batch that must be asked again;
        or None where it has only become ready.

        Raises:
            raised: a worker does not become ready.
        """
        import ray

        (reference,), _ = ray.wait(list(self._running), num_returns=1)
        worker, batch = self._running.pop(reference)
        try:
            found = ray.get(reference)
        except ray.exceptions.RayActorError:
            if batch is None:  # while it loaded: another one would fare no better
                return None
            self._get_ready(self._new_worker())
            batch.lost += 1
            return batch, None
        except ray.exceptions.RayTaskError as error:
            text = " ".join(str(error.cause).split())
            if batch is None:
                raise raised(f"--ray: a worker cannot start: {text}") from None
            self._idle.append(worker)
            failure = RuntimeError(f"{type(error.cause).__name__}: {text}")
            return batch, [failure] * len(batch.requests)
        self._idle.append(worker)
        if batch is not None:
            return batch, found
        if self._facts is not None and found.arms != self._facts.arms:
            raise raised(
                f"--ray: workers differ: {_backends(found)} and {_backends(self._facts)}: use "
                "machines that are alike, or say --kernel"
            )
        self._facts = found if self._facts is None else self._facts
        return None

    def answers(self, batches: Iterable[Batch]) -> Iterator[tuple[Request, Outcome]]:
        """Answers of all, in the order in which they come. A batch is taken shortly before a worker
        is free for it."""
        import ray

        source, again = iter(batches), deque[Batch]()
        coming = next(source, None)
        try:
            while True:
                while self._idle and (again or coming is not None):
                    batch = again.popleft() if again else coming
                    assert batch is not None
                    coming = None if batch is coming else coming
                    worker = self._idle.pop()
                    asked = [bare(each) for each in batch.requests]
                    reference = worker.answers.remote(batch.method, asked)
                    self._running[reference] = (worker, batch)
                    if coming is None:  # built while workers compute
                        coming = next(source, None)
                if not self._running:
                    if coming is None and not again:
                        return
                    yield from self._all_lost([*again, *([] if coming is None else [coming])])
                    return
                settled = self._settle(TargetLostError)
                if settled is None:
                    continue
                answered, outcomes = settled
                if outcomes is None and answered.lost < _TRIES:
                    again.append(answered)
                    continue
                if outcomes is None:
                    lost = WorkerLostError("the worker ended, twice: it may be out of memory")
                    outcomes = [lost] * len(answered.requests)
                yield from zip(answered.requests, outcomes, strict=True)
        finally:  # nobody waits for what is still computed
            for reference, (worker, computing) in list(self._running.items()):
                if computing is not None:
                    del self._running[reference]
                    ray.kill(worker)
                    self._get_ready(self._new_worker())

    def _all_lost(self, batches: Iterable[Batch]) -> Iterator[tuple[Request, Outcome]]:
        for batch in batches:
            for request in batch.requests:
                yield request, TargetLostError("every Ray worker has ended")

    def close(self) -> None:
        import ray

        for worker in [*self._idle, *(worker for worker, _ in self._running.values())]:
            ray.kill(worker)
        self._idle.clear()
        self._running.clear()


def _start() -> None:
    """
    Raises:
        UserError: Ray does not start, or is not where RAY_ADDRESS says.
    """
    import ray

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local", object_store_memory=_OBJECT_STORE, include_dashboard=False, **quiet
            )
    except Exception as error:
        where = f"RAY_ADDRESS={address}" if address else "on this machine"
        raise UserError(f"--ray: Ray does not start {where}: {error}") from error


def _shares(settings: LocalSettings, workers: int | None) -> tuple[int, dict[str, float]]:
    """How many workers, and what each asks Ray for.

    Raises:
        UserError: more than the cluster has room for.
    """
    import ray

    if workers is not None and workers < 1:
        raise UserError(f"--ray-workers {workers}: must be at least 1")
    there = ray.cluster_resources()
    gpus = 0 if settings.device_map == "cpu" else int(there.get("GPU", 0))
    if gpus:
        if workers is not None and workers > gpus:
            raise UserError(f"--ray-workers {workers}: Ray has {gpus} GPU(s): use at most so many")
        return workers or gpus, {"num_gpus": 1, "num_cpus": 1}
    nodes = [each for each in ray.nodes() if each["Alive"]]
    count = workers or len(nodes)
    # Whole shares of the smallest machine, so that none is left without a place.
    least = min(each["Resources"].get("CPU", 0.0) for each in nodes)
    on_one = -(-count // len(nodes))
    if not least:
        raise UserError("--ray: a machine of Ray offers no CPU: start it with --num-cpus")
    share = least / on_one
    return count, {"num_cpus": float(int(share)) if share >= 1 else share}


def _backends(facts: WorkerFacts) -> str:
    return ", ".join(f"{method} on {arm.backend}" for method, arm in facts.arms.items())
