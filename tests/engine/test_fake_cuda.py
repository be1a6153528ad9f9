"""The engine on one GPU and on two, without any: where its tensors lie, when the host waits.

Steps run on tensors that say they are on a GPU (tests/support/fake_cuda.py), by the kernel that
`auto` picks there and by one of packed sequences. Scores are compared with the engine's on the CPU.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import fake_cuda_models
import paging_kernels
import pytest
import torch
from counted_operations import Counted
from engine_helpers import CHUNKS, prompt_of
from fake_cuda import FakeCuda, real

from longctx.attention import kernels, packed, resolve
from longctx.attention.kernels import torch_cuda
from longctx.engine import Engine, EngineRequest, batch_attention, kv
from longctx.engine.constraint import JsonConstraints
from longctx.engine.request import Sampling
from longctx.eval.protocol import Request
from longctx.models.plain import PlainSession
from longctx.models.served import Asking, ServedSession

METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "pi": {"factor": 4.0},
    "ntk": {"factor": 4.0},
    "yarn": {"factor": 4.0},
    "dca": CHUNKS,
    "yarn+dca": CHUNKS,
    "yarn-freqs+dca": {**CHUNKS, "factor": 4.0},
}
RANDOM = Sampling(temperature=1.0, top_p=0.9, top_k=20, min_p=0.01, seed=1)
PENALISED = Sampling(repetition_penalty=1.2, presence_penalty=0.3)

INPUTS = ("upload", "longctx.engine.runner.Runner._inputs")
TOKENS = ("read", "longctx.engine.sampling._searched")
REPORT = ("read", "longctx.engine.sampling._reports")

# How often the host waits for a device in one step of the engine, and who asks for it. Ids and
# positions go in, when nothing is under way; the drawn tokens come out, once for all rows.
IN = {INPUTS: 2}
DRAWN = {**IN, TOKENS: 1}
STEPS: dict[str, dict[tuple[str, str], int]] = {
    "a prompt's first chunk": IN,
    "its last one": DRAWN,
    "a token and a prompt": DRAWN,
    "two tokens": DRAWN,
    "one token": DRAWN,
    "a shared beginning": DRAWN,
    # The likeliest ids and their values, and the drawn one's.
    "top logprobs": {**DRAWN, REPORT: 1},
    "penalties": DRAWN,
    # Targets go in; their scores and the likeliest tokens come out.
    "scores": {
        **IN,
        ("upload", "longctx.engine.stepper.Stepper._score"): 1,
        ("read", "longctx.engine.stepper.Stepper._score"): 2,
    },
}


def steps(engine: Engine, scores: list[float]) -> Generator[str, None, None]:
    """Everything that STEPS lists; "" where nothing is counted."""
    first = engine.submit(EngineRequest(prompt_of(90), max_new_tokens=8))
    for name in ("a prompt's first chunk", "its last one"):
        engine.step()
        yield name
    second = engine.submit(EngineRequest(prompt_of(40, 3), max_new_tokens=3, sampling=RANDOM))
    for name in ("a token and a prompt", "two tokens", "two tokens", "one token"):
        engine.step()
        yield name
    engine.run_until_idle()
    lengths = [len(handle.result(timeout=0).token_ids) for handle in (first, second)]
    assert lengths == [8, 3]
    yield ""
    for name, request in {
        "a shared beginning": EngineRequest(
            [*prompt_of(60), 5, 6], max_new_tokens=1, request_length=90
        ),
        "top logprobs": EngineRequest(
            prompt_of(40, 7), max_new_tokens=1, logprobs=True, top_logprobs=2
        ),
        "penalties": EngineRequest(prompt_of(40, 8), max_new_tokens=1, sampling=PENALISED),
        "scores": EngineRequest(prompt_of(60, 9), max_new_tokens=0, prompt_logprobs=True),
    }.items():
        handle = engine.submit(request)
        engine.step()
        answer = handle.result(timeout=0)
        assert answer.usage.cached_tokens == (60 if name == "a shared beginning" else 0)
        yield name
    scores.extend(answer.prompt_logprobs)


def engine_for(model: Any, method: str, kernel: str = "auto") -> Engine:
    scheme = resolve(model.config, method, **METHODS[method])
    return Engine(
        model, None, scheme, kernel=kernel, max_context=200, chunk_budget=64, share_from=16
    )


def check(model: Any, on_cpu: Any, method: str, devices: int, kernel: str = "auto") -> None:
    """Run both, compare, and count who of longctx made the host wait."""
    expected: list[float] = []
    scores: list[float] = []
    with engine_for(on_cpu, method) as engine:
        names = list(steps(engine, expected))
    with FakeCuda(devices) as cuda:
        fake_cuda_models.place(model, cuda.devices)
        with engine_for(model, method, kernel) as engine, closing(steps(engine, scores)) as found:
            assert engine.kernel_name == ("torch_cuda" if kernel == "auto" else kernel)
            for name in names:
                with cuda.during() as waits:
                    assert next(found) == name
                ours = [wait for wait in waits if wait.place.startswith("longctx.")]
                assert not [wait for wait in ours if wait.inside], name
                counted = Counter((wait.kind, wait.place) for wait in ours)
                assert not name or counted == STEPS[name], name
            assert not list(found) and engine.stats().counts.failed == 0
    assert not cuda.of("read", inside=True)
    assert not cuda.of("upload", inside=True)
    assert len(scores) == len(expected) == 59
    off = torch.tensor(scores) - torch.tensor(expected)
    assert off.abs().max() < 0.1, off


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> fake_cuda_models.PackingOnDevice:
    kernel = fake_cuda_models.PackingOnDevice()
    monkeypatch.setitem(kernels._KERNELS, kernel.name, kernel)
    return kernel


@pytest.fixture(autouse=True)
def nothing_is_repeated(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The engine survives what a step raises, and says so in its log."""
    with caplog.at_level(logging.WARNING, logger="longctx"):
        yield
    assert [record.message for record in caplog.records] == []


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_dense(method: str, devices: int) -> None:
    check(fake_cuda_models.build(), fake_cuda_models.build(), method, devices)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_kernel_of_packed_sequences(
    devices: int, packing: fake_cuda_models.PackingOnDevice
) -> None:
    models = fake_cuda_models.build(), fake_cuda_models.build()
    check(*models, "yarn+dca", devices, packing.name)
    assert packing.calls


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("keys", ["side by side", "scattered", "scattered, flash-attn 2"])
def test_operations_of_a_layer_with_its_writes(
    rows: int, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most twelve, however many rows, and runs of keys: prompts, prompts beside answers, answers
    alone."""
    attend, counts = batch_attention.batch_attention, Counter[int]()
    kernel, paged = "torch_cuda", Counter[bool]()
    if keys != "side by side":
        page = 16
        monkeypatch.setattr(torch_cuda, "PAGE", page)
        monkeypatch.setattr(kv, "block_tokens", lambda *_: page)
        paging_kernels.scatter(monkeypatch, page)
        if keys != "scattered":
            made = paging_kernels.install(monkeypatch, paging_kernels.Version2(page))
            monkeypatch.setitem(kernels._KERNELS, made.name, made)
            kernel = made.name
    laid_out = packed.layout_for

    def layout_for(*given: Any) -> Any:
        layout = laid_out(*given)
        assert layout is not None
        paged[layout.slabs[0].calls[0][0].pages_EP is not None] += 1
        return layout

    monkeypatch.setattr(packed, "layout_for", layout_for)

    def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
        if module.layer_idx == 0:  # it makes the step's tables
            return attend(module, *args, **kwargs)
        with Counted() as seen:
            found = attend(module, *args, **kwargs)
        assert seen.names.count("index_copy_") == 2, seen.names
        flash = sum("flash_attention" in name for name in seen.names)
        counts[flash] = max(counts[flash], len(seen.names))
        return found

    monkeypatch.setattr(batch_attention, "batch_attention", counted)
    with FakeCuda(1) as cuda:
        model = fake_cuda_models.place(fake_cuda_models.build(), cuda.devices)
        with engine_for(model, "yarn+dca", kernel) as engine:
            engine.submit(EngineRequest(prompt_of(9), max_new_tokens=1))
            engine.run_until_idle()  # the first step makes room for keys and values
            counts.clear()
            for n in range(rows):  # of several temperatures
                length = 40 + 17 * n if rows > 1 else 140  # in more runs than are read as such
                asked = EngineRequest(prompt_of(length, n), max_new_tokens=4 + n)
                handle = engine.submit(asked)
                engine.step()
            engine.run_until_idle()
            assert len(handle.result(timeout=0).token_ids) == 3 + rows
    # By calls of the kernel: steps of single tokens have one, those with prompts two.
    assert set(counts) == {1, 2} and max(counts.values()) <= 12, counts
    assert paged[True] > 0 or keys == "side by side"
    assert keys != "scattered, flash-attn 2" or not paged[False]
    assert not [wait for wait in cuda.waits if wait.inside]


@pytest.mark.parametrize("devices", [1, 2])
def test_experts(devices: int) -> None:
    models = fake_cuda_models.build("qwen2_moe"), fake_cuda_models.build("qwen2_moe")
    check(*models, "yarn+dca", devices)


@pytest.mark.parametrize(
    ("devices", "lies"), [(1, "cpu"), (2, "cpu"), (2, "cuda:0"), (2, "cuda:1")]
)
def test_rows_are_no_tensor_because_hooks_bring_it_to_the_wrong_gpu(
    devices: int, lies: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Hidden states end on the last GPU; what indexes them goes to the first with all inputs."""

    def as_tensor(module: Any, args: Any, kwargs: Any) -> Any:
        rows = torch.tensor(kwargs["logits_to_keep"], device=lies)
        return args, {**kwargs, "logits_to_keep": rows}

    with FakeCuda(devices) as cuda:
        model = fake_cuda_models.place(fake_cuda_models.build(), cuda.devices)
        model.register_forward_pre_hook(as_tensor, with_kwargs=True)
        with engine_for(model, "dca") as engine:
            handle = engine.submit(EngineRequest(prompt_of(20), max_new_tokens=1))
            engine.run_until_idle()
            if devices == 1:
                assert len(handle.result(timeout=0).token_ids) == 1
                return
            with pytest.raises(RuntimeError, match=r"same device as the indexed tensor \(cuda:1\)"):
                handle.result(timeout=0)
    assert "a request of 20 prompt tokens failed" in caplog.text
    caplog.clear()


def test_a_grammar_is_masked_where_the_logits_lie(chatml: Any) -> None:
    constraint = JsonConstraints(chatml, len(chatml)).compile({"type": "object"})
    on_cpu = torch.zeros(len(chatml))
    constraint.mask(on_cpu)
    with FakeCuda(2) as cuda:
        logits_V = torch.zeros(len(chatml), device="cuda:1")
        constraint.mask(logits_V)
    assert torch.equal(real(logits_V), on_cpu) and 0 < on_cpu.isfinite().sum() < len(chatml)
    assert [wait.kind for wait in cuda.waits] == ["upload"]


class Ids:
    """A tokenizer whose text is the ids."""

    eos_token_id = None

    def __len__(self) -> int:
        return 97

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("asked_by", [ServedSession, PlainSession])
def test_what_is_measured(asked_by: Any, devices: int) -> None:
    """A sweep's session: the proof that the method is at work, the memory, and scores."""
    ids, found = prompt_of(100), []
    on_cpu, model = (fake_cuda_models.build() for _ in range(2))
    scheme = resolve(model.config, "dca", **CHUNKS)
    arguments = [Ids(), scheme, *([Asking("auto", 200)] if asked_by is ServedSession else [])]
    with asked_by(on_cpu, *arguments) as session:
        found.append(session.logprobs(ids, request_length=100))
    with FakeCuda(devices) as cuda:
        fake_cuda_models.place(model, cuda.devices)
        with asked_by(model, *arguments) as session:
            assert session.proof["verified"] and session.backend == "torch_cuda"
            found.append(session.logprobs(ids, request_length=100))
            answers = [session.generate(Request([*ids, n], 3, 100)) for n in (1, 2)]
    assert [answer.cached_tokens for answer in answers] == [
        0 if asked_by is PlainSession else 100,
        100,
    ]
    assert abs(found[1] - found[0]).max() < 0.1
    assert not [wait for wait in cuda.waits if wait.inside]
