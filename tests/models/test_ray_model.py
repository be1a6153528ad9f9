"""A needle run in Ray workers: what is refused before Ray starts, and what needs no Ray. Workers
themselves run in tests/ray."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from longctx.cli import app
from longctx.errors import UserError
from longctx.eval.protocol import Completion, ContextOverflowError, Request, Truth
from longctx.models.local import LocalSettings, local_model
from longctx.models.ray_session import batches_of
from longctx.models.ray_worker import RayWorker, bare, portable

GRID = ("--lengths", "512", "--depths", "50%", "--repeats", "1", "--dry-run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("embedded", "--ray", "--engine", "vllm"), "--ray: --engine vllm spreads a model"),
        (("embedded", "--ray-workers", "2"), "--ray-workers 2: is for --ray"),
        (("sim:perfect", "--ray"), "leave --ray out"),
        (("served", "--base-url", "http://127.0.0.1:9/v1", "--ray"), "leave --ray out"),
    ],
)
def test_refusals_name_the_argument(words, message) -> None:
    done = CliRunner().invoke(app, ["needle", *words, *GRID])
    assert done.exit_code != 0
    assert message in (str(done.exception) + done.output)


def test_a_machine_without_ray_says_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, ["needle", "embedded", "--ray", *GRID])
    assert done.exit_code != 0 and "Ray is not installed" in str(done.exception)


def request(text: str, tokens: int) -> Request:
    return Request([7] * tokens, 4, tokens, truth=Truth(("1",), 50.0, text))


def test_a_batch_is_whole_texts_of_a_few_thousand_tokens() -> None:
    texts = [("a", 1500), ("a", 1500), ("b", 1500), ("c", 500), ("d", 500)]
    batches = batches_of("dca", [request(*each) for each in texts])
    found = [[each.truth.text for each in batch.requests if each.truth] for batch in batches]
    assert found == [["a", "a"], ["b", "c"], ["d"]]


def test_batches_are_made_as_they_are_wanted() -> None:
    taken = []

    def requests():
        for number in range(4):
            taken.append(number)
            yield request(str(number), 2000)

    next(batches_of("dca", requests()))
    assert taken == [0, 1]


def test_workers_never_see_the_answer() -> None:
    assert bare(request("a", 2)) == Request([7, 7], 4, 2)


class StubbornError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_errors_reach_the_driver_whatever_they_are() -> None:
    overflow = ContextOverflowError("too long")
    assert portable(overflow) is overflow
    answer = Completion("text", "stop", 0.1, 0.2)
    assert portable(answer) is answer
    told = portable(StubbornError(1, 2))  # which pickle cannot make again
    assert isinstance(told, RuntimeError) and str(told) == "StubbornError: 1 and 2"


@pytest.fixture(scope="module")
def settings() -> LocalSettings:
    plain = {"chunk_size", "local_size", "original_length", "cap", "factor", "output"}
    return LocalSettings(
        **dict.fromkeys(plain),
        model="embedded",
        methods=("none", "dca"),
        kernel="auto",
        dtype="float32",
        quantize="none",
        kv_dtype="auto",
        device_map="cpu",
        prefill_chunk=512,
        prefix_sharing=True,
        longest=1024,
        weights=True,
    )


def test_a_worker_answers_as_the_model_itself(settings) -> None:
    model = local_model(settings)
    asked = [Request([*range(20, 620), end], 4, 601) for end in (7, 8)]
    worker = RayWorker()
    facts = worker.ready(settings, model.fingerprint)
    for method, session in model.sessions().items():
        assert facts.arms[method].backend == session.backend
        assert facts.arms[method].proof == session.proof
        with session:
            want = [session.generate(each).text for each in asked]
        found = worker.answers(method, asked)
        assert [each.text for each in found if isinstance(each, Completion)] == want


def test_a_worker_with_other_weights_refuses(settings) -> None:
    with pytest.raises(UserError, match="has other weights than the driver"):
        RayWorker().ready(settings, "of another model")
