"""One step of vLLM as rows of `attention/step.py`: host numbers. Imports nothing of vLLM.

Pages of a sequence that lie side by side are one run of keys, read in place. Where a prompt's pages
have come to lie in many pieces, its keys are brought together once a layer: that is cheaper than a
call of the kernel for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from longctx.attention.rows import Run, StepRow, paged

MOST_RUNS = 8  # pieces that a block of a prompt is read in


class VllmRow(NamedTuple):
    """A request's part of a step.

    Attributes:
        first: its first token among the step's.
        end: position behind its last token.
        pages: where its keys lie, in order.
        logit_scale: m^2.
    """

    first: int
    length: int
    end: int
    pages: Sequence[int]
    logit_scale: float


class VllmStep(NamedTuple):
    """Rows, and slots [M] of each sequence whose keys are brought together.

    Stack 0 is the cache, and stack 1 + n the keys of `gathered[n]`.
    """

    rows: tuple[StepRow, ...]
    gathered: tuple[torch.Tensor, ...]


def rows_of(requests: Sequence[VllmRow], page: int) -> VllmStep:
    """Rows of one step; requests without tokens are left out.

    Args:
        page: slots of a page.
    """
    rows: list[StepRow] = []
    gathered: list[torch.Tensor] = []
    for each in requests:
        if each.length < 1:
            continue
        runs = paged(each.pages, page, each.end)
        if len(runs) > MOST_RUNS and each.length > 1:
            slots = [torch.arange(run.at, run.at + run.stop - run.start) for run in runs]
            gathered.append(torch.cat(slots))
            runs = (Run(len(gathered), 0, each.end, 0),)
        columns = slice(each.first, each.first + each.length)
        start = each.end - each.length
        rows.append(StepRow(start, each.length, runs, each.logit_scale, columns=columns))
    return VllmStep(tuple(rows), tuple(gathered))
