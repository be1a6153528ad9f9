"""Steps over a GPU's pages, through a stand-in that holds vLLM's varlen function to its contract.

Random batches against a dense oracle: prompts, decoded tokens, both at once; scattered pages of 16
to 256 tokens, temperatures from the host or from the device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda, real
from oracle import relative_error
from paged_batches import DIM, Batch, DeviceVarlen, Varlen, batch_of

from longctx.attention import ChunkMap
from longctx.attention import packed as packed_module
from longctx.attention.chunks import Turns
from longctx.attention.packed import attend_tokens
from longctx.attention.rope import base_inv_freq, temperature
from longctx.vllm.pages import DeviceTemperatures, PagedKernel, plan_pages
from longctx.vllm.steps import VllmRow


def attended(batch: Batch, m_T: torch.Tensor | None = None) -> tuple[torch.Tensor, Varlen]:
    requests = batch.requests
    if m_T is not None:
        requests = [each._replace(logit_scale=1.0) for each in requests]
    step = plan_pages(requests, batch.turns, batch.table_RP, batch.page, m_T)
    assert step is not None and step.tokens == len(batch.q_THD)
    varlen = Varlen()
    kernel = PagedKernel(step, varlen, 3)
    out_THD = attend_tokens(step.layout, batch.q_THD, *batch.halves(), kernel, DIM**-0.5)
    return out_THD, varlen


CASES = [
    ("prefill", 1, 16, "yarn+dca"),
    ("prefill", 3, 64, "dca"),
    ("decode", 1, 32, "dca"),
    ("decode", 64, 16, "yarn+dca"),
    ("mixed", 5, 16, "dca"),
    ("mixed", 6, 32, "yarn+dca"),
    ("mixed", 16, 128, "yarn+dca"),
    ("mixed", 2, 256, "yarn+dca"),
    ("preempted", 3, 16, "yarn+dca"),
    ("mixed, some preempted", 9, 32, "yarn+dca"),
]


@pytest.mark.parametrize(("kind", "count", "page", "method"), CASES)
def test_random_batches_equal_the_oracle(kind, count, page, method) -> None:
    batch = batch_of(kind, count, page, method, seed=count)
    got, varlen = attended(batch)
    assert varlen.calls in ([True], [False], [True, False])
    assert kind != "decode" or varlen.calls == [False]  # all rows and parts in one call
    assert relative_error(got, batch.want_THD) < 1e-5


@pytest.mark.parametrize("slab", [packed_module.SLAB, 37])
def test_temperatures_from_the_device_are_those_of_the_host(slab, monkeypatch) -> None:
    monkeypatch.setattr(packed_module, "SLAB", slab)
    batch = batch_of("mixed", 6, 16, "yarn+dca", seed=9)
    original = batch.turns.chunk_map.chunk_size
    temperatures = DeviceTemperatures(
        original, 4096, lambda edge: temperature(edge, original) ** 2, torch.device("cpu")
    )
    lengths = [each.length for each in batch.requests]
    m_T = temperatures.of_tokens(torch.tensor(batch.prompts, dtype=torch.int32), lengths)
    scales = [each.logit_scale for each in batch.requests for _ in range(each.length)]
    assert m_T.tolist() == pytest.approx(scales, abs=1e-6) and len(set(scales)) > 1
    assert relative_error(attended(batch, m_T)[0], batch.want_THD) < 1e-5


def test_requests_without_tokens_are_left_out() -> None:
    batch = batch_of("mixed", 3, 16, "dca", seed=4)
    padding = VllmRow(len(batch.q_THD), 0, 0, (), 1.0)
    batch.requests.append(padding)
    batch.table_RP = torch.cat((batch.table_RP, batch.table_RP[:1]))
    assert relative_error(attended(batch)[0], batch.want_THD) < 1e-5
    assert plan_pages([padding], batch.turns, batch.table_RP, 16) is None


def test_pages_must_divide_chunks_and_addresses_fit() -> None:
    turns = Turns(ChunkMap(128, 16), base_inv_freq(1e4, DIM))
    table = torch.zeros(2, 8, dtype=torch.int32)
    row = VllmRow(0, 1, 1, (), 1.0)
    with pytest.raises(ValueError, match=r"pages of 64 tokens do not divide chunks of S=112"):
        plan_pages([row, row], turns, table, 64)
    with pytest.raises(ValueError, match="lower --max-num-seqs"):
        plan_pages([row] * 2, turns, torch.zeros(2, 1 << 27, dtype=torch.int8), 16)


def test_a_step_is_planned_without_waiting_for_the_device() -> None:
    batch = batch_of("mixed", 5, 16, "yarn+dca", seed=3)
    prompts = torch.tensor(batch.prompts, dtype=torch.int32)
    original = batch.turns.chunk_map.chunk_size
    with FakeCuda(devices=1) as cuda:
        device: Any = torch.device("cuda:0")
        turns = Turns(batch.turns.chunk_map, batch.turns.inv_freq_F.to(device))
        temperatures = DeviceTemperatures(
            original, 4096, lambda edge: temperature(edge, original) ** 2, device
        )
        table_RP, prompts = batch.table_RP.to(device), prompts.to(device)
        turns.at(turns_part(turns), range(1), device)  # its table is made once
        before = len(cuda.waits)
        m_T = temperatures.of_tokens(prompts, [each.length for each in batch.requests])
        step = plan_pages(batch.requests, turns, table_RP, 16, m_T)
        assert step is not None
        assert cuda.waits[before:] == []
        assert all(table.device == device for table in step.tables.values())


@pytest.mark.parametrize("slab", [packed_module.SLAB, 37])
def test_a_layer_attends_without_waiting_for_the_device(slab, monkeypatch) -> None:
    """And every tensor that it makes lies there."""
    monkeypatch.setattr(packed_module, "SLAB", slab)
    batch = batch_of("mixed, some preempted", 6, 16, "yarn+dca", seed=3)
    with FakeCuda(devices=1) as cuda:
        device: Any = torch.device("cuda:0")
        turns = Turns(batch.turns.chunk_map, batch.turns.inv_freq_F.to(device))
        q_THD, keys, values = (x.to(device) for x in (batch.q_THD, *batch.halves()))
        step = plan_pages(batch.requests, turns, batch.table_RP.to(device), 16)
        assert step is not None
        kernel = PagedKernel(step, DeviceVarlen(), 3)
        with cuda.during() as waits:
            got = attend_tokens(step.layout, q_THD, keys, values, kernel, DIM**-0.5)
        assert waits == [] and got.device == device
    assert relative_error(real(got), batch.want_THD) < 1e-5


def turns_part(turns: Turns) -> Any:
    from longctx.attention.chunks import KeyPart

    return KeyPart("past", slice(0, 1), turns.chunk_map.max_position)
