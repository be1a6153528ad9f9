"""How `longctx doctor` looks on a terminal, and in the bug report that it is pasted into.

Knows a report and the width of a console; runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from longctx.doctor.checks import FAILURES, CheckRow, DoctorReport

_STYLES = {"ok": "green", **dict.fromkeys(FAILURES, "bold red")}
# From so many columns on, milliseconds stand beside the rates.
_WIDE = 100


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is running; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda words: None
        return
    with console.status("starting") as status:
        yield lambda words: status.update(Text(words))


def show(report: DoctorReport, console: Console | None = None) -> None:
    """Tables for people, on stdout."""
    console = console or Console()
    console.print(_machine(report))
    ran = [row for row in report.rows if row.verdict != "not offered"]
    if ran:
        console.print()
        console.print(_measured(ran, console.width >= _WIDE))
        console.print(_legend(ran))
    absent = [row for row in report.rows if row.verdict == "not offered"]
    if absent:
        console.print()
        console.print(_not_offered(absent, {row.device for row in ran}))
    told = [Text(note) for note in report.notes]
    failed = [row for row in ran if row.verdict in FAILURES]
    told += [Text(f"{r.verdict.upper()}: {_name(r)}: {r.reason}", "bold red") for r in failed]
    if failed:
        told.append(Text(f"verdict: {len(failed)} of {len(ran)} are not right", "bold red"))
    elif ran:
        told.append(Text(f"verdict: ok, all {len(ran)} give float64's numbers", "green"))
    else:
        told.append(Text("verdict: nothing runs here"))
    console.print()
    console.print(Padding(Group(*told), (0, 0, 0, 1)))


def _machine(report: DoctorReport) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    there = [f"{name} {version}" for name, version in report.versions.items() if version]
    missing = [name for name, version in report.versions.items() if not version]
    table.add_row(" versions", Text(", ".join(there)))
    if missing:
        table.add_row(" missing", Text(", ".join(missing)))
    for entry in report.devices:
        table.add_row(f" {entry.device}", Text(entry.detail))
    return table


def _measured(rows: Sequence[CheckRow], wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for title in (" on", "what", "dtype"):
        table.add_column(title, no_wrap=True)
    titles = ["error", "of lse", "prefill\nGFLOP/s", "decode\nGB/s"]
    if wide:
        titles[2:] = ["prefill\nms", titles[2], "decode\nms", titles[3]]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        rates = [_rate(row.prefill_gflops), _rate(row.decode_gbps)]
        if wide:
            rates = [_rate(row.prefill_ms), rates[0], _rate(row.decode_ms), rates[1]]
        table.add_row(
            f" {row.device}",
            row.what,
            row.dtype or "",
            _error(row.error_out, row.bound_out),
            _error(row.error_lse, row.bound_lse),
            *rates,
            Text(row.verdict if row.verdict == "ok" else row.verdict.upper(), _STYLES[row.verdict]),
        )
    return table


def _not_offered(rows: Sequence[CheckRow], devices: set[str]) -> Table:
    """What does not run, dtypes with one reason together.

    Args:
        devices: where something has run; any other is told in one line.
    """
    table = Table(" on", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("not offered", no_wrap=True)
    table.add_column("dtype")
    table.add_column("why")
    by_reason: dict[tuple[str, str, str | None], list[str]] = {}
    for row in rows:
        if row.device in devices:
            by_reason.setdefault((row.device, row.what, row.reason), []).append(row.dtype or "")
    every = {dtype for dtypes in by_reason.values() for dtype in dtypes}
    for (device, what, reason), dtypes in by_reason.items():
        shown = "all" if len(dtypes) == len(every) > 1 else ", ".join(dtypes)
        table.add_row(f" {device}", what, shown, Text(reason or ""))
    for device in dict.fromkeys(row.device for row in rows if row.device not in devices):
        reasons = dict.fromkeys(row.reason or "" for row in rows if row.device == device)
        table.add_row(f" {device}", "every kernel", "all", Text("; ".join(reasons)))
    return table


def _legend(rows: Sequence[CheckRow]) -> Text:
    held = {row.dtype: (row.bound_out, row.bound_lse) for row in rows if row.bound_lse}
    lines = [" error: largest relative L2 distance from float64 over several shapes"]
    if held:
        most = ", ".join(f"{_small(out)} {dtype}" for dtype, (out, _) in held.items())
        most_lse = ", ".join(f"{_small(lse)} {dtype}" for dtype, (_, lse) in held.items())
        lines += [f"   at most {most}", f"   lse at most {most_lse}"]
    lines.append(" rates are those of tiny inputs: they tell slow from fast and are no benchmark")
    return Text("\n".join(lines), "dim")


def _error(error: float | None, bound: float | None) -> Text:
    if bound is None:
        return Text("")
    if error is None:
        return Text("not finite", "bold red")
    return Text(_small(error), "" if error <= bound else "bold red")


def _small(value: float | None) -> str:
    """1.8e-3: the exponent without the zero that Python writes."""
    return "" if value is None else f"{value:.1e}".replace("e-0", "e-")


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _name(row: CheckRow) -> str:
    return " ".join((row.what, *((row.dtype,) if row.dtype else ()), "on", row.device))
