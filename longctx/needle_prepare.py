"""Before a needle run: every argument checked against model, tokenizer and text; no weights loaded.

Gives what a dry run prints and a real run needs. Does not run or write anything.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from longctx import models
from longctx.arms import check_kernel, device_of, settle_schemes, trained_length, without_length
from longctx.attention import Scheme
from longctx.errors import UserError
from longctx.eval import estimate, prose, tasks
from longctx.eval import haystack as haystacks
from longctx.eval.chat import ChatEncoder
from longctx.eval.config import NeedleConfig
from longctx.eval.estimate import Plan
from longctx.eval.folder import describe_run
from longctx.eval.grid import Cell, Identity
from longctx.eval.haystack import Haystack
from longctx.eval.needle import LANGUAGE, TASK
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
            "wording_sha256": tasks.wording_sha256(config.task, config.language, config.options),
            "temperature": 0,
            "repetition_penalty": 1,
            **self._task_settings(),
        }

    def _task_settings(self) -> dict[str, Any]:
        """What differs from the default task, so that its older folders go on."""
        config = self.options.config
        found: dict[str, Any] = {}
        if config.task != TASK:
            found["task"] = config.task
        if config.language != LANGUAGE:
            found["language"] = config.language
        if config.options:
            found["options"] = dict(config.options)
        return found

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
                method: {**without_length(scheme), "sources": scheme.sources}
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
                "preset": self.options.preset,
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


def settle_task(options: NeedleOptions) -> NeedleConfig:
    """The sweep's settings for the one task that is asked for.

    Raises:
        UserError: the task is not in that language.
    """
    (name,) = options.tasks
    task = tasks.get(name)
    tasks.check_language(name, options.language)
    settings = tasks.options_of(
        name, {k: v for k, v in options.task_options.items() if v is not None}
    )
    prefix = options.answer_prefix
    return replace(
        options.config,
        task=name,
        language=options.language,
        options=settings,
        answer_tokens=task.about.answer_tokens,
        answer_prefix=task.answer_prefix(options.language, settings) if prefix is None else prefix,
        depths=options.config.depths if task.about.has_depth else (None,),
    )


def _haystack(options: NeedleOptions) -> Haystack:
    config = options.config
    if tasks.get(config.task).about.questions:
        if options.qa is None:
            raise UserError(
                f"--tasks {config.task}: asks about documents of yours: give their file with --qa"
            )
        files = options.qa.split(",")
        file = files[-1] if config.task == "qa_2" else files[0]
        return haystacks.of_files([Path(file)], Path(file).name, f"--qa {file}")
    if options.haystack is not None:
        return haystacks.load(options.haystack)
    if config.language not in prose.LANGUAGES:
        raise UserError(
            f"--language {config.language}: text is generated in {', '.join(prose.LANGUAGES)} "
            "only: give one of your own with --haystack"
        )
    return prose.haystack(max(config.lengths), language=config.language)


def prepare(options: NeedleOptions) -> Prepared:
    """Check every argument against model, tokenizer and haystack, without loading weights."""

    options = replace(options, config=settle_task(options))
    config = options.config
    if options.prefill_chunk < 1:
        raise UserError(f"--prefill-chunk {options.prefill_chunk}: must be at least 1")
    if options.palette not in PALETTES:
        raise UserError(f"--palette {options.palette}: not known: use {' or '.join(PALETTES)}")
    source = models.locate(options.model, weights=not options.dry_run)
    model_config = models.load_config(source)
    schemes = settle_schemes(options, model_config, max(config.lengths))
    tokenizer = models.load_tokenizer(source)
    chat = ChatEncoder(tokenizer, config.template)
    haystack = _haystack(options)
    device = device_of(options.device_map)
    dtype = models.resolve_dtype(options.dtype, source, model_config, device)
    check_kernel(options.kernel, list(schemes), device, dtype)
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
        {method: without_length(scheme) for method, scheme in schemes.items()},
    )
    sweep.check_prompts()

    return Prepared(
        options=options,
        source=source,
        model_config=model_config,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        schemes=schemes,
        trained_length=trained_length(model_config, options.original_length, schemes),
        sweep=sweep,
        output=options.output or _default_output(options, sweep),
    )


def _default_output(options: NeedleOptions, sweep: Sweep) -> Path:
    """The same command finds its folder again; another model or text gets its own."""

    config = replace(options.config, lengths=(1,), depths=(0.0,), repeats=1, limit=None)
    probe = replace(sweep, config=config)
    scheme = next(iter(sweep.schemes))
    name = Path(options.model).name
    return Path("runs") / f"{config.task}-{name}-{probe.key(Cell(scheme, 1, 0.0, 0))[:8]}"
