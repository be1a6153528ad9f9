"""The arms of a run before weights are loaded: device, schemes and kernel, checked.

Knows methods and the model's config; knows no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from longctx.attention import DCA_METHODS, METHODS, Scheme, default_method, kernels, resolve
from longctx.attention.methods import FACTOR_METHODS
from longctx.attention.rope import temperature_bucket
from longctx.errors import UserError
from longctx.options.shared import ModelOptions

# Its flash attention gives no log-sum-exp, so parts cannot be merged; and it has no float64.
NO_MPS = "no attention kernel of longctx runs on Apple's GPU (mps), only on cpu and cuda"


def settle_device_map(device_map: str) -> str:
    """`auto` without CUDA is the CPU: accelerate would choose Apple's GPU, where no kernel runs.

    Raises:
        UserError: Apple's GPU was asked for.
    """
    if device_map.split(":")[0] == "mps":
        raise UserError(f"--device-map {device_map}: {NO_MPS}: use cpu")
    if device_map == "auto" and not torch.cuda.is_available() and torch.backends.mps.is_available():
        return "cpu"
    return device_map


def device_of(device_map: str) -> str:
    return "cpu" if device_map == "cpu" or not torch.cuda.is_available() else "cuda"


def settle_schemes(
    options: ModelOptions, model_config: Any, longest: int, named: str = "--methods"
) -> dict[str, Scheme]:
    """One scheme per method, for the longest length of the run; flags go where they have a use.

    Args:
        named: the flag that errors name, where the command calls it otherwise.
    """
    methods = options.methods or ("none", default_method(model_config))
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise UserError(f"{named} {unknown[0]}: not known: choose from {', '.join(METHODS)}")
    flags: dict[str, tuple[Any, tuple[str, ...]]] = {
        "chunk_size": (options.chunk_size, DCA_METHODS),
        "local_size": (options.local_size, DCA_METHODS),
        "cap": (options.cap, DCA_METHODS),
        "factor": (options.factor, FACTOR_METHODS),
    }
    for name, (value, users) in flags.items():
        if value is not None and not set(methods) & set(users):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} {value}: no method of this run reads it: leave it out, or add one of "
                f"{', '.join(users)} to {named}"
            )
    schemes = {}
    for method in methods:
        given = {
            name: value
            for name, (value, users) in flags.items()
            if value is not None and method in users
        }
        try:
            schemes[method] = resolve(
                model_config,
                method,
                original_length=options.original_length,
                request_length=longest,
                **given,
            )
        except ValueError as error:
            raise UserError(f"{named} {method}: {error}") from error
    return schemes


def beyond(scheme: Scheme, longest: int) -> str | None:
    """Words on a length that the factor does not reach; None where it does."""
    if scheme.factor is None or longest <= scheme.factor * scheme.trained_length:
        return None
    return (
        f"{scheme.method}: {longest:,} tokens are beyond factor {scheme.factor:g} x the window of "
        f"{scheme.trained_length:,}: expect worse answers there, or raise the factor"
    )


def check_kernel(
    name: str, methods: Sequence[str], device: str, dtype: torch.dtype, named: str = "--methods"
) -> None:
    if name == "auto":
        return
    if not set(methods) & set(DCA_METHODS):
        raise UserError(
            f"--kernel {name}: no method of this run reads it: leave it out, or add one of "
            f"{', '.join(DCA_METHODS)} to {named}"
        )
    try:
        kernels.resolve(name, torch.device(device), dtype)
    except ValueError as error:
        raise UserError(f"--kernel {name}: {error}") from error


def temperature_at(scheme: Scheme, length: int) -> int:
    """Where a prompt's temperature is taken: at its bucket's edge, as by the server."""
    if not scheme.uses_request_length or length <= scheme.original_length:
        return length  # no temperature, or 1
    return temperature_bucket(length, scheme.original_length)


def without_length(scheme: Scheme) -> dict[str, Any]:
    # The length of the request belongs to each cell, not to the run.
    return {name: value for name, value in scheme.to_dict().items() if name != "request_length"}


def trained_length(
    model_config: Any, original_length: int | None, schemes: Mapping[str, Scheme]
) -> int:
    """The window that the model was trained on, in tokens."""
    try:
        return resolve(model_config, "none", original_length=original_length).original_length
    except ValueError:
        # A config with yarn in it has no method `none`; its schemes know the window.
        return next(iter(schemes.values())).original_length
