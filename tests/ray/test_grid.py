"""`longctx needle --ray` on one machine with two workers: the records of one process, and what a
worker that ends costs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longctx import cli
from longctx.eval.protocol import Outcome, Request
from longctx.models import ray_pool
from longctx.models.ray_worker import RayWorker
from longctx.runs import needle

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: `make test-ray` runs this in an environment that has it",
    ),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # of Ray, which is imported here
]

GRID = (
    *("needle", "embedded", "--methods", "none,dca", "--lengths", "512,1K", "--depths", "10,50"),
    *("--repeats", "2", "--dtype", "float32"),
)
CELLS = 16
RAY = ("--ray", "--ray-workers", "2")
# What another run may have otherwise: how long it took, when, and what was computed before it.
TIMES = {"ttft_s", "total_s", "compute_s", "ts", "cached_tokens"}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One for all tests: it starts in ten seconds."""
    yield
    import ray

    ray.shutdown()


def run(output: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli.app, [*GRID, "--output", str(output), *words])
    assert done.exit_code == code, (done.output, done.exception)
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cells(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {
        each["key"]: {name: value for name, value in each.items() if name not in TIMES}
        for each in records
    }
    assert len(found) == len(records)  # no cell has two records
    return found


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take most of a run of this size, and nothing of them is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(needle, "draw", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of one process, without Ray."""
    return cells(run(tmp_path_factory.mktemp("alone") / "run"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


def watched(log: Path, ends_at: int | None = None, times: int = 0) -> type[RayWorker]:
    """A worker that writes down what it is asked. One batch of longer prompts under `dca`, the
    first to come, kills so many of them."""
    victim = log.with_name("victim")

    class Watched(RayWorker):
        def answers(self, method: str, requests: Sequence[Request]) -> list[Outcome]:
            with log.open("a", encoding="utf-8") as file:
                for each in requests:
                    digest = hashlib.sha256(repr(each.ids).encode()).hexdigest()
                    file.write(json.dumps([method, digest, os.getpid()]) + "\n")
            first = requests[0]
            longer = ends_at is not None and len(first.ids) > ends_at
            if longer and method == "dca" and first.max_new_tokens > 1:  # not the probe
                with suppress(FileExistsError):
                    victim.mkdir()
                    (victim / digest).touch()
                killed = len(list(victim.iterdir()))
                if (victim / digest).exists() and killed <= times:
                    (victim / str(killed)).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().answers(method, requests)

    return Watched


@pytest.fixture
def worker(log: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(**how: int) -> None:
        monkeypatch.setattr(ray_pool, "RayWorker", watched(log, **how))

    return use


def asked(log: Path) -> list[tuple[str, str, int]]:
    """(method, prompt, process) of everything that workers were asked, but the probe and the
    control."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(method, prompt, pid) for method, prompt, pid in lines]


def test_two_workers_give_the_records_of_one_process(alone, log, worker, tmp_path) -> None:
    worker()
    found = cells(run(tmp_path / "run", *RAY))
    for key, record in found.items():
        assert record == alone[key]
    assert found.keys() == alone.keys()
    assert {each["score"] for each in found.values()} == {0.0, 1.0}
    counts = Counter((method, prompt) for method, prompt, _ in asked(log))
    assert set(counts.values()) == {1}
    assert len(counts) == CELLS + 2  # a probe of the rate, and the closed-book control
    assert len({pid for _, _, pid in asked(log)}) == 2


def test_only_what_a_killed_worker_had_in_hand_is_asked_again(alone, log, worker, tmp_path) -> None:
    worker(ends_at=900, times=1)
    assert cells(run(tmp_path / "run", *RAY)) == alone
    counts = Counter((method, prompt) for method, prompt, _ in asked(log))
    again = {each for each, count in counts.items() if count > 1}
    assert {counts[each] for each in again} == {2}
    # A batch is so many prompts of 1K.
    assert len(again) == 2 and {method for method, _ in again} == {"dca"}


def test_what_ends_two_workers_has_failed_and_is_asked_next_time(
    alone, log, worker, tmp_path
) -> None:
    worker(ends_at=900, times=2)
    alone_too = ("--ray", "--ray-workers", "1", "--lengths", "1K", "--methods", "dca")
    records = run(tmp_path / "run", *alone_too, code=3)
    assert len({pid for *_, pid in asked(log)}) == 3  # each took the place of the one before
    failed = [each for each in records if each["status"] == "error"]
    assert (len(failed), len(records)) == (2, 4)  # the other batch was answered
    assert all("WorkerLostError: the worker ended, twice" in each["error"] for each in failed)
    before = len(asked(log))
    later = run(tmp_path / "run", *alone_too)
    assert len(later) == len(records) + len(failed)
    assert len(asked(log)) - before == len(failed) + 1  # and the probe
    newest = {each["key"]: each["response"] for each in later}
    assert newest == {key: alone[key]["response"] for key in newest}


def test_a_run_goes_on_with_ray_and_without(alone, log, worker, tmp_path) -> None:
    worker()
    first = run(tmp_path / "run", "--limit", "5")
    second = run(tmp_path / "run", "--limit", "6", *RAY)
    assert second[:5] == first
    counts = Counter(asked(log))
    assert len(counts) == 6 + 1  # and the probe
    assert cells(run(tmp_path / "run")) == alone


def test_what_a_worker_cannot_load_is_told(monkeypatch, tmp_path) -> None:

    class Elsewhere(RayWorker):
        def ready(self, settings: Any, fingerprint: str) -> Any:
            return super().ready(settings, "of other weights")

    monkeypatch.setattr(ray_pool, "RayWorker", Elsewhere)
    done = CliRunner().invoke(cli.app, [*GRID, *RAY, "--output", str(tmp_path / "run")])
    assert done.exit_code != 0
    assert "has other weights than the driver" in str(done.exception)
    assert not (tmp_path / "run" / "run.json").exists()
