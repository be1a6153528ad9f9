"""The parameters of the model that transformers would build of a config, without building it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from longctx.errors import UserError

Weights = Literal["bf16", "int8", "int4"]
WEIGHTS: tuple[Weights, ...] = ("bf16", "int8", "int4")
# Of a group of int4 weights: a scale and a zero point in bf16.
_INT4_GROUP, _INT4_GROUP_BYTES = 128, 4


class Counted(NamedTuple):
    """Parameters, tied ones once, their bytes, and the bytes before and behind the layers."""

    parameters: int
    bytes: int
    first: int
    last: int


def count_parameters(name: str, config: Any, weights: Weights) -> Counted:
    """Packed are the matrices of the layers; embeddings, head, norms and biases stay in bfloat16.

    Raises:
        UserError: no model can be made of the config.
    """
    model = on_meta(name, config)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    whole = {id(part.weight) for part in (embedding, head) if part is not None}
    count = size = last = 0
    for path, parameter in model.named_parameters():
        numel = parameter.numel()
        count += numel
        packed = weights != "bf16" and parameter.ndim >= 2 and id(parameter) not in whole
        size += _packed_bytes(numel, parameter.shape[-1], weights) if packed else 2 * numel
        if ".layers." not in path and parameter is not getattr(embedding, "weight", None):
            last += 2 * numel
    first = 2 * embedding.weight.numel() if embedding is not None else 0
    return Counted(count, size, first, last)


def on_meta(name: str, config: Any) -> Any:
    """The model without numbers.

    Raises:
        UserError: none can be made of the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever its own constructor finds wrong
        raise UserError(
            f"MODEL {name}: no model can be made of its config ({error}): restore the file"
        ) from error


def _packed_bytes(numel: int, columns: int, weights: Weights) -> int:
    if weights == "int8":
        return numel + 2 * (numel // columns)  # a scale for each row
    return numel // 2 + _INT4_GROUP_BYTES * -(-numel // _INT4_GROUP)
