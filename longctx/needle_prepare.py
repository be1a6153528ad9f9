"""Before a needle run: every argument checked against model, tokenizer and text; no weights loaded.

Gives what a dry run prints and a real run needs. Does not run or write anything.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from longctx import models
from longctx.attention import (
    DCA_METHODS,
    METHODS,
    Scheme,
    default_method,
    kernels,
    resolve,
)
from longctx.attention.config import FACTOR_METHODS
from longctx.errors import UserError
from longctx.eval import estimate, prose
from longctx.eval import haystack as haystacks
from longctx.eval.chat import ChatEncoder
from longctx.eval.estimate import Plan
from longctx.eval.folder import describe_run
from longctx.eval.grid import Cell, Identity
from longctx.eval.needle import WORDING_SHA256
from longctx.eval.prompt import PromptBuilder
from longctx.eval.runner import Sweep
from longctx.local_target import matmul_rate, sharing_obstacle
from longctx.needle_cmd import NeedleOptions
from longctx.plots.palette import PALETTES


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before weights are loaded."""

    options: NeedleOptions
    source: models.Source
    model_config: PretrainedConfig
    tokenizer: Any
    dtype: Any
    device: str
    schemes: Mapping[str, Scheme]
    trained_length: int
    sweep: Sweep
    output: Path

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change from one run to the next in the same folder."""
        config, identity = self.options.config, self.sweep.identity
        names = ("seed", "template", "system", "answer_prefix", "answer_tokens")
        return {
            "model": identity.model,
            "dtype": identity.dtype,
            "kernel": identity.kernel,
            **{name: getattr(config, name) for name in (*names, "exact", "allow_repeat")},
            "haystack_sha256": identity.haystack_sha256,
            "tokenizer_sha256": identity.tokenizer_sha256,
            "template_sha256": identity.template_sha256,
            "wording_sha256": WORDING_SHA256,
            "temperature": 0,
            "repetition_penalty": 1,
        }

    @property
    def prefix_sharing(self) -> bool:
        """Whether it was asked for, and the model allows it."""
        return self.options.prefix_sharing and sharing_obstacle(self.model_config) is None

    def describe(self) -> dict[str, Any]:
        """run.json for this run."""

        haystack = self.sweep.builder.haystack
        return describe_run(
            config=self.options.config,
            settings=self.settings,
            schemes={
                method: {**_without_length(scheme), "sources": scheme.sources}
                for method, scheme in self.schemes.items()
            },
            model={
                "name": self.options.model,
                "type": self.model_config.model_type,
                "fingerprint": self.sweep.identity.model,
            },
            haystack={
                "id": haystack.id,
                "sha256": haystack.sha256,
                "tokens": self.sweep.builder.haystack_tokens,
                "files": list(haystack.files),
            },
            trained_length=self.trained_length,
            session={
                "command": shlex.join(["longctx", *sys.argv[1:]]),
                "pid": os.getpid(),
                "device_map": self.options.device_map,
                "prefill_chunk": self.options.prefill_chunk,
                "prefix_sharing": self.prefix_sharing,
            },
        )

    def plan(self, records: Mapping[str, Any], rate: float | None = None) -> Plan:
        """Figures of what is to be done; without a rate, from finished cells or a small product."""

        shape, answer_tokens = models.shape_of(self.model_config), self.options.config.answer_tokens
        rate_from = "from a probe"
        if rate is None:
            rate = estimate.rate_of(records.values(), shape, answer_tokens)
            rate_from = "from finished cells"
        if rate is None:
            # A whole model reaches about a third of what its largest products reach.
            rate, rate_from = 3 * matmul_rate(self.dtype, self.device), "a rough guess"
        everything = self.sweep.all_cells()
        return estimate.plan(
            everything=everything,
            pending=self.sweep.pending(records)[: self.options.config.limit],
            shape=shape,
            answer_tokens=answer_tokens,
            prefix_sharing=self.prefix_sharing,
            bytes_per_value=self.dtype.itemsize,
            rate=rate,
            rate_from=rate_from,
        )


def prepare(options: NeedleOptions) -> Prepared:
    """Check every argument against model, tokenizer and haystack, without loading weights."""

    config = options.config
    if options.prefill_chunk < 1:
        raise UserError(f"--prefill-chunk {options.prefill_chunk}: must be at least 1")
    if options.palette not in PALETTES:
        raise UserError(f"--palette {options.palette}: not known: use {' or '.join(PALETTES)}")
    source = models.locate(options.model, weights=not options.dry_run)
    model_config = models.load_config(source)
    schemes = settle_schemes(options, model_config)
    tokenizer = models.load_tokenizer(source)
    chat = ChatEncoder(tokenizer, config.template)
    haystack = (
        prose.haystack(max(config.lengths))
        if options.haystack is None
        else haystacks.load(options.haystack)
    )

    on_cpu = options.device_map == "cpu" or not torch.cuda.is_available()
    device = "cpu" if on_cpu else "cuda"
    dtype = models.resolve_dtype(options.dtype, source, model_config, device)
    _check_kernel(options.kernel, list(schemes), device, dtype)
    identity = Identity(
        model=models.fingerprint(source),
        dtype=str(dtype).removeprefix("torch."),
        kernel=options.kernel,
        haystack_sha256=haystack.sha256,
        tokenizer_sha256=models.tokenizer_sha256(tokenizer),
        template_sha256=chat.sha256(config.system),
    )
    builder = PromptBuilder(haystack, chat, allow_repeat=config.allow_repeat)
    sweep = Sweep(
        config,
        identity,
        builder,
        {method: _without_length(scheme) for method, scheme in schemes.items()},
    )
    sweep.check_prompts()

    try:
        trained = resolve(model_config, "none", original_length=options.original_length)
        trained_length = trained.original_length
    except ValueError:
        # A config with yarn in it has no method `none`; its schemes know the window.
        trained_length = next(iter(schemes.values())).original_length
    return Prepared(
        options=options,
        source=source,
        model_config=model_config,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        schemes=schemes,
        trained_length=trained_length,
        sweep=sweep,
        output=options.output or _default_output(options, sweep),
    )


def settle_schemes(options: NeedleOptions, model_config: Any) -> dict[str, Scheme]:
    """One scheme per method, for the longest length of the run; flags go where they have a use."""

    methods = options.methods or ("none", default_method(model_config))
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise UserError(f"--methods {unknown[0]}: not known: choose from {', '.join(METHODS)}")
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
                f"{', '.join(users)} to --methods"
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
                request_length=max(options.config.lengths),
                **given,
            )
        except ValueError as error:
            raise UserError(f"--methods {method}: {error}") from error
    return schemes


def _check_kernel(name: str, methods: Sequence[str], device: str, dtype: torch.dtype) -> None:
    if name == "auto":
        return
    if not set(methods) & set(DCA_METHODS):
        raise UserError(
            f"--kernel {name}: no method of this run reads it: leave it out, or add one of "
            f"{', '.join(DCA_METHODS)} to --methods"
        )
    try:
        kernels.resolve(name, torch.device(device), dtype)
    except ValueError as error:
        raise UserError(f"--kernel {name}: {error}") from error


def _without_length(scheme: Scheme) -> dict[str, Any]:
    # The length of the request belongs to each cell, not to the run.
    return {name: value for name, value in scheme.to_dict().items() if name != "request_length"}


def _default_output(options: NeedleOptions, sweep: Sweep) -> Path:
    """The same command finds its folder again; another model or text gets its own."""

    config = replace(options.config, lengths=(1,), depths=(0.0,), repeats=1, limit=None)
    probe = replace(sweep, config=config)
    scheme = next(iter(sweep.schemes))
    name = Path(options.model).name
    return Path("runs") / f"needle-{name}-{probe.key(Cell(scheme, 1, 0.0, 0))[:8]}"
