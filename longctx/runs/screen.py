"""What `longctx needle` says to people: the banner before, the map and the table after.

Formats what others computed. Knows no model and starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.certainty import TEXTS
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.effective import Effective, show_break, show_effective, show_other
from longctx.eval.needle.results import NeedleResults, Tally
from longctx.eval.needle.summary import others_sentence
from longctx.eval.runfolder.summary_schema import NeedleSummary
from longctx.plots.terminal import TerminalMap

if TYPE_CHECKING:
    from longctx.runs.needle_prepare import PreparedNeedle

_FAILURES_SHOWN = 5
_DEPTHS_SHOWN = 11


def say(console: Console, line: str) -> None:
    """One line as it is: numbers uncoloured, long ones left to the terminal to break."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_banner(err: Console, prepared: PreparedNeedle) -> None:
    haystack, builder = prepared.sweep.builder.haystack, prepared.sweep.builder
    text = f"{haystack.id}, {builder.haystack_tokens:,} tokens"
    model = prepared.model
    trained = model.trained_length
    window = "" if trained is None else f", trained on {show_length(trained)}"
    precision = "" if model.kind in ("endpoint", "simulated") else f", {model.dtype}"
    err.print(
        f"[bold]{escape(model.name)}[/] ({model.kind}{precision}{window}) · "
        f"{escape(text)} · {escape(str(prepared.output))}",
        highlight=False,
        soft_wrap=True,
    )
    for note in haystack.sources.notes():
        say(err, f"  {note}")
    boundary = prepared.sweep.identity.boundary
    if boundary != "sentence":
        say(err, f"  the text is not in sentences: needles stand at the end of a {boundary}")
    for line in model.banner():
        say(err, f"  {line}")
    config = prepared.options.config
    say(err, f"  {_depth_words(config.depths)}{'' if config.spread else _text_words(config)}")
    if config.spread:
        place = "" if config.depths == (None,) else " and one of the depths"
        say(err, f"  {config.repeats} samples a length, each with a text of its own{place}")
    if prepared.left_out:
        shown = ", ".join(show_length(length) for length in prepared.left_out)
        say(err, f"  left out: {shown}, too short for {config.task}")
    if prepared.stopping is not None:
        say(err, f"  {prepared.stopping['rule']}")


def _depth_words(depths: Sequence[float | None]) -> str:
    if depths == (None,):
        return "evidence all over the text: no depth"
    shown = [show_depth(depth) for depth in depths]
    if len(shown) > _DEPTHS_SHOWN:
        shown = [*shown[:3], "…", shown[-1]]
    return f"{len(depths)} depth{'s' if len(depths) > 1 else ''}: {', '.join(shown)}"


def _text_words(config: NeedleConfig) -> str:
    if config.depths == (None,):
        return ""
    return f" · {TEXTS[config.texts]}"


def proof_words(proof: Mapping[str, Any]) -> str:
    if "layer_change" not in proof:
        return str(proof["by"])
    verdict = "proved" if proof["verified"] else "NOT proved: the effect drowns in rounding"
    return (
        f"{verdict}: a layer at {proof['tokens']} tokens changes by {proof['layer_change']:.1%}, "
        f"a short prompt by {proof['short_change']:.1%}"
    )


def _broken(effective: Effective) -> str:
    if effective.first_fail is not None:
        return f"breaks {show_break(effective)}"
    return "no break seen" if effective.enough_samples else "too few samples to see a break"


def _stacked(tally: Tally) -> str:
    """`show_tally` with a part a line: six lengths stand side by side in 80 columns."""
    low, high = tally.interval
    scored = [f"{tally.total:g}/{tally.n}", f"{100 * low:.0f}-{100 * high:.0f}%"]
    scored += [f"{tally.cut_off} cut off"] if tally.cut_off else []
    others = [f"+{count} {state}" for state, count in tally.others().items()]
    return "\n".join([*(scored if tally.n else ["–"]), *others])


def print_results(
    out: Console,
    output: Path,
    results: NeedleResults,
    figures: NeedleSummary,
    pictures: Sequence[Path],
    palette: str,
) -> None:
    out.print()
    out.print(TerminalMap(results, palette))
    out.print()
    table = Table("method", box=None, pad_edge=False, header_style="bold")
    for length in results.lengths:
        table.add_column(show_length(length), justify="right")
    table.add_column("effective length", justify="right")
    for method in results.methods:
        cells = [_stacked(results.pooled(method, length)) for length in results.lengths]
        table.add_row(method, *cells, show_effective(results.effective(method)))
    out.print(table, highlight=False)
    out.print(f"found/asked, below it the 95 % interval. {others_sentence(figures)}", style="dim")
    for method in results.methods:
        found = results.effective(method)
        say(
            out,
            f"{method}: {_broken(found)}; by RULER's rule {show_other(found, found.ruler)}, "
            f"by NoLiMa's {show_other(found, found.nolima)}",
        )
    for reason in figures["controls"]["reasons"]:
        out.print(f"not discriminative: the model {reason}", style="bold yellow")
    for failure in figures["failures"][:_FAILURES_SHOWN]:
        where = f"{show_length(failure['length'])} at {show_depth(failure['depth'])}"
        say(out, f"failed: {failure['method']} {where}: {failure['error']}")
    say(out, f"wrote {output}/ with summary.md and {', '.join(file.name for file in pictures)}")
