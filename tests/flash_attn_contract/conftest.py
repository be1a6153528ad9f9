"""Lets the real flash-attn package run on CPU tensors, through its own torch reference.

Needs an environment with flash-attn built without CUDA, which `.ci/flash_attn_contract` makes.
Nothing of the package is replaced: its public functions, argument order and layouts are the ones
a GPU would see; only the innermost kernel is the package's own reference.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import warnings

import pytest


def _absent(reason: str) -> None:
    """Skip, or fail where the caller promised the package."""
    if os.environ.get("LONGCTX_REQUIRE_FLASH_ATTN") == "1":
        pytest.fail(f"LONGCTX_REQUIRE_FLASH_ATTN=1, but {reason}", pytrace=False)
    pytest.skip(f"{reason}; .ci/flash_attn_contract runs these in an environment of their own")


@pytest.fixture(scope="session")
def flash_attn_on_cpu() -> None:
    """flash-attn imported, with its forward ops registered for CPU tensors."""
    # find_spec would also find a bare folder of that name on sys.path.
    try:
        importlib.metadata.version("flash-attn")
    except importlib.metadata.PackageNotFoundError:
        _absent("flash-attn is not installed")
    # The switches below would take the CUDA build away from every later test of this process.
    if importlib.util.find_spec("flash_attn_2_cuda") is not None:
        _absent("flash-attn is built for CUDA here, which tests/gpu tests")
    # Read when flash_attn and triton are imported: too late after that.
    os.environ.update(
        FLASH_ATTENTION_TRITON_AMD_ENABLE="TRUE",
        FLASH_ATTENTION_TRITON_AMD_REF="1",
        TRITON_INTERPRET="1",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in the package are not ours
        from flash_attn import flash_attn_interface as package
    if not package.USE_TRITON_ROCM:
        _absent("flash_attn was imported before this fixture could choose its CPU reference")
    # The ops are defined for "cuda" alone; _init_fn is the function the package decorated.
    for op in (package._flash_attn_forward, package._flash_attn_varlen_forward):
        op.register_kernel("cpu")(op._init_fn)
