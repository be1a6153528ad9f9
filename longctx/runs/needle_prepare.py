"""Before a needle run: every argument checked against model, tokenizer and text; no weights loaded.

Gives what a dry run prints and a real run needs. Does not run or write anything.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval import estimate, tasks
from longctx.eval.estimate import NeedlePlan
from longctx.eval.gpus import GpuEstimate, GpuSizes, estimate_on, gpu_of
from longctx.eval.needle import second_look
from longctx.eval.needle.adaptive import next_round, stopping_rule
from longctx.eval.needle.config import NeedleConfig, Texts
from longctx.eval.needle.grid import Cell, NeedleIdentity
from longctx.eval.needle.inference import samples_needed
from longctx.eval.needle.needle import LANGUAGE, TASK
from longctx.eval.needle.runner import Sweep
from longctx.eval.prompt import PromptBuilder
from longctx.eval.runfolder.folder import describe_run, read_run
from longctx.eval.runfolder.record_schema import NeedleRecord
from longctx.eval.runfolder.run_schema import NeedleRunJson, Stopping
from longctx.eval.texts import haystack as haystacks
from longctx.eval.texts import prose
from longctx.eval.texts.files import Reading
from longctx.eval.texts.haystack import Haystack
from longctx.eval.texts.text import boundary_of
from longctx.models.base import Model
from longctx.models.source import SIMULATED, tokenizer_sha256
from longctx.options.needle import NeedleOptions, refuse_local
from longctx.plots.palette import PALETTES
from longctx.runs.temperature import temperature_of

S = TypeVar("S")


@dataclass(frozen=True)
class PreparedNeedle:
    """Everything that is known before weights are loaded.

    `left_out` are lengths that are too short for the task, where it is one of several.
    """

    options: NeedleOptions
    model: Model
    sweep: Sweep
    output: Path
    left_out: tuple[int, ...] = ()

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
            "scorer": config.scorer,
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
        if config.depths != (None,):
            found["texts"] = config.texts
        if config.spread:
            found["spread"] = list(config.depths)
        if self.sweep.identity.boundary != "sentence":
            found["boundary"] = self.sweep.identity.boundary
        return found

    @property
    def stopping(self) -> Stopping | None:
        return stopping_of(self.options.config)

    def describe(self) -> NeedleRunJson:
        """run.json for this run."""
        haystack, model = self.sweep.builder.haystack, self.model
        config = self.options.config
        run = describe_run(
            config=config,
            settings=self.settings,
            schemes=model.schemes,
            model={
                "name": model.name,
                "type": model.kind,
                "fingerprint": self.sweep.identity.model,
            },
            haystack={
                "id": haystack.id,
                "sha256": haystack.sha256,
                "tokens": self.sweep.builder.haystack_tokens,
                **haystack.sources.describe(),
            },
            trained_length=model.trained_length,
            session={
                "command": shlex.join(["longctx", *sys.argv[1:]]),
                "pid": os.getpid(),
                "budget_minutes": config.budget_minutes,
                "preset": self.options.preset,
                **model.session_record(),
            },
        )
        if self.stopping is not None:
            run["stopping"] = self.stopping
        return run

    def next_cells(
        self, records: Mapping[str, NeedleRecord], tried: Set[str] = frozenset()
    ) -> list[Cell]:
        """What to ask now: the rest of the grid, or what the stopping rule wants next.

        Args:
            tried: keys that this session has asked already.
        """
        if self.options.config.adaptive:
            return next_round(self.sweep, records, tried)
        if self.options.config.first_repeats is not None:
            return second_look.next_round(self.sweep, records, tried)
        pending = self.sweep.pending(records)[: self.options.config.limit]
        return [] if tried else pending

    def plan(self, records: Mapping[str, NeedleRecord], rate: float | None = None) -> NeedlePlan:
        """Figures of what is to be done; without a rate, from finished cells or a small product."""
        model, answer_tokens = self.model, self.options.config.answer_tokens
        rate_from = "from a probe"
        if rate is None:
            rate = estimate.rate_of(records.values(), model.shape, answer_tokens)
            rate_from = "from finished cells"
        if rate is None:
            rate, rate_from = model.rough_rate(), "a rough guess"
        everything, most = self.sweep.all_cells(), None
        if self.options.config.first_repeats is not None:
            most = len(everything)
            again = second_look.close_lengths(self.sweep, records)
            first = set(second_look.first_cells(self.sweep))
            everything = [one for one in everything if one in first or one.length in again]
        return estimate.plan(
            everything=everything,
            pending=self._known_to_do(records),
            most_cells=most,
            shape=model.shape,
            answer_tokens=answer_tokens,
            prefix_sharing=model.prefix_sharing,
            texts=self.options.config.texts,
            bytes_per_value=model.bytes_per_value,
            rate=None if rate is None else rate / model.concurrency,
            rate_from=rate_from,
        )

    def _known_to_do(self, records: Mapping[str, NeedleRecord]) -> list[Cell]:
        """What a plan counts: a second look only where it is known to come."""
        config = self.options.config
        pending = self.sweep.pending(records)[: config.limit]
        if config.first_repeats is None:
            return pending
        again = second_look.close_lengths(self.sweep, records)
        return [c for c in pending if c.repeat < config.first_repeats or c.length in again]

    def on_gpu(self, records: Mapping[str, NeedleRecord]) -> GpuEstimate | None:
        """What is to be done on the GPU that is named; None where none is."""
        if self.options.gpu is None:
            return None
        config = self.options.config
        return estimate_on(
            gpu_of(self.options.gpu),
            self._known_to_do(records),
            cast(GpuSizes, self.model.shape),  # local models alone get this far
            config.answer_tokens,
            self.model.prefix_sharing and config.texts == "shared",
        )


def _texts(options: NeedleOptions) -> Texts:
    """What was said, else what the folder was begun with: older ones share texts."""
    before = None if options.output is None else read_run(options.output)
    if options.shared_texts or before is None or before["task"] != TASK:
        return options.config.texts
    found: Texts = before["settings"].get("texts", "shared")
    return found


def stopping_of(config: NeedleConfig) -> Stopping | None:
    """By what a run with these settings ends; None: its grid is fixed."""
    if config.adaptive:
        return stopping_rule(config.repeats, config.budget_minutes, config.texts)
    if config.first_repeats is None:
        return None
    counts = config.first_repeats, config.repeats, len(config.depths)
    return second_look.second_look_rule(*counts, config.budget_minutes)


def _without_second_look(config: NeedleConfig) -> NeedleConfig:
    return replace(config, repeats=config.first_repeats or config.repeats, first_repeats=None)


def settle_task(options: NeedleOptions) -> NeedleConfig:
    """The sweep's settings for the one task that is asked for.

    Raises:
        UserError: the task is not in that language, or lacks its file of questions.
    """
    (name,) = options.tasks
    task = tasks.get(name)
    tasks.check_language(name, options.language)
    if task.about.questions and options.qa is None:
        raise UserError(f"--tasks {name}: asks about documents of yours: give their file with --qa")
    settings = tasks.options_of(
        name, {k: v for k, v in options.task_options.items() if v is not None}
    )
    prefix = options.answer_prefix
    config = replace(
        options.config,
        task=name,
        language=options.language,
        options=settings,
        answer_tokens=task.about.answer_tokens,
        answer_prefix=task.answer_prefix(options.language, settings) if prefix is None else prefix,
        depths=options.config.depths if task.about.has_depth else (None,),
        texts=_texts(options),
    )
    # Close is what 22 texts of a length left open: fewer leave everything so.
    first = (config.first_repeats or 0) * len(config.depths)
    if config.texts == "shared" or config.depths == (None,) or first < samples_needed():
        return _without_second_look(config)
    return config


def _haystack(options: NeedleOptions) -> Haystack:
    config = options.config
    if tasks.get(config.task).about.questions:
        assert options.qa is not None  # settle_task
        files = options.qa.split(",")
        file = files[-1] if config.task == "qa_2" else files[0]
        reading = Reading("--qa", options.encoding)
        return haystacks.of_files([Path(file)], Path(file).name, f"--qa {file}", reading)
    if options.haystack is not None:
        reading = Reading("--haystack", options.encoding, options.strict)
        return haystacks.load(options.haystack, reading)
    if config.language not in prose.LANGUAGES:
        raise UserError(
            f"--language {config.language}: text is generated in {', '.join(prose.LANGUAGES)} "
            "only: give one of your own with --haystack"
        )
    return prose.haystack(_longest(options), language=config.language)


def _longest(options: NeedleOptions) -> int:
    """The longest length, of those in the folder too: the text that they share depends on it."""
    before = None if options.output is None else read_run(options.output)
    known = before["grid"]["lengths"] if before and before["task"] == TASK else []
    return max(*options.config.lengths, *known, 0)


def prepare(options: NeedleOptions) -> PreparedNeedle:
    """Check every argument against model, tokenizer and haystack, without loading weights."""

    options = replace(options, config=settle_task(options))
    config = options.config
    if options.prefill_chunk < 1:
        raise UserError(f"--prefill-chunk {options.prefill_chunk}: must be at least 1")
    if options.palette not in PALETTES:
        raise UserError(f"--palette {options.palette}: not known: use {' or '.join(PALETTES)}")
    if options.gpu is not None:
        gpu_of(options.gpu)
        if not options.dry_run:
            raise UserError(f"--gpu {options.gpu}: an estimate: add --dry-run, or leave it out")
    options = _settle(options)
    config = options.config
    model = _model(options)
    chat = ChatEncoder(model.tokenizer, config.template)
    haystack = _haystack(options)
    identity = NeedleIdentity(
        model=model.fingerprint,
        dtype=model.dtype,
        kernel=model.kernel,
        haystack_sha256=haystack.sha256,
        tokenizer_sha256=tokenizer_sha256(model.tokenizer),
        template_sha256=chat.sha256(config.system),
        boundary="sentence" if options.haystack is None else boundary_of(haystack.text),
    )
    builder = PromptBuilder(haystack, chat, allow_repeat=config.allow_repeat)
    sweep = Sweep(
        config,
        identity,
        builder,
        {method: _without_sources(scheme) for method, scheme in model.schemes.items()},
        model.temperature_at,
        temperature_of(model.schemes, model.temperature_at),
    )
    left_out = too_short(sweep) if options.several else ()
    if left_out:
        lengths = tuple(length for length in config.lengths if length not in left_out)
        options = replace(options, config=replace(config, lengths=lengths))
        sweep = replace(sweep, config=options.config)
    sweep.check_prompts()

    output = options.output or _default_output(options, sweep)
    if options.output is None and not output.exists():
        # A folder that this command made on a machine of another kind goes on in its own dtype.
        for dtype in model.other_dtypes:
            other = replace(sweep, identity=replace(identity, dtype=dtype))
            if (found := _default_output(options, other)).exists():
                return prepare(replace(options, output=found))
    if _was_fixed(output, options.config.first_repeats):
        options = replace(options, config=_without_second_look(options.config))
        sweep = replace(sweep, config=options.config)
    return PreparedNeedle(options, model, sweep, output, left_out)


def _was_fixed(output: Path, first: int | None) -> bool:
    """Whether a folder has more repeats than a first look, by another rule: it goes on with it."""
    before = None if first is None else read_run(output)
    if before is None or before["task"] != "needle":
        return False
    rule = before.get("stopping") or {}
    return before["grid"]["repeats"] > first and "first_repeats" not in rule


def too_short(sweep: Sweep) -> tuple[int, ...]:
    """The lengths that a sample of the task is too long for; none where that is all of them."""
    # cwe repeats its words more often from 4K on: a shorter length may fit where that does not.
    found = tuple(length for length in sweep.config.lengths if sweep.too_long_at(length))
    return () if found == sweep.config.lengths else found


def _settle(options: NeedleOptions) -> NeedleOptions:
    """A chat endpoint cannot be made to go on from a beginning of an answer: it gets none."""
    config = options.config
    if options.base_url is None:
        endpoint = ("tokenizer", "api", "concurrency", "timeout")
        defaults = NeedleOptions("")
        for name in endpoint:
            value = getattr(options, name)
            if value != getattr(defaults, name):
                raise UserError(f"--{name} {value}: is for endpoints: give --base-url, or leave it")
        return options
    if not options.model:
        raise UserError(
            f"--base-url {options.base_url}: MODEL is missing: the server's name for it"
        )
    if options.api != "chat":
        return options
    if options.answer_prefix:
        raise UserError(
            f"--answer-prefix {options.answer_prefix}: a chat endpoint begins its answer itself: "
            "leave it out, or use --api completions"
        )
    return replace(options, config=replace(config, answer_prefix=""))


def _model(options: NeedleOptions) -> Model:
    """Whom the options name. Rooms below see what concerns them, never the command's options."""
    config = options.config
    # Each brings its own libraries: a simulated model waits for no torch.
    if options.base_url is not None:
        from longctx.models.endpoint import EndpointSettings, endpoint_model

        refuse_local(options, "an endpoint has one arm, whatever it does there")
        about = {"template": config.template, "system": config.system}
        return endpoint_model(_settings(EndpointSettings, options, **about))
    if options.model.startswith(SIMULATED):
        from longctx.models.simulated import sim_model

        refuse_local(options, f"MODEL {options.model} is simulated and has one arm")
        return sim_model(options.model)
    from longctx.models.local import LocalSettings, local_model

    asked = {"longest": max(config.lengths), "weights": not options.dry_run}
    model = local_model(_settings(LocalSettings, options, **asked))
    if options.ray:
        from longctx.models.ray_session import ray_model

        return ray_model(model, options.ray_workers)
    if options.engine == "longctx":
        return model
    from longctx.models.vllm_session import vllm_model

    return vllm_model(model)


def _settings(kind: type[S], options: NeedleOptions, **more: Any) -> S:
    """The settings of a model: options of the same names, and what follows from the others."""
    names = {field.name for field in fields(kind)} - set(more)  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names}, **more)


def _without_sources(scheme: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scheme.items() if name != "sources"}


def _default_output(options: NeedleOptions, sweep: Sweep) -> Path:
    """The same command finds its folder again; another model or text gets its own."""

    config = replace(options.config, lengths=(1,), depths=(0.0,), repeats=1, limit=None)
    probe = replace(sweep, config=config)
    scheme = next(iter(sweep.schemes))
    name = re.sub(r"[^\w.=-]+", "-", Path(options.model).name)
    return Path("runs") / f"{config.task}-{name}-{probe.key(Cell(scheme, 1, 0.0, 0))[:8]}"
