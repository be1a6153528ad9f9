"""What a model needs at a length, and which GPUs hold it: from its config, before any weights.

    weights + activations of one step + keys and values of every context <= usable memory

Counts the parameters of the model that transformers would build, without building it. What a step
takes, and what several GPUs hold together, it asks the engine's `memory`.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import psutil

from longctx.errors import UserError
from longctx.models.parameters import Weights, count_parameters
from longctx.models.placement import Sizes, spread

GiB = 1 << 30
# What a card of a label shows as its memory: 79.6 GiB of "80GB". The rest goes to the driver.
_GIB_PER_LABEL = 0.995
# Of that, what may be planned: the rest is for fragments, buffers of communication and graphs.
USABLE = 0.9
_MOST_GPUS = 1024
# Of a machine's free memory, what weights in float32 may take: keys and a step need their part.
WEIGHTS_SHARE = 0.7
# What a server's process has beside the libraries that a plan needs too, as measured.
_SERVER_BYTES = 55 << 20


@dataclass(frozen=True)
class PlannedModel:
    """What a plan is a function of. Sizes in bytes but for `parameters`; `scheme` is for people."""

    name: str
    parameters: int
    weights: Weights
    weight_bytes: int
    first_bytes: int  # of these, on the first GPU beside its layers: the embedding, a tied head
    last_bytes: int  # and on the last: norm and head
    kv_bytes_per_token: int
    layers: int
    heads: int
    kv_heads: int
    step_bytes: int
    context: int
    scheme: str
    one_step_bytes: int  # of these, what a single request takes: one row of logits
    # Of int8: what a CPU takes as bytes, linear layers alone, and as how many bytes.
    linear_parameters: int = 0
    linear_bytes: int = 0
    # What a CPU keeps of a token where keys are int8; whether they are.
    int8_kv_bytes_per_token: int = 0
    cpu_kv_dtype: str = "auto"

    def bytes_on_cpu(self, itemsize: int) -> int:
        """Of the weights, what is not rounded in a dtype of that size."""
        return (self.parameters - self.linear_parameters) * itemsize + self.linear_bytes

    @property
    def int8_kv_bytes(self) -> int:
        """Keys and values of one context in int8."""
        return self.int8_kv_bytes_per_token * self.context

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one context in bfloat16."""
        return self.kv_bytes_per_token * self.context


@dataclass(frozen=True)
class Gpus:
    """`4x80GB`: how many, and the size that they are sold by."""

    count: int
    label_gb: float

    @property
    def usable_bytes(self) -> int:
        """Of one GPU."""
        return int(self.label_gb * _GIB_PER_LABEL * USABLE * GiB)

    def __str__(self) -> str:
        return f"{self.count}x{self.label_gb:g}GB"


@dataclass(frozen=True)
class Placement:
    """One way to spread a model over GPUs: `replicas` of it, each over `gpus_each` of them.

    `split`: nothing on one GPU, its layers (one GPU computes at a time), or every layer (tensor
    parallel). Bytes are per GPU. `contexts` counts all replicas; `longest` is the largest single
    context that memory holds, in tokens, 0 where not even the weights fit.
    """

    gpus: str
    split: Literal["none", "layers", "tensor"]
    gpus_each: int
    replicas: int
    engine: Literal["hf", "vllm"]
    weight_bytes: int
    step_bytes: int
    kv_bytes_per_context: int
    usable_bytes: int
    contexts: int
    longest: int


def parse_gpus(text: str, flag: str = "--gpus") -> tuple[Gpus, ...]:
    """`4x80GB`, several with commas; the count may be left out."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(
            r"(?:(\d+)\s*[xX×]\s*)?(\d+(?:\.\d+)?)\s*(?:GB|G)?", part.strip(), re.I
        )
        count, size = (int(match[1] or 1), float(match[2])) if match else (0, 0.0)
        if not 1 <= count <= _MOST_GPUS or not 1 <= size <= 10_000:
            raise UserError(f"{flag} {part.strip()}: not GPUs: write count and size, as 4x80GB")
        found.append(Gpus(count, size))
    return tuple(dict.fromkeys(found))


def tensor_parallel_sizes(heads: int, kv_heads: int, most: int) -> list[int]:
    """Powers of two that divide the query heads and either divide the KV heads or are multiples."""
    sizes = []
    size = 1
    while size <= most:
        if heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0):
            sizes.append(size)
        size *= 2
    return sizes


def options_for(model: PlannedModel, gpus: Gpus) -> list[Placement]:
    """One GPU each, the layers over all of them, and every tensor parallel size they allow."""
    options = [_option(model, gpus, "none", 1, 1.0, 1.0)]
    if gpus.count > 1:
        options.append(_by_layers(model, gpus))
    for size in tensor_parallel_sizes(model.heads, model.kv_heads, gpus.count)[1:]:
        # With more GPUs than KV heads, heads are held more than once.
        kv_share = 1 / min(size, model.kv_heads)
        options.append(_option(model, gpus, "tensor", size, 1 / size, kv_share))
    return options


def _option(
    model: PlannedModel,
    gpus: Gpus,
    split: Literal["none", "layers", "tensor"],
    gpus_each: int,
    weight_share: float,
    kv_share: float,
) -> Placement:
    weight_bytes = math.ceil(model.weight_bytes * weight_share)
    kv_per_token = math.ceil(model.kv_bytes_per_token * kv_share)
    left = max(gpus.usable_bytes - weight_bytes - model.step_bytes, 0)
    replicas = gpus.count // gpus_each
    return Placement(
        gpus=str(gpus),
        split=split,
        gpus_each=gpus_each,
        replicas=replicas,
        engine="vllm" if split == "tensor" else "hf",
        weight_bytes=weight_bytes,
        step_bytes=model.step_bytes,
        kv_bytes_per_context=kv_per_token * model.context,
        usable_bytes=gpus.usable_bytes,
        contexts=left // (kv_per_token * model.context) * replicas,
        longest=left // kv_per_token,
    )


def _by_layers(model: PlannedModel, gpus: Gpus) -> Placement:
    """As models are loaded. Bytes are of the GPU that has the most."""
    from longctx.engine.memory import DeviceShare, kv_budget

    devices = spread(sizes_of(model), [gpus.usable_bytes] * gpus.count, model.step_bytes)
    if devices is None:  # as even as can be: so much does not fit
        share = -(-model.layers // gpus.count) / model.layers
        return replace(
            _option(model, gpus, "layers", gpus.count, share, share), contexts=0, longest=0
        )
    tokens = kv_budget([DeviceShare(device.left, device.layers) for device in devices])
    tokens //= model.kv_bytes_per_token
    most = max(device.layers for device in devices)
    return Placement(
        gpus=str(gpus),
        split="layers",
        gpus_each=gpus.count,
        replicas=1,
        engine="hf",
        weight_bytes=max(device.weights for device in devices),
        step_bytes=model.step_bytes,
        kv_bytes_per_context=model.kv_bytes * most // model.layers,
        usable_bytes=gpus.usable_bytes,
        contexts=tokens // model.context,
        longest=tokens,
    )


def sizes_of(model: PlannedModel) -> Sizes:
    """For `placement.spread`."""
    layers = model.weight_bytes - model.first_bytes - model.last_bytes
    return Sizes(
        model.layers,
        math.ceil(layers / model.layers),
        model.first_bytes,
        model.last_bytes,
        model.kv_bytes_per_token // model.layers,
    )


def best(options: list[Placement]) -> Placement:
    """Most contexts at once; then the fewest GPUs that must talk, and tensors before layers."""
    return max(
        options,
        key=lambda option: (
            option.contexts,
            0 if option.contexts else option.longest,
            -option.gpus_each,
            option.split == "tensor",
        ),
    )


def model_of(
    name: str,
    config: Any,
    *,
    context: int,
    weights: Weights,
    step_tokens: int,
    logit_rows: int,
    kv_dtype: str = "auto",
) -> PlannedModel:
    """Measure a transformers config.

    Args:
        step_tokens, logit_rows: of one step, for the estimate of activations.
        kv_dtype: of keys and values on a CPU, auto or int8.

    Raises:
        UserError: packed weights, or a cache that is not keys and values of every layer.
    """
    from longctx.attention.config import default_method, resolve
    from longctx.attention.int8_keys import ROOM
    from longctx.engine.memory import step_bytes
    from longctx.models.source import shape_of

    _check(name, config)
    shape = shape_of(config)
    counted = count_parameters(name, config, weights)
    try:
        scheme = str(resolve(config, default_method(config), request_length=context))
    except ValueError as error:
        scheme = f"method none ({error})"
    return PlannedModel(
        name=name,
        parameters=counted.parameters,
        weights=weights,
        weight_bytes=counted.bytes,
        first_bytes=counted.first,
        last_bytes=counted.last,
        kv_bytes_per_token=shape.kv_bytes(1, 2),
        # Of int8, a number takes half of bfloat16, and a key its scale.
        int8_kv_bytes_per_token=shape.kv_bytes(1, 1) + 2 * shape.layers * shape.kv_heads * ROOM,
        cpu_kv_dtype=kv_dtype,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        step_bytes=step_bytes(config, 2, step_tokens, logit_rows),
        context=context,
        scheme=scheme,
        one_step_bytes=step_bytes(config, 2, min(step_tokens, context), 1),
        **(_linear(name, config) if weights == "int8" else {}),
    )


def _linear(name: str, config: Any) -> dict[str, int]:
    from longctx.models.parameters import on_meta
    from longctx.models.quantize import sizes_of

    sizes = sizes_of(on_meta(name, config))
    return {"linear_parameters": sizes.numbers - sizes.tied, "linear_bytes": sizes.bytes}


def logit_rows(max_running: int) -> int:
    """What `model_of` is to be told of an engine that runs so many requests."""
    from longctx.engine.memory import step_rows

    return step_rows(max_running)


def _check(name: str, config: Any) -> None:
    packed = getattr(config, "quantization_config", None)
    if packed:
        how = packed.get("quant_method") if isinstance(packed, dict) else type(packed).__name__
        raise UserError(
            f"MODEL {name}: its weights are packed ({how}): name the unpacked checkpoint, and "
            "plan with --weights int8 or int4"
        )
    other = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if getattr(config, "kv_lora_rank", None):
        other.add("latent attention")
    if not getattr(config, "num_attention_heads", None):
        other.add("no attention heads")
    if other:
        raise UserError(
            f"MODEL {name}: {', '.join(sorted(other))}: its cache is not keys and values of every "
            "layer: name a model like Qwen2, Llama or Mistral"
        )


@dataclass(frozen=True)
class OnCpu:
    """What the same context takes on this machine's processor under `--dtype auto`, in bytes.

    `peak_bytes` is the resident memory of a server's process while one such prompt is read: beside
    weights, keys and values, and a step, the libraries, which are loaded here too; and in bfloat16
    the weights' file, which stays mapped beside what is packed of it for the processor. The system
    can take those pages back, so they are not counted in `fits`.
    """

    dtype: str
    reason: str
    weight_bytes: int
    kv_bytes: int
    kv_dtype: str
    free_bytes: int
    peak_bytes: int
    fits: bool


def on_cpu(model: PlannedModel) -> OnCpu:
    """The checkpoint taken for bfloat16; keys and values follow, or stay in bfloat16 to fit.

    Where int8 is asked for they are that.
    """
    import torch

    from longctx.attention import cpu
    from longctx.engine.memory import free_host_bytes

    ability, free = cpu.native_bf16(), free_host_bytes()
    wide = not ability and model.bytes_on_cpu(4) <= WEIGHTS_SHARE * free
    weights = model.bytes_on_cpu(4 if wide else 2)
    left = free - weights - model.step_bytes * (2 if wide else 1)
    kv_bytes = 2 * model.kv_bytes if wide and 2 * model.kv_bytes <= left else model.kv_bytes
    kept = "float32" if kv_bytes > model.kv_bytes else "bfloat16"
    if model.cpu_kv_dtype == "int8":
        kept, kv_bytes = "int8", model.int8_kv_bytes
    dtype = "float32" if wide else "bfloat16"
    step = model.one_step_bytes * (2 if wide else 1)
    peak = psutil.Process().memory_info().rss + _SERVER_BYTES + weights
    if wide:  # the file is let go of when all of it is widened, before a prompt is read
        peak += max(kv_bytes + step, 2 * model.parameters)
    else:
        packed = weights - model.first_bytes if cpu.packs_linear(torch.bfloat16) else 0
        peak += packed + kv_bytes + step
    return OnCpu(dtype, ability.reason, weights, kv_bytes, kept, free, peak, kv_bytes <= left)


def to_dict(
    model: PlannedModel, options: list[Placement], chosen: list[Placement]
) -> dict[str, Any]:
    """One object for programs; `best` has one option for each set of GPUs."""
    return {
        "cpu": asdict(on_cpu(model)),
        **asdict(model),
        "kv_bytes": model.kv_bytes,
        "kv_dtype": "bfloat16",
        "usable": USABLE,
        "options": [asdict(option) for option in options],
        "best": [asdict(option) for option in chosen],
        "fits": any(option.contexts for option in chosen),
    }
