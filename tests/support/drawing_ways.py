"""The ways in which tokens are drawn: the C library in every instruction set, numpy, torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from longctx.attention.native import library
from longctx.engine import arrays, drawing

LOADED = drawing.load()
NATIVE = [] if isinstance(LOADED, str) else library.LEVELS[: LOADED.functions.longctx_level() + 1]
NUMPY, TORCH = "numpy", "torch"
WAYS = (*NATIVE, NUMPY, TORCH)


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, for logits on the host."""
    monkeypatch.setattr(arrays, "hosted", lambda device: device.type == "cpu" and way != TORCH)
    chosen = LOADED
    if way in NATIVE:
        assert isinstance(LOADED, drawing.Drawer)
        chosen = replace(LOADED, level=library.LEVELS.index(way))
    monkeypatch.setattr(drawing, "load", lambda: chosen if way in NATIVE else "is left out")


def sizes_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with how many rows numpy or torch look at, call by call."""
    from longctx.engine import candidates

    rows, top = list[int](), candidates.top

    def counted(logits_RV: torch.Tensor, *rest: object) -> candidates.Top:
        rows.append(len(logits_RV))
        return top(logits_RV, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(candidates, "top", counted)
    return rows
