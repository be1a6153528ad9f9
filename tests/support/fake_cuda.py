"""CUDA devices on a machine without one: numbers on the CPU, CUDA's rules about where they lie.

A `DeviceTensor` says that it lies on cuda:N and computes on the CPU, so a model's own code runs as
it would on a GPU, and its answers can be compared. What a GPU would refuse is refused: operands on
two devices, by the rules of torch's own FakeTensor, and by this file's where that is silent (an
index on another GPU). What makes the host wait is written down, with who asked for it:

    read     numbers come to the host: .item(), bool(), .tolist(), .cpu(), nonzero, a boolean mask
    upload   numbers go to the device from memory that is not pinned, or not with non_blocking=True

    with FakeCuda(devices=2) as cuda:
        place(model, cuda.devices)
        model(ids.to("cuda:0"))
    assert not cuda.of("read", inside=True)

Cannot be seen: what a CUDA kernel computes, races between streams, memory, speed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import torch
from fake_cuda_ops import INDEXING, ON_DEVICE, composite, each, reads
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
_ATEN: Any = torch.ops.aten
_FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
_DEVICE: Any = torch.device
_RULES = FakeTensorMode()


class Wait(NamedTuple):
    """One time that the host waited for a device.

    Attributes:
        kind: "read" or "upload".
        place: the innermost function of longctx, transformers or accelerate that led to it.
        layer: the decoder layer inside which it happened.
    """

    kind: str
    op: str
    place: str
    layer: int | None

    @property
    def inside(self) -> bool:
        return self.layer is not None


class DeviceTensor(torch.Tensor):
    """Numbers on the CPU (`numbers`) that are said to lie elsewhere (`lies`)."""

    numbers: torch.Tensor
    lies: torch.device

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, lies: torch.device) -> DeviceTensor:
        make: Any = torch.Tensor._make_wrapper_subclass
        with torch.inference_mode(False):  # a view of a weight is what the weight is
            made: DeviceTensor = make(
                cls,
                numbers.shape,
                strides=numbers.stride(),
                storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype,
                layout=numbers.layout,
                device=CPU,  # C++ has no guard for a GPU in a build without one
            )
        made.numbers, made.lies = numbers, lies
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.lies

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.numbers!r}, {self.lies})"

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        return DeviceTensor(self.numbers.clone(), self.lies)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return FakeCuda.current().run(func, args, kwargs or {})


def real(x: Any) -> Any:
    """The numbers of a DeviceTensor; anything else as it is."""
    return x.numbers if isinstance(x, DeviceTensor) else x


def at(x: torch.Tensor, where: torch.device) -> torch.Tensor:
    """Numbers on the CPU, said to lie somewhere."""
    return DeviceTensor(x, where) if where.type == "cuda" else x


class FakeCuda(TorchFunctionMode):
    """While it is entered, torch finds so many CUDA devices.

    Attributes:
        waits: every time that the host waited, in order.
    """

    _entered: ClassVar[list[FakeCuda]] = []

    def __init__(self, devices: int = 1) -> None:
        super().__init__()
        self.devices = [torch.device("cuda", index) for index in range(devices)]
        self.waits: list[Wait] = []
        self.layer: int | None = None
        self._patches = ExitStack()

    @classmethod
    def current(cls) -> FakeCuda:
        return cls._entered[-1]

    def __enter__(self) -> FakeCuda:
        told = {
            "is_available": lambda: True,
            "device_count": lambda: len(self.devices),
            "current_device": lambda: 0,
            "get_device_capability": lambda device=None: (8, 0),
            "mem_get_info": lambda device=None: (1 << 28, 1 << 30),
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "empty_cache": lambda: None,
            "synchronize": lambda device=None: self._wait("read", "synchronize"),
        }
        for name, answer in told.items():
            self._patches.enter_context(mock.patch.object(torch.cuda, name, answer))
        flash = "is_flash_attention_available"
        self._patches.enter_context(
            mock.patch.object(torch.backends.cuda, flash, return_value=True)
        )
        self._entered.append(self)
        super().__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        self._entered.pop()
        self._patches.close()

    # -- what is asked afterwards ---------------------------------------------------------------

    def of(self, kind: str, *, inside: bool) -> list[Wait]:
        """Waits of a kind, inside the decoder layers or outside."""
        return [wait for wait in self.waits if (wait.kind, wait.inside) == (kind, inside)]

    @contextmanager
    def during(self) -> Iterator[list[Wait]]:
        """The waits of a block, filled in when it ends."""
        first, found = len(self.waits), list[Wait]()
        yield found
        found.extend(self.waits[first:])

    def _wait(self, kind: str, op: str) -> None:
        self.waits.append(Wait(kind, op, _asker(), self.layer))

    # -- functions whose device is said by name ---------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is _DEVICE and args and type(args[0]) is int:
            return _device(args[0])
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return self.move(args[0], CPU)
        if func is torch.Tensor.cuda:
            return self.move(args[0], _device(args[1] if len(args) > 1 else "cuda"))
        if func is torch.Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if func in (torch.Tensor.tolist, torch.Tensor.numpy) and isinstance(args[0], DeviceTensor):
            if func is torch.Tensor.numpy:
                raise TypeError(f"can't convert {args[0].lies} device type tensor to numpy")
            self._wait("read", "tolist")
            return args[0].numbers.tolist()
        if func is torch._C._nn.one_hot and isinstance(args[0], DeviceTensor):
            classes = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
            if classes == -1:
                self._wait("read", "one_hot")
            return at(func(args[0].numbers, classes), args[0].lies)
        said = kwargs.get("device")
        if said is None and func is torch.Tensor.new_tensor:
            said = args[0].device
        if said is None or _device(said).type == "meta":
            return func(*args, **kwargs)
        kwargs.pop("device", None)
        made = func(*args, **kwargs)
        where = _device(said)
        if func in _FROM_NUMBERS and where.type == "cuda" and made.numel():
            self._wait("upload", func.__name__)
        return at(real(made), where)

    def _to(self, x: torch.Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            device, dtype, non_blocking = args[0].device, args[0].dtype, False
            args = (dtype,)
        else:
            args = tuple(_device(x) if type(x) is int else x for x in args)  # .to(1)
            parse: Any = torch._C._nn._parse_to
            device, dtype, non_blocking, _ = parse(*args, **kwargs)
        if device is not None and device.type != "meta":
            if _device(device) != x.device:
                return self.move(x, _device(device), dtype, non_blocking)
            if not copy and dtype in (None, x.dtype):
                return x
            return torch.Tensor.to(x, dtype or x.dtype, copy=copy)
        return torch.Tensor.to(x, *args, copy=copy, **kwargs)

    def move(
        self,
        x: torch.Tensor,
        where: torch.device,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> torch.Tensor:
        """A copy on another device."""
        if x.device == where:
            return x
        self._copied(x, where, non_blocking)
        return at(real(x).to(dtype or x.dtype, copy=True), where)

    def _copied(self, x: torch.Tensor, where: torch.device, non_blocking: bool) -> None:
        if not x.numel():
            return
        if where.type == "cpu":
            self._wait("read", "copy to the host")
        elif x.device.type == "cpu" and not (non_blocking and getattr(x, "pinned", False)):
            self._wait("upload", "copy to the device")

    # -- operators --------------------------------------------------------------------------------

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator: where it lies, whether the host waits, and its numbers."""
        if composite(func):
            return func.decompose(*args, **kwargs)
        given: list[torch.Tensor] = []
        each(given.append, (args, list(kwargs.values())))
        where = self._where(func, args, kwargs, given)
        if reads(func) and any(x.device != CPU for x in given):
            self._wait("read", func.name().removeprefix("aten::").split(".")[0])
        compute: Callable[..., Any] = ON_DEVICE.get(func, func)
        named = {name: each(real, value) for name, value in kwargs.items()}
        made = compute(*each(real, args), **named)
        known = {id(real(x)): x for x in given}
        return each(lambda x: known[id(x)] if id(x) in known else at(x, where), made)

    def _where(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[torch.Tensor]
    ) -> torch.device:
        """The result's device.

        Raises:
            RuntimeError: operands on devices that a GPU does not take together.
        """
        if func in INDEXING:
            return self._index(func, args)
        devices = {x.device for x in given}
        if len(devices) == 1:
            return devices.pop()
        if func is _ATEN.copy_.default:
            self._copied(args[1], args[0].device, bool(args[2]) if len(args) > 2 else False)
            return args[0].device
        with _RULES:
            named = {name: each(_ruled, value) for name, value in kwargs.items()}
            made = func(*each(_ruled, args), **named)
        found: list[Any] = []
        each(found.append, [made])
        where: torch.device = found[0].fake_device
        return where

    def _index(self, func: Any, args: tuple[Any, ...]) -> torch.device:
        """Indices lie on the host or beside what they index; torch's FakeTensor does not look."""
        where: torch.device = args[0].device
        indices = [index for index in args[1] if index is not None]
        for index in indices:
            if index.device not in (where, CPU):
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    f"({where}), not on {index.device}"
                )
        values = args[2:3]
        for value in values:
            if value.device != where and (value.device != CPU or value.ndim):
                raise RuntimeError(
                    f"expected self and values to be on one device: {where}, {value.device}"
                )
        if where.type == "cpu":
            if any(index.device != CPU for index in indices):
                raise RuntimeError("indices should be on cpu, where the indexed tensor is")
            return where
        if any(index.device == CPU for index in indices):
            self._wait("upload", "index from the host")
        masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if masks and not any(value.numel() == 1 for value in values):  # that is masked_fill
            self._wait("read", "boolean mask")
        return where


def _ruled(x: torch.Tensor) -> FakeTensor:
    """Shape and device alone, for torch's own rules."""
    empty = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return FakeTensor(_RULES, empty, x.device)


def _device(said: Any) -> torch.device:
    device = torch.device("cuda", said) if isinstance(said, int) else torch.device(said)
    return torch.device("cuda", 0) if device == torch.device("cuda") else device


def _asker() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in ("longctx", "transformers", "accelerate"):
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "a test"
