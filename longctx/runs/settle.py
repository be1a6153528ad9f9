"""From what was said to what is run: rules where nothing was said, presets, the embedded model.

Imports nothing heavy: what is wrong with the arguments alone is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from longctx.errors import UserError
from longctx.eval.needle.config import MORE_REPEATS, NeedleConfig
from longctx.eval.needle.needle import TASK
from longctx.eval.needle.presets import PRESETS, Preset
from longctx.eval.perplexity.config import PerplexityConfig
from longctx.eval.tasks import TASKS
from longctx.eval.tasks import get as get_task
from longctx.eval.tasks.styles import read_style
from longctx.models.source import SIMULATED
from longctx.options.needle import ADAPTIVE_REPEATS, EMBEDDED_SWEEP, NeedleOptions
from longctx.options.perplexity import EMBEDDED_LENGTHS, PerplexityOptions
from longctx.options.shared import EMBEDDED_METHODS, check_engine, check_kv_dtype, check_quantize
from longctx.tiny import EMBEDDED


def settle_needle(said: NeedleOptions) -> NeedleOptions:
    """Model, methods, tasks and configuration of the sweep.

    Raises:
        UserError: an unknown preset, a flag that no task reads, a number that makes no sense.
    """
    embedded = said.base_url is None and said.model in ("", EMBEDDED)
    simulated = said.base_url is None and said.model.startswith(SIMULATED)
    check_engine(said.engine)
    check_quantize(said.quantize, said.engine)
    check_kv_dtype(said.kv_dtype, said.engine)
    _check_ray(said)
    if said.preset is not None and said.preset not in PRESETS:
        raise UserError(f"--preset {said.preset}: not known: use {', '.join(PRESETS)}")
    preset = PRESETS.get(said.preset or "")
    sweep = preset or (EMBEDDED_SWEEP if embedded or simulated else NeedleConfig())
    samples = _samples(said, preset)
    tasks = said.tasks or (preset.tasks if preset else (TASK,))
    task_options = _task_options(said)
    if said.haystack is None and said.qa is None:
        _refuse_reading(said, "--haystack")
    _check_use(tasks, {**task_options, "qa": said.qa, "haystack": said.haystack})
    return replace(
        said,
        model=said.model or ("" if said.base_url else EMBEDDED),
        methods=EMBEDDED_METHODS if embedded and said.methods is None else said.methods,
        tasks=tasks,
        task_options=task_options,
        config=NeedleConfig(
            lengths=said.lengths or sweep.lengths,
            depths=said.depths or sweep.depths,
            **_repeats(said, sweep, samples),
            texts="shared" if said.shared_texts else "own",
            spread=samples is not None,
            **_same(said, "seed", "template", "system", "exact", "allow_repeat"),
            **_same(said, "limit", "adaptive", "budget_minutes", "scorer"),
        ),
    )


def _check_ray(said: NeedleOptions) -> None:
    """
    Raises:
        UserError: vLLM has workers of its own, or nobody asked for Ray's.
    """
    if said.ray and said.engine != "longctx":
        raise UserError(
            f"--ray: --engine {said.engine} spreads a model over machines itself: leave one out"
        )
    if said.ray_workers is not None and not said.ray:
        raise UserError(f"--ray-workers {said.ray_workers}: is for --ray: add it, or leave it out")


def _samples(said: NeedleOptions, preset: Preset | None) -> int | None:
    """
    Raises:
        UserError: no number of samples, or repeats are asked for as well.
    """
    if said.samples is None:
        said_otherwise = said.repeats is not None or said.adaptive or said.shared_texts
        return None if preset is None or said_otherwise else preset.samples
    if said.samples < 1:
        raise UserError(f"--samples {said.samples}: must be at least 1")
    if said.repeats is not None:
        raise UserError(
            f"--samples {said.samples}: --repeats {said.repeats} is another way to say how many: "
            "leave one of them out"
        )
    if said.shared_texts:
        raise UserError(
            f"--samples {said.samples}: each sample has a text of its own: leave --shared-texts out"
        )
    return said.samples


def _repeats(
    said: NeedleOptions, sweep: Preset | NeedleConfig, samples: int | None
) -> dict[str, Any]:
    """How often, and whether close lengths are looked at again: where nothing says how often."""
    if samples is not None or said.repeats is not None:
        return {"repeats": samples or said.repeats}
    if said.adaptive:
        return {"repeats": ADAPTIVE_REPEATS}
    otherwise = said.preset is not None or said.shared_texts or said.limit is not None
    if otherwise or not said.second_look:
        return {"repeats": sweep.repeats}
    return {"repeats": sweep.repeats + MORE_REPEATS, "first_repeats": sweep.repeats}


def settle_perplexity(said: PerplexityOptions) -> PerplexityOptions:
    """Model, methods and what is measured.

    Raises:
        UserError: a number that makes no sense.
    """
    check_engine(said.engine)
    check_quantize(said.quantize, said.engine)
    check_kv_dtype(said.kv_dtype, said.engine)
    if said.text is None:
        _refuse_reading(said, "--text")
    embedded = said.model in ("", EMBEDDED)
    usual = EMBEDDED_LENGTHS if embedded else PerplexityConfig.lengths
    names = ("metric", "stride", "window", "documents", "bos", "seed", "limit")
    return replace(
        said,
        model=said.model or EMBEDDED,
        methods=EMBEDDED_METHODS if embedded and said.methods is None else said.methods,
        config=PerplexityConfig(lengths=said.lengths or usual, **_same(said, *names)),
    )


def _refuse_reading(said: NeedleOptions | PerplexityOptions, flag: str) -> None:
    """
    Raises:
        UserError: it is said how texts are read, and none is.
    """
    for given in (said.encoding and f"--encoding {said.encoding}", said.strict and "--strict"):
        if given:
            raise UserError(f"{given}: generated prose is read from no file: give {flag}")


def _task_options(said: NeedleOptions) -> dict[str, Any]:
    """What tasks declare in `About.options`, each from the flag of its name; None: not said."""
    names = dict.fromkeys(name for task in TASKS.values() for name, _ in task.about.options)
    return _same(said, *names) | {"needle": read_style(said.needle, said.language)}


def _same(options: NeedleOptions | PerplexityOptions, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _check_use(names: tuple[str, ...], given: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: a flag that no task of this run reads.
    """
    abouts = [get_task(name).about for name in names]
    read = {option for about in abouts for option, _ in about.options}
    read |= {"qa" if about.questions else "haystack" for about in abouts}
    for name, value in given.items():
        if value is not None and name not in read:
            shown = f"--{name} {'' if isinstance(value, Mapping) else value}".strip()
            raise UserError(
                f"{shown}: {', '.join(names)} does not read it: leave it out, or add the task that "
                "it is for to --tasks"
            )
