"""The devices that are only said to be there refuse what a GPU refuses, and count every wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fake_cuda_models
import pytest
import torch
from fake_cuda import FakeCuda, real
from fake_cuda_ops import check_flash

from longctx.attention import extend

ONE, OTHER, HOST = "cuda:0", "cuda:1", "cpu"


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with FakeCuda(devices=2) as entered:
        yield entered


def ones(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape or (4, 4), dtype=dtype, device=device)


def put(x: torch.Tensor, at: Any, value: Any) -> None:
    x[at] = value


LONG = {"dtype": torch.long}
APART: dict[str, Callable[[], Any]] = {
    "sum of two GPUs": lambda: ones(ONE) + ones(OTHER),
    "sum with the host": lambda: ones(ONE) + ones(HOST),
    "one number of another GPU": lambda: ones(ONE) * ones(OTHER)[0, 0],
    "product": lambda: ones(ONE) @ ones(OTHER),
    "linear": lambda: torch.nn.functional.linear(ones(ONE), ones(OTHER)),
    "cat": lambda: torch.cat([ones(ONE), ones(HOST)]),
    "embedding": lambda: torch.nn.functional.embedding(ones(HOST, 2, **LONG), ones(ONE)),
    "index on another GPU": lambda: ones(OTHER)[:, ones(ONE, 2, **LONG)],
    "host indexed from a GPU": lambda: ones(HOST)[ones(ONE, 2, **LONG)],
    "written by an index on another GPU": lambda: put(ones(OTHER), ones(ONE, 2, **LONG), 0.0),
    "written from another GPU": lambda: put(ones(ONE), ones(ONE, 1, **LONG), ones(OTHER)[:1]),
    "where": lambda: torch.where(ones(ONE) > 0, ones(ONE), ones(OTHER)),
    "addcmul": lambda: ones(ONE).addcmul_(ones(ONE), ones(OTHER)),
}
TOGETHER: dict[str, Callable[[], Any]] = {
    "a number of the host": lambda: ones(ONE) * ones(HOST)[0, 0],
    "a copy into a slice": lambda: put(ones(ONE), slice(0, 2), ones(OTHER)[:2]),
    "an index from the host": lambda: ones(ONE)[ones(HOST, 2, **LONG)],
    "in one step": lambda: torch.addcmul(ones(ONE), ones(ONE), ones(ONE), out=ones(ONE)),
}


@pytest.mark.parametrize("name", APART)
def test_operands_on_two_devices_are_refused(cuda: FakeCuda, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"cuda|on cpu"):
        APART[name]()


@pytest.mark.parametrize("name", TOGETHER)
def test_what_a_gpu_allows_is_allowed(cuda: FakeCuda, name: str) -> None:
    TOGETHER[name]()


READS: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x[0, 0].item(),
    "bool": lambda x: bool(x[0, 0] > 0),
    "float": lambda x: float(x[0, 0]),
    "index": lambda x: [*range(4)][x[0, 0].long()],
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", torch.float64),
    "copied to the host": lambda x: torch.zeros(4, 4).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "boolean mask": lambda x: x[x > 0],
    "written through a mask": lambda x: put(x, x > 0, torch.ones(16, device=ONE)),
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "repeats": lambda x: x.repeat_interleave(torch.ones(4, device=ONE).long(), dim=0),
    "synchronize": lambda x: torch.cuda.synchronize(),
}
UPLOADS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda x: torch.tensor([1, 2], device=ONE),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "to": lambda x: torch.ones(3).to(ONE),
    "cuda": lambda x: torch.ones(3).cuda(),
    "not pinned": lambda x: torch.ones(3).to(ONE, non_blocking=True),
    "pinned, and waiting": lambda x: torch.ones(3).pin_memory().to(ONE),
    "list as an index": lambda x: x[[0, 2]],
    "copied to the device": lambda x: x.copy_(torch.zeros(4, 4)),
}
NO_WAIT: dict[str, Callable[[torch.Tensor], Any]] = {
    "made there": lambda x: torch.arange(3, device=ONE) + torch.zeros(3, device=x.device),
    "no numbers": lambda x: torch.tensor([], device=ONE),
    "pinned": lambda x: torch.ones(3).pin_memory().to(ONE, non_blocking=True),
    "to another GPU": lambda x: x.to(OTHER),
    "one number through a mask": lambda x: put(x, x > 0, 0.0),
    "slices": lambda x: x[:, 1:3].unbind(0),
    "on the host": lambda x: torch.ones(3).nonzero().tolist(),
}


@pytest.mark.parametrize(
    ("kind", "do"),
    [
        *(pytest.param("read", do, id=f"read-{name}") for name, do in READS.items()),
        *(pytest.param("upload", do, id=f"upload-{name}") for name, do in UPLOADS.items()),
        *(pytest.param(None, do, id=f"no-{name}") for name, do in NO_WAIT.items()),
    ],
)
def test_every_wait_is_counted_once(
    cuda: FakeCuda, kind: str | None, do: Callable[[torch.Tensor], Any]
) -> None:
    do(ones(ONE))
    assert [wait.kind for wait in cuda.waits] == ([] if kind is None else [kind])


def test_numbers_are_those_of_the_host(cuda: FakeCuda) -> None:
    x = torch.arange(12.0).view(3, 4)
    there, kept = x.to(OTHER), x.clone()
    there[1:, ::2] *= 3
    assert there.mT.device == torch.device(OTHER) and there.is_cuda
    assert torch.equal(x, kept), "a copy"
    x[1:, ::2] *= 3
    assert torch.equal(real(there @ there.mT), x @ x.mT)


def test_numpy_is_refused(cuda: FakeCuda) -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        ones(ONE).numpy()


@pytest.mark.parametrize(
    ("why", "x"),
    [
        ("misaligned", torch.ones(1, 2, 3, 24, dtype=torch.bfloat16)[..., 1:17]),
        ("misaligned", torch.ones(1, 2, 3, 20, dtype=torch.bfloat16)[..., :16]),
        ("head_dim 12", torch.ones(1, 2, 3, 12, dtype=torch.bfloat16)),
        ("float32", torch.ones(1, 2, 3, 16)),
        ("no keys", torch.ones(1, 2, 0, 16, dtype=torch.bfloat16)),
    ],
)
def test_what_flash_attention_reads_is_checked(why: str, x: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match=why):
        check_flash(x)


def test_a_read_planted_in_a_layer_is_seen_there_and_named(cuda: FakeCuda) -> None:
    model = fake_cuda_models.place(fake_cuda_models.build(), cuda.devices[:1])
    mlp = model.model.layers[2].mlp
    mlp.register_forward_hook(lambda module, args, out: out * float(out.amax() * 0 + 1))
    with torch.no_grad():
        model(torch.ones(1, 9, dtype=torch.long, device=ONE))
    (wait,) = cuda.of("read", inside=True)
    assert (wait.layer, wait.op) == (2, "_local_scalar_dense")
    assert wait.place.startswith("transformers.models.qwen2.modeling_qwen2.Qwen2DecoderLayer")


def test_a_layer_that_is_left_on_another_device_is_refused(cuda: FakeCuda) -> None:
    model = fake_cuda_models.place(fake_cuda_models.build(), cuda.devices)
    norm = model.model.layers[3].input_layernorm
    norm.weight = torch.nn.Parameter(norm.weight.to(ONE), requires_grad=False)
    with (
        extend(model, "dca", chunk_size=32, local_size=8),
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"devices, cuda:. and cuda:."),
    ):
        model(torch.ones(1, 9, dtype=torch.long, device=ONE))


def test_everything_is_as_before_outside() -> None:
    before = torch.cuda.is_available
    with FakeCuda():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert torch.cuda.is_available is before
