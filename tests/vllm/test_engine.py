"""longctx's attention inside vLLM's engine on a CPU: its answers are the embedded engine's.

vLLM runs in a process of its own (`vllm_child.py`), one engine after the other.
"""

from __future__ import annotations

from pathlib import Path
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

# 0.5, 1, 2.3 and 5 chunks of 256.
LENGTHS = (128, 256, 588, 1280)
SHARED_LENGTHS = (250, 300, 430, 588, 900, 1280)
EACH = [[number] for number in range(len(LENGTHS))]
TOGETHER = [list(range(len(LENGTHS)))]
SHARED = [[number] for number in range(len(LENGTHS), len(LENGTHS) + len(SHARED_LENGTHS))]
# From half a chunk to five: twenty prompts, asked at once.
TWENTY_LENGTHS = tuple(128 + 1152 * number // 19 for number in range(20))
_FIRST = len(LENGTHS) + len(SHARED_LENGTHS)
TWENTY = list(range(_FIRST, _FIRST + len(TWENTY_LENGTHS)))
OURS = "longctx.vllm.cpu.DualChunkCpuImpl"
STOCK = "vllm.v1.attention.backends.cpu_attn.CPUAttentionBackendImpl"
# (method, tokens of a step, prefix cache): the quick ones, then the rest of the matrix.
QUICK = (("dca", 512, True), ("yarn+dca", 96, True), ("yarn+dca", 2048, False))
MATRIX = tuple(
    each
    for method in ("dca", "yarn+dca")
    for budget in (2048, 512, 96)
    for cached in (True, False)
    if (each := (method, budget, cached)) not in QUICK
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import vllm_helpers

    directory = tmp_path_factory.mktemp("model")
    vllm_helpers.save_model(directory)
    return directory


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    import vllm_helpers

    shared = vllm_helpers.prompts_with_one_beginning(SHARED_LENGTHS)
    twenty = vllm_helpers.prompts_of(TWENTY_LENGTHS, seed=3)
    return vllm_helpers.prompts_of(LENGTHS) + shared + twenty


@pytest.fixture(scope="module")
def expected(model: Path, prompts: list[list[int]]) -> dict[str, list[dict[str, Any]]]:
    import vllm_helpers

    methods = ("dca", "yarn+dca")
    return {method: vllm_helpers.engine_answers(model, method, prompts) for method in methods}


def named(method: str, budget: int, cached: bool) -> str:
    return f"{method} {budget} {'cached' if cached else 'uncached'}"


def engine(method: str | None, budget: int, cached: bool, rounds: Any, **more: Any) -> dict:
    import vllm_helpers

    options = {"max_num_batched_tokens": budget, "enable_prefix_caching": cached}
    if method is not None:
        options["additional_config"] = vllm_helpers.asks(method)
    options |= more.pop("options", {})
    name = named(method or "stock", budget, cached)
    return {"name": name, "options": options, "rounds": rounds, **more}


def job(model: Path, prompts: list[list[int]], engines: list[dict]) -> dict[str, Any]:
    import vllm_helpers

    made = {"prompts": prompts, "new": vllm_helpers.NEW, "engines": engines}
    return {"model": str(model), **made}


@pytest.fixture(scope="module")
def answers(model: Path, prompts: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import vllm_helpers

    engines = [engine(*each, EACH + EACH + TOGETHER) for each in QUICK]
    salted = engine("yarn+dca", 512, True, SHARED) | {"name": "salted"}
    unsalted = salted | {"name": "unsalted", "unsalted": True}
    engines += [salted | {"rounds": [*SHARED, TWENTY]}, unsalted]
    engines.append(engine(None, 512, True, EACH))
    wrong = {"additional_config": {"longctx": {"method": "yarn"}}}
    engines.append(engine("dca", 512, True, [], options=wrong) | {"name": "refused"})
    directory = tmp_path_factory.mktemp("vllm")
    return vllm_helpers.ask_vllm(job(model, prompts, engines), directory)


def check(rounds: list[list[dict]], numbers: list[list[int]], expected: list[dict]) -> None:
    for asked, got in zip(numbers, rounds, strict=True):
        for number, answer in zip(asked, got, strict=True):
            want = expected[number]
            assert answer["tokens"] == want["tokens"], f"prompt {number}"
            assert answer["logprobs"] == pytest.approx(want["logprobs"], abs=1e-4)


def test_the_engine_agrees_with_a_dense_forward_pass(model, prompts, expected) -> None:
    """What vLLM's answers are held against."""
    import vllm_helpers

    for method, answers in expected.items():
        dense = vllm_helpers.dense_logprobs(model, method, prompts, answers)
        for answer, logprobs in zip(answers, dense, strict=True):
            assert answer["logprobs"] == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", QUICK, ids=[named(*each) for each in QUICK])
def test_answers_equal_the_embedded_engines(kind, answers, expected) -> None:
    """One by one, again from cached prefixes, and all in one batch."""
    found = answers[named(*kind)]
    assert set(found["workers"][0]) == {OURS}
    check(found["rounds"], EACH + EACH + TOGETHER, expected[kind[0]])
    again = [answer["cached"] for (answer,) in found["rounds"][len(EACH) : 2 * len(EACH)]]
    assert again == ([0, 128, 512, 1152] if kind[2] else [0, 0, 0, 0])


def test_prompts_of_other_buckets_share_no_prefix(answers, expected) -> None:
    rounds = answers["salted"]["rounds"][: len(SHARED)]
    check(rounds, SHARED, expected["yarn+dca"])
    cached = [answer["cached"] for (answer,) in rounds]
    assert cached == [0] * len(SHARED)


def test_twenty_prompts_from_half_a_chunk_to_five(answers, expected) -> None:
    check(answers["salted"]["rounds"][len(SHARED) :], [TWENTY], expected["yarn+dca"])


def test_without_the_salt_prompts_of_other_buckets_spoil_each_other(answers, expected) -> None:
    """The control of the test above."""
    rounds = answers["unsalted"]["rounds"]
    assert sum(answer["cached"] > 0 for (answer,) in rounds) >= 3
    wanted = [expected["yarn+dca"][number]["logprobs"][0] for (number,) in SHARED]
    worst = max(
        abs(answer["logprobs"][0] - want) for (answer,), want in zip(rounds, wanted, strict=True)
    )
    assert worst > 1e-3


def test_a_model_that_nobody_asks_for_chunks_runs_on_vllms_own_attention(answers) -> None:
    assert set(answers[named("stock", 512, True)]["workers"][0]) == {STOCK}


@pytest.mark.parametrize("method", ["dca", "yarn+dca"])
def test_a_prompt_within_a_chunk_is_what_vllm_itself_answers(method, answers) -> None:
    (stock,) = answers[named("stock", 512, True)]["rounds"][0]
    kind = next(kind for kind in QUICK if kind[0] == method)
    (ours,) = answers[named(*kind)]["rounds"][0]
    assert ours["tokens"] == stock["tokens"]
    assert ours["logprobs"] == pytest.approx(stock["logprobs"], abs=1e-4)


def test_beyond_a_chunk_vllm_itself_answers_otherwise(answers) -> None:
    """Else the tests above would show nothing."""
    (stock,) = answers[named("stock", 512, True)]["rounds"][3]
    (ours,) = answers[named(*QUICK[0])]["rounds"][3]
    assert abs(ours["logprobs"][0] - stock["logprobs"][0]) > 1e-3


def test_a_refusal_comes_before_weights_are_loaded(answers) -> None:
    assert "method='yarn' cannot run in vLLM" in answers["refused"]["error"]


@pytest.fixture(scope="module")
def matrix(model: Path, prompts: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import vllm_helpers

    engines = [engine(*each, EACH + EACH + TOGETHER) for each in MATRIX]
    directory = tmp_path_factory.mktemp("matrix")
    return vllm_helpers.ask_vllm(job(model, prompts, engines), directory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MATRIX, ids=[named(*each) for each in MATRIX])
def test_the_rest_of_the_matrix(kind, matrix, expected) -> None:
    check(matrix[named(*kind)]["rounds"], EACH + EACH + TOGETHER, expected[kind[0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enforce_eager": False},
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2, "enforce_eager": False},
        {"block_size": 32},
    ],
    ids=["own process", "compiled", "tensor parallel 2", "pipeline parallel 2", "small pages"],
)
def test_other_processes_and_ranks_answer_the_same(
    options, model, prompts, expected, tmp_path
) -> None:
    """With the engine core in a process of its own, as a server has it."""
    import vllm_helpers

    rounds = [*EACH, *EACH, *TOGETHER, *SHARED]
    asked = job(model, prompts, [engine("yarn+dca", 512, True, rounds, options=options)])
    answers = vllm_helpers.ask_vllm(asked, tmp_path, VLLM_ENABLE_V1_MULTIPROCESSING="1")
    (found,) = answers.values()
    assert all(set(layers) == {OURS} for layers in found["workers"])
    check(found["rounds"], rounds, expected["yarn+dca"])
