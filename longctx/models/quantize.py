"""`--quantize int8`: which layers of a model become bytes, how they are loaded, and what is told.

    on a CPU    every linear layer but those that choose experts: int8.py. The embedding's table
                stays; a head that is tied to it gets bytes of its own where the whole is smaller
    on a GPU    torchao's weight-only form, loaded by transformers

Weights that are no linear layers (experts fused into one tensor) stay as they are, and are told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from longctx.attention import cpu
from longctx.engine.allocator import give_back
from longctx.errors import UserError
from longctx.eval.format import show_bytes
from longctx.models.int8 import Int8Linear, side_by_side, size_of
from longctx.models.parameters import on_meta
from longctx.models.source import Source, load_model
from longctx.options.shared import PLAIN

# Rounding in what chooses experts would send tokens elsewhere.
_ROUTERS = ("gate", "router", "shared_expert_gate")
# Layers that transformers' decoders give the same tensor, in this order. Another tensor, or another
# order, would cost time and change nothing.
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# Numbers in linear layers from which bytes are offered: below, small operations take the time.
_PAYS_FROM = 50_000_000
_TRIM_EVERY = 4 << 20


class LinearSizes(NamedTuple):
    """Numbers in weights and biases of linear layers, and what they take as bytes with scales.

    `tied`: of the numbers, those of a head that is the embedding as well, which stays.
    """

    numbers: int
    bytes: int
    tied: int

    def saved(self, itemsize: int) -> int:
        """Bytes less than in a dtype of that size."""
        return (self.numbers - self.tied) * itemsize - self.bytes


def check(quantize: str, source: Source, config: PretrainedConfig, device: str) -> None:
    """What can be known before weights are loaded.

    Raises:
        UserError: this machine or this model has no such form.
    """
    if quantize == PLAIN:
        return
    packed = getattr(config, "quantization_config", None)
    if packed and source.kind != "gguf":
        how = packed.get("quant_method") if isinstance(packed, dict) else type(packed).__name__
        raise UserError(
            f"--quantize {quantize}: the weights of {source.name} are packed already ({how}): "
            "leave it out"
        )
    if device == "cpu":
        able = cpu.multiplies_int8()
        if not able:
            raise UserError(f"--quantize {quantize}: {able.reason}: leave it out")
        return
    if source.kind == "gguf":
        raise UserError(
            f"--quantize {quantize}: on a GPU not for a GGUF file: make a directory of it with "
            "`python -m longctx.models.convert_gguf`, or leave it out"
        )
    _torchao(quantize)


def form(quantize: str, device: str) -> str | None:
    """What products are computed of, as it is kept in keys and fingerprints; None: as without."""
    if quantize == PLAIN:
        return None
    if device != "cpu":
        return f"{quantize} weights"
    return quantize if cpu.largest_int8_weight() == 127 else f"{quantize}, weights of 7 bits"


def fingerprint_of(weights: str, quantize: str, device: str) -> str:
    """A model's fingerprint with that in it."""
    made = form(quantize, device)
    return weights if made is None else f"{weights} ({made})"


def load(
    source: Source,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device_map: str,
    quantize: str,
    device: str,
) -> PreTrainedModel:
    """The weights on their devices, as `load_model` or in bytes.

    On a CPU they come as the checkpoint has them, which maps its files and copies nothing, and are
    rounded layer by layer: both forms of one layer are there at a time, never of all.

    Raises:
        UserError: they cannot be loaded.
    """
    if quantize == PLAIN:
        return load_model(source, config, dtype, device_map)
    if device != "cpu":
        packed = _torchao(quantize)
        return load_model(source, config, dtype, device_map, quantization_config=packed)
    model = load_model(source, config, _stored(source, config) or dtype, device_map)
    round_linears(model)
    _finish(model, dtype)
    give_back()
    return model


def round_linears(model: nn.Module) -> None:
    """Bytes in place of the model's linear layers; each float weight goes with its layer."""
    freed = 0
    groups = list(_groups(list(_chosen(model))))  # names alone: layers would be held to the end
    for parent, names in groups:
        layers = [getattr(parent, name) for name in names]
        for name, made in zip(names, side_by_side(layers), strict=True):
            setattr(parent, name, made)
        freed += sum(layer.weight.nbytes for layer in layers)
        if freed >= _TRIM_EVERY:
            freed = 0
            give_back()


def sizes_of(model: nn.Module) -> LinearSizes:
    """Of a model with float weights, also on meta."""
    tied = _tied(model)
    numbers = size = shared = 0
    for _, _, layer in _chosen(model):
        numbers += sum(weight.numel() for weight in layer.parameters())
        size += _size(layer)
        shared += layer.weight.numel() if id(layer.weight) in tied else 0
    return LinearSizes(numbers, size, shared)


def planned_bytes(name: str, config: PretrainedConfig, itemsize: int, quantize: str) -> int:
    """What weights will take on a CPU in a dtype of that size, tied ones once.

    Raises:
        UserError: no model can be made of the config.
    """
    model = on_meta(name, config)
    whole = sum(weight.numel() for weight in model.parameters()) * itemsize
    return whole if quantize == PLAIN else whole - sizes_of(model).saved(itemsize)


def weight_bytes(model: nn.Module) -> int:
    """What the weights take, tied ones once, rounded ones as bytes."""
    floats = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return floats + sum(layer.nbytes for layer in _rounded(model))


def notes(model: nn.Module, quantize: str, dtype: torch.dtype, device: str) -> list[str]:
    """What to tell of a loaded model: what became of it, or what would serve it better."""
    if quantize == PLAIN:
        offered = _offer(model, dtype) if device == "cpu" else None
        return [] if offered is None else [offered]
    return [_words(model, quantize)]


def _words(model: nn.Module, quantize: str) -> str:
    layers = list(_rounded(model))
    if not layers:
        return "weights of linear layers in int8, by torchao"
    whole = weight_bytes(model)
    told = (
        f"weights take {show_bytes(whole)}: {len(layers)} linear layers in "
        f"{form(quantize, 'cpu')}, their activations in 16 bits, row by row"
    )
    left = _left(model)
    if not left:
        return told
    share = sum(left.values()) / whole
    names = ", ".join(f"{name} ({show_bytes(size)})" for name, size in left.items())
    return f"{told}; not rounded are {names}, {share:.0%} of all: no linear layers"


def _offer(model: nn.Module, dtype: torch.dtype) -> str | None:
    """In float32 alone: where bfloat16 is computed natively, bytes gain little."""
    if dtype != torch.float32:
        return None
    if not cpu.multiplies_int8():
        return None
    sizes, now = sizes_of(model), weight_bytes(model)
    if sizes.numbers < _PAYS_FROM or 2 * sizes.numbers * dtype.itemsize < now:
        return None
    less = now - sizes.saved(dtype.itemsize)
    return (
        f"--quantize int8 would take {show_bytes(less)} of weights instead of {show_bytes(now)}, "
        "and less time for a token of the answer; answers are a little different"
    )


def _torchao(quantize: str) -> Any:
    """
    Raises:
        UserError: it is not installed, or another one than transformers takes.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    except (ImportError, ValueError) as error:
        raise UserError(
            f"--quantize {quantize}: on a GPU torchao computes it, and it cannot be used here "
            f"({str(error).splitlines()[0]}): pip install torchao, or leave --quantize out"
        ) from error


def _chosen(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and layer of all that become bytes; the same whatever dtype these are in."""
    tied, found = _tied(model), []
    for parent in model.modules():
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear and name not in _ROUTERS:
                found.append((parent, name, layer))
    own = [each for each in found if id(each[2].weight) not in tied]
    yield from own
    room = sum(2 * layer.weight.numel() - _size(layer) for _, _, layer in own)
    for parent, name, layer in found:
        if id(layer.weight) in tied and _size(layer) < room:
            yield parent, name, layer


def _size(layer: nn.Linear) -> int:
    return size_of(layer.in_features, layer.out_features, len(list(layer.parameters())) > 1)


def _groups(
    chosen: Sequence[tuple[nn.Module, str, nn.Linear]],
) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Parents, and names of layers of theirs that read the same tensor."""
    names: dict[int, list[str]] = {}
    for parent, name, _ in chosen:
        names.setdefault(id(parent), []).append(name)
    done: set[tuple[int, str]] = set()
    for parent, name, _ in chosen:
        if (id(parent), name) in done:
            continue
        mine = names[id(parent)]
        group = next((g for g in _SAME_INPUT if name in g and set(g) <= set(mine)), (name,))
        done.update((id(parent), each) for each in group)
        yield parent, group


def _tied(model: nn.Module) -> set[int]:
    """Weights with more than one owner."""
    owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    return {each for each, count in owners.items() if count > 1}


def _rounded(model: nn.Module) -> Iterator[Int8Linear]:
    return (each for each in model.modules() if isinstance(each, Int8Linear))


def _left(model: nn.Module) -> dict[str, int]:
    """Bytes of weights that are neither rounded nor embeddings nor small, by their class."""
    found: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        size = sum(weight.nbytes for weight in module.parameters(recurse=False) if weight.ndim > 2)
        if size:
            found[type(module).__name__] += size
    return dict(found)


def _stored(source: Source, config: PretrainedConfig) -> torch.dtype | None:
    """What a directory's weights are in by its config; None where it does not say, and for GGUF."""
    own: Any = config.dtype
    own = getattr(torch, own, None) if isinstance(own, str) else own
    return None if source.kind == "gguf" or not isinstance(own, torch.dtype) else own


def _finish(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """What is left, in the model's dtype and in memory of its own: else the file stays mapped."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype, copy=True)
    model.config.dtype = dtype
