"""Lengths, depths, times and sizes as people read them. Knows no run."""

from __future__ import annotations

ALL_DEPTHS = "all"


def show_length(tokens: int) -> str:
    """12288 as `12K`; what is no whole number of K stays as it is."""
    for unit, size in (("M", 1024**2), ("K", 1024)):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)


def show_depth(percent: float | None) -> str:
    """`25%`; None is the row of a task that spreads its evidence."""
    return ALL_DEPTHS if percent is None else f"{percent:g}%"


def depth_name(percent: float | None) -> str:
    """`25`, as in tables for programs."""
    return ALL_DEPTHS if percent is None else f"{percent:g}"


def show_seconds(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(1, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
