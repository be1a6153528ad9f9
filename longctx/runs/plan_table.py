"""Plans and the model list as people read them: tables on a terminal. Knows no arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from longctx.models import qwen2
from longctx.models.plan import USABLE, on_cpu

if TYPE_CHECKING:
    from longctx.runs.plan import MemoryPlan

_NUMBERS = ("window", "context", "KV per token")
_WIDTH = 100


def print_models() -> None:
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


def models_as_rows() -> list[dict[str, Any]]:
    """One for each id."""
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
        for member in qwen2.MEMBERS
        for id in member.ids
    ]


def print_plan(plan: MemoryPlan) -> None:
    """Of several sets of GPUs the best way for each; of one, every way."""
    model, made_for, chosen = plan.model, plan.made_for, plan.chosen
    shown = plan.by_set[0] if len(plan.by_set) == 1 else chosen
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
        f"{_gib(here.weight_bytes)}, keys and values in {here.kv_dtype} {_gib(here.kv_bytes)}, "
        f"the process at its peak {_gib(here.peak_bytes)}; {_gib(here.free_bytes)} free: "
        f"{'fits' if here.fits else 'does not fit'}",
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
