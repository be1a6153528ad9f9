"""`longctx plan` and `longctx models`: what a model needs, and which models there are.

Parses, asks `models.plan` and `models.qwen2`, prints. Weights are never read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longctx.commands import options
from longctx.errors import UserError
from longctx.models import qwen2

if TYPE_CHECKING:
    from longctx.models.plan import Model, Option

# From a card that people have to the machines that large models are served on.
_USUAL_GPUS = "1x24GB,1x48GB,1x80GB,2x80GB,4x80GB,8x80GB"


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A model of `longctx models`, a directory with config.json, or a hub id "
            "(its config alone is fetched)."
        ),
    ],
    context: Annotated[
        str | None,
        typer.Option(help="Tokens of one context, as 128K. Default: what the model is made for."),
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="Count and size, as 4x80GB; several with commas.")
    ] = _USUAL_GPUS,
    weights: Annotated[str, typer.Option(help="bf16, int8 or int4.")] = "bf16",
    json: options.Json = False,
) -> None:
    """Say what memory a model needs at a length and which GPUs hold it, before any download."""
    import json as json_module

    from longctx.engine.engine import DEFAULT_CHUNK_BUDGET, DEFAULT_MAX_RUNNING
    from longctx.models import plan as planning

    sets = planning.parse_gpus(gpus)
    if weights not in planning.WEIGHTS:
        raise UserError(f"--weights {weights}: use one of {', '.join(planning.WEIGHTS)}")
    name, config, made_for = _config(model)
    measured = planning.model_of(
        name,
        config,
        context=options.tokens(context, "--context") or made_for,
        weights=weights,
        step_tokens=DEFAULT_CHUNK_BUDGET,
        logit_rows=DEFAULT_MAX_RUNNING,
    )
    by_set = [planning.options_for(measured, each) for each in sets]
    chosen = [planning.best(found) for found in by_set]
    shown = by_set[0] if len(by_set) == 1 else chosen
    if json:
        every = [option for found in by_set for option in found]
        print(json_module.dumps(planning.to_dict(measured, every, chosen)))
    else:
        _show(measured, made_for, shown, chosen)


def models(json: options.Json = False) -> None:
    """List the Qwen2 family: window, context, method, keys and values per token, licence."""
    import json as json_module

    from rich import box
    from rich.console import Console
    from rich.table import Table

    if json:
        print(json_module.dumps([row for member in qwen2.MEMBERS for row in _rows(member)]))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("model", "window", "context", "method", "KV per token", "licence"):
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    for member in qwen2.MEMBERS:
        table.add_row(
            ", ".join(
                member.name * (not index) + each for index, each in enumerate(member.variants)
            ),
            _tokens(member.window),
            _tokens(member.context),
            member.method,
            f"{member.kv_bytes_per_token // 1024} KiB",
            member.licence,
        )
    console = Console(width=max(_WIDTH, Console().width))
    console.print(table)
    console.print(
        " window: trained, context: published with the method, both in tokens; keys and values in "
        "bfloat16.\n Hub ids are Qwen/…; `longctx plan MODEL` says what one needs.",
        highlight=False,
    )


_NUMBERS = ("window", "context", "KV per token")
_WIDTH = 100


def _rows(member: qwen2.Member) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "series": member.series,
            "size": member.size,
            "instruct": "Instruct" in id,
            "window": member.window,
            "context": member.context,
            "method": member.method,
            "kv_bytes_per_token": member.kv_bytes_per_token,
            "licence": member.licence,
        }
        for id in member.ids
    ]


def _config(model: str) -> tuple[str, Any, int]:
    """Name, transformers config, and the tokens that the model is made for."""
    import difflib

    from longctx.attention.config import resolve
    from longctx.models import source as loading

    member = None if Path(model).expanduser().exists() else qwen2.find(model)
    if member is not None:
        from transformers import AutoConfig

        made = member.config()
        return model, AutoConfig.for_model(made.pop("model_type"), **made), member.context
    if "/" not in model and not Path(model).exists() and model.lower().startswith("qwen"):
        names = [id.removeprefix("Qwen/") for each in qwen2.MEMBERS for id in each.ids]
        near = difflib.get_close_matches(model, names, n=1, cutoff=0.0)
        raise UserError(
            f"MODEL {model}: neither a directory nor a model of `longctx models`: did you mean "
            f"{near[0]}?"
        )
    source = loading.locate(model, weights=False)
    config = loading.load_config(source)
    try:
        window = resolve(config, "none").original_length
    except ValueError as error:
        raise UserError(f"MODEL {model}: {error}: pass --context") from error
    return model, config, window


def _show(model: Model, made_for: int, shown: list[Option], chosen: list[Option]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from longctx.models.plan import USABLE, on_cpu

    console = Console(width=max(_WIDTH, Console().width), highlight=False)
    beyond = f", beyond the {_tokens(made_for)} it is made for" if model.context > made_for else ""
    console.print(f"{model.name} at {_tokens(model.context)} tokens{beyond}", markup=False)
    console.print(f"  {model.scheme}", markup=False, soft_wrap=True)
    console.print(
        f"  weights {_gib(model.weight_bytes)} ({model.parameters / 1e6:,.0f} million parameters, "
        f"{model.weights})\n"
        f"  keys and values {_gib(model.kv_bytes)} a context "
        f"({model.kv_bytes_per_token / 1024:g} KiB a token, bfloat16)\n"
        f"  activations of a step {_gib(model.step_bytes)}",
        markup=False,
    )
    here = on_cpu(model)
    console.print(
        f"  on this machine's CPU {here.dtype} ({here.reason}): weights "
        f"{_gib(here.weight_bytes)}, keys and values {_gib(here.kv_bytes)}, "
        f"{_gib(here.free_bytes)} free: {'fits' if here.fits else 'does not fit'}",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("GPUs", "split", "engine"):
        table.add_column(column)
    for column in ("replicas", "weights", "KV", "usable", "contexts", "longest"):
        table.add_column(column, justify="right")
    for option in shown:
        table.add_row(
            option.gpus,
            "-" if option.split == "none" else f"{option.split} {option.gpus_each}",
            option.engine,
            str(option.replicas),
            _gib(option.weight_bytes),
            _gib(option.kv_bytes_per_context),
            _gib(option.usable_bytes),
            str(option.contexts) if option.contexts else "does not fit",
            _tokens(option.longest),
            style="bold" if option in chosen and len(shown) > 1 and option.contexts else None,
        )
    console.print(table)
    console.print(
        " split: over how many GPUs a replica lies, by layers or by tensors (tensor parallel);\n"
        f" weights, KV of one context and usable memory ({USABLE:.0%}) are per GPU;\n"
        " contexts: of this length at the same time, on all GPUs; longest: one context, by memory",
        markup=False,
    )


def _gib(count: int) -> str:
    size = count / (1 << 30)
    return f"{size:.0f} GiB" if size >= 10 else f"{size:.1f} GiB" if size >= 0.1 else _small(count)


def _small(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _tokens(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1e6:.2f}M".replace(".00", "") if count % (1 << 20) else f"{count >> 20}M"
    return f"{count / 1024:.0f}K" if count >= 1024 else str(count)
