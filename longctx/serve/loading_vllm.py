"""From a server's settings to an engine of vLLM: what is checked at once, and what is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from longctx.attention import Scheme
from longctx.engine.rules import eos_ids
from longctx.errors import UserError
from longctx.models.source import Source, generation_config
from longctx.models.vllm_options import VllmOptions, check_installed, check_method, check_plugin
from longctx.options.shared import AUTO
from longctx.serve.service import Loaded
from longctx.serve.settings import ServeSettings


def check_settings(settings: ServeSettings, source: Source, method: str) -> None:
    """Refuse what vLLM would do otherwise than it was told.

    Raises:
        UserError: one line that names the argument.
    """
    check_installed()
    check_plugin()
    check_method(method)
    if source.kind == "gguf":
        raise UserError(f"MODEL {settings.model}: --engine vllm takes no GGUF file: convert it")
    for flag, value in (
        ("--kernel", settings.kernel),
        ("--device-map", settings.device_map),
    ):
        if value != AUTO:
            raise UserError(f"{flag} {value}: vLLM decides that itself: leave it out")


def load(
    settings: ServeSettings,
    source: Source,
    config: Any,
    tokenizer: Any,
    scheme: Scheme,
    context: int,
    dtype: str,
) -> Loaded:
    """Start vLLM's processes, and see that they run on longctx's attention.

    Raises:
        UserError: vLLM does not take the model, or the context that was asked for does not fit.
    """
    from longctx.models.vllm_engine import VllmEngine

    generation = generation_config(source)
    options = VllmOptions(
        directory=source.directory,
        dtype=dtype,
        context=context,
        chunk_budget=settings.chunk_budget,
        max_running=settings.max_running,
        kv_budget=settings.kv_budget,
        tensor_parallel=settings.tensor_parallel,
        pipeline_parallel=settings.pipeline_parallel,
        executor=settings.distributed_executor_backend,
        arguments=settings.vllm_arguments,
    )
    model = SimpleNamespace(config=config, generation_config=generation)
    engine = VllmEngine(
        tokenizer,
        scheme,
        config,
        options,
        eos_ids=eos_ids(model, tokenizer),
        max_waiting=settings.max_waiting,
    )
    notes = (
        "vLLM tells nothing of a prompt's progress: `prompt_progress` goes from 0 to its end",
        "seeds are vLLM's: the same seed draws other tokens than without --engine vllm",
    )
    return Loaded(engine, tokenizer, generation, notes)
