"""What a packed call is told on the device: where queries end, and where keys lie.

A kernel of runs gets the first slot and the number of each sequence's keys; one of pages besides
the first slot of each page. Host numbers until they are uploaded, once a step.

Shape legend: E packed sequences, P pages of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longctx.attention.kernels.base import Packed
from longctx.attention.packed_parts import PartSequence
from longctx.attention.upload import upload

_MOST = 2**31 - 1  # int32, as kernels have it


def covered(parts: Sequence[Sequence[PartSequence]], page: int, slots: int) -> bool:
    """Whether all pages lie within so many slots, and the keys of all sequences can be summed."""
    sequences = [each for part in parts for each in part]
    for each in sequences:
        at, keys = each.runs[-1]  # those before are whole pages
        if at + -(-keys // page) * page > slots:
            return False
    return sum(each.keys for each in sequences) <= _MOST


def tables(
    parts: Sequence[Sequence[PartSequence]], count: int, device: torch.device, page: int = 0
) -> Packed:
    """Of one call.

    Args:
        count: tokens of a part.
        page: keys of a page; 0: runs alone.
    """
    sequences = [each for part in parts for each in part]
    ends_q, ends_k = [0], [0]
    for each in sequences:
        ends_q.append(ends_q[-1] + each.stop - each.first)
        ends_k.append(ends_k[-1] + each.keys)
    assert ends_q[-1] == count * len(parts)
    starts = [each.at for each in sequences]
    rows = [ends_q, [*starts, starts[-1]], [*(each.keys for each in sequences), 0]]
    if page:
        rows.append(ends_k)
    table = upload(torch.tensor(rows).to(torch.int32), device)
    return Packed(
        table[0],
        table[1],
        table[2, :-1],
        max(each.stop - each.first for each in sequences),
        max(each.keys for each in sequences),
        upload(_pages(sequences, page), device) if page else None,
        table[3] if page else None,
    )


def _pages(sequences: Sequence[PartSequence], page: int) -> torch.Tensor:
    """[E, P] int32."""
    keys_E1 = torch.tensor([[each.keys] for each in sequences])
    starts_E1 = torch.tensor([[each.at] for each in sequences])
    first_P = torch.arange(max(1, -(-int(keys_E1.max()) // page))) * page
    pages_EP = torch.where(first_P < keys_E1, starts_E1 + first_P, 0)
    for number, each in enumerate(sequences):
        if each.behind:
            mine = [slot for at, keys in each.runs for slot in range(at, at + keys, page)]
            pages_EP[number, : len(mine)] = torch.tensor(mine)
    return pages_EP.to(torch.int32)
