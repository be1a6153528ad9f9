"""From a server's settings to an engine: checked at once, loaded later.

settings -> PreparedServer (config, scheme, dtype; no weights) -> Loaded (weights, memory, context)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longctx import tiny
from longctx.attention import Scheme, default_method
from longctx.chat import template
from longctx.chat.process import TemplateLimitError, TemplateProcess
from longctx.documents.fingerprint import ModelFacts
from longctx.engine import Engine
from longctx.engine.rules import DCA_CONTEXT_FACTOR, default_context
from longctx.errors import UserError
from longctx.eval.format import show_length
from longctx.models import dtypes, quantize, qwen2
from longctx.models.checks import check_model
from longctx.models.schemes import (
    beyond,
    check_kernel,
    device_of,
    settle_device_map,
    settle_schemes,
)
from longctx.models.source import Source, load_config, load_tokenizer, locate
from longctx.serve import loading_vllm
from longctx.serve.service import Loaded
from longctx.serve.settings import ServeSettings

# Measured to find needles far beyond (the model's card); more would only cost patience.
EMBEDDED_CONTEXT = 16384
_METHOD_FLAG = "--method"  # one method, where the evaluation takes several


@dataclass(frozen=True)
class PreparedServer:
    """What is known before weights are loaded."""

    settings: ServeSettings
    source: Source
    config: Any
    tokenizer: Any
    chosen: dtypes.DtypeChoice
    device_map: str
    scheme: Scheme
    context: int
    kept: torch.dtype

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.settings.served_name or _last_part(self.settings.model)

    def about(self) -> dict[str, Any]:
        """For /v1/models."""
        return {
            "max_model_len": self.context,
            "method": self.scheme.method,
            "trained_length": self.scheme.trained_length,
            "dtype": self.chosen.name,
            "quantize": self.settings.quantize,
            "kv_dtype": self.kv_dtype,
        }

    @property
    def kv_dtype(self) -> str:
        """What keys and values are to be kept in."""
        return dtypes.name_of(self.kept)

    def load(self) -> Loaded:
        """Weights, and memory for keys and values.

        Raises:
            UserError: they cannot be loaded, or the context that was asked for does not fit.
        """
        settings = self.settings
        if settings.engine == "vllm":
            files = (self.source, self.config, self.tokenizer)
            return loading_vllm.load(settings, *files, self.scheme, self.context, self.chosen.name)
        dtype, device = self.chosen.dtype, device_of(self.device_map)
        model = quantize.load(
            self.source, self.config, dtype, self.device_map, settings.quantize, device
        )
        notes = quantize.notes(model, settings.quantize, dtype, device)
        engine = self._engine(model, self.kept)
        if (
            engine.fitting_tokens < self.context
            and self.chosen.widened
            and settings.kv_dtype == "auto"
        ):
            notes.append(
                f"keys and values are kept in bfloat16: in float32 {engine.fitting_tokens:,} "
                "tokens of them would fit"
            )
            engine.close()
            engine = self._engine(model, torch.bfloat16)
        fits = engine.fitting_tokens
        if fits < self.context:
            if settings.context is not None or fits < 1:
                engine.close()
                raise UserError(self._too_big(fits))
            engine.max_context = fits
            notes.append(
                f"context lowered from {show_length(self.context)} to {fits} tokens: that is what "
                "the memory for keys and values holds"
            )
        facts = ModelFacts(
            self.source,
            self.config,
            self.scheme,
            self.tokenizer,
            self.chosen.name,
            dtypes.name_of(engine.kv_dtype),
            quantize.form(settings.quantize, device),
        )
        generation = model.generation_config
        return Loaded(engine, self.tokenizer, generation, tuple(notes), facts)

    def _engine(self, model: Any, kv_dtype: Any) -> Engine:
        settings = self.settings
        try:
            return Engine(
                model,
                self.tokenizer,
                self.scheme,
                kernel=settings.kernel,
                chunk_budget=settings.chunk_budget,
                kv_budget_bytes=settings.kv_budget,
                max_context=self.context,
                max_running=settings.max_running,
                max_waiting=settings.max_waiting,
                speculate=settings.speculate,
                kv_dtype=kv_dtype,
            )
        except ValueError as error:
            raise UserError(f"MODEL {settings.model}: {error}") from error

    def _too_big(self, fits: int) -> str:
        """Blames what was given: a context, else the budget, else the machine."""
        settings = self.settings
        if settings.context is not None:
            return (
                f"--context {self.context}: this machine has memory for {fits} tokens of keys "
                "and values: lower it, or raise --kv-budget"
            )
        if settings.kv_budget is not None:
            return f"--kv-budget {settings.kv_budget}: no token's keys and values fit: raise it"
        return (
            f"MODEL {settings.model}: no memory is left for keys and values: free some, or say "
            "with --kv-budget how much to take"
        )


def _last_part(model: str) -> str:
    """Of a path or hub id. `.` has one as well; a link keeps the name that it was given."""
    return Path(os.path.abspath(model)).name


def prepare(settings: ServeSettings) -> PreparedServer:
    """Check every argument against the model's files.

    Raises:
        UserError: one line that names the argument.
    """
    source = locate(settings.model)
    config = load_config(source)
    method = settings.method or default_method(config)
    options = replace(settings, method=method)
    if settings.engine == "vllm":
        loading_vllm.check_settings(settings, source, method)
    settle = partial(settle_schemes, named=_METHOD_FLAG)
    wanted = settings.context
    if wanted is None and settings.model == tiny.EMBEDDED and method != "none":
        wanted = EMBEDDED_CONTEXT
    known = qwen2.find(_last_part(settings.model))
    if wanted is None and known is not None and method == default_method(config):
        wanted = known.context
    if wanted is None:
        trained = settle(options, config, 1)[method].trained_length
        longest = DCA_CONTEXT_FACTOR * trained  # a factor without a flag follows the context
        wanted = default_context(settle(options, config, longest)[method], config)
    scheme = settle(options, config, wanted)[method]
    tokenizer = load_tokenizer(source)
    if wrong := _wrong_template(tokenizer, settings):
        raise UserError(
            f"MODEL {settings.model}: its chat template {wrong}: correct it "
            "(chat_template.jinja or tokenizer_config.json), or take it out to serve completions "
            "only"
        )
    check_model(source, config, tokenizer, settings.original_length)
    device_map = settle_device_map(settings.device_map)
    device = device_of(device_map)
    if settings.engine == "longctx":
        quantize.check(settings.quantize, source, config, device)
    chosen = dtypes.choose(settings.dtype, source, config, device, quantize=settings.quantize)
    kept = dtypes.kept(settings.kv_dtype, device, chosen.dtype)
    computed = dtypes.computes(kept, chosen.dtype)
    check_kernel(settings.kernel, [method], device, computed, named=_METHOD_FLAG)
    model = source, config, tokenizer
    return PreparedServer(settings, *model, chosen, device_map, scheme, wanted, kept)


def _wrong_template(tokenizer: Any, settings: ServeSettings) -> str | None:
    """Ours is known; another one may not even come to an end."""
    if settings.model == tiny.EMBEDDED or not getattr(tokenizer, "chat_template", None):
        return None
    with TemplateProcess(tokenizer, settings.templates) as process:
        try:
            problem = template.syntax_error(tokenizer, process.render)
            return None if problem is None else f"does not parse ({problem})"
        except TemplateLimitError as error:
            return error.what


def banner(prepared: PreparedServer, loaded: Loaded, url: str) -> list[str]:
    """What is served, with every number and where it comes from."""
    engine, scheme, settings = loaded.engine, prepared.scheme, prepared.settings
    what = f"{prepared.name} ({prepared.config.model_type}, {prepared.about()['dtype']}"
    what += f", trained on {show_length(scheme.trained_length)})"
    far = beyond(scheme, engine.max_context)
    if settings.model == tiny.EMBEDDED:
        what += ", the model that comes with the package: name another to serve it"
    stats = engine.stats()
    how: list[str | None] = []
    if settings.engine == "longctx":
        device = engine.device.type
        computed = dtypes.computes(engine.kv_dtype, prepared.chosen.dtype)
        how.append(dtypes.kernel_words(engine.kernel_name, computed, device))
        how.append(dtypes.linear_words(prepared.chosen.dtype, device))
    told = ", ".join([f"{engine.kernel_name} on {engine.device}", *filter(None, how)])
    lines = [
        f"longctx serves {what}",
        f"  {str(scheme).replace(' ', '   ', 1)}",
        *([f"  dtype    {prepared.chosen.note}"] if prepared.chosen.note else []),
        f"  kernel   {told}",
        f"  context  {show_length(engine.max_context)} tokens of prompt and answer",
        f"  memory   {stats.kv_budget_bytes / 2**30:.2f} GiB of keys and values in "
        f"{dtypes.name_of(engine.kv_dtype)}: "
        f"{engine.fitting_tokens:,} tokens of all requests together",
        *(f"  note     {note}" for note in (*loaded.notes, *([far] if far else []))),
        f"  API      {url}/v1{'  (key needed)' if settings.api_key else ''}",
        f"  page     {url}/",
    ]
    if not settings.on_loopback and not settings.api_key:
        lines.append(
            f"  warning  --host {settings.host} takes requests from the network, and there is no "
            "--api-key"
        )
    return lines
