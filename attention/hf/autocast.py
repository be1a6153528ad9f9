"""Queries, keys and values in one dtype, whatever torch.autocast made of them.

Under autocast a linear layer's output is in the lower dtype while rotation by a float32 table
brings queries and keys back to float32. torch's own attention is on autocast's list and casts all
three; kernels that are called below that list must be given what it would have cast.
"""

from __future__ import annotations

import torch


def one_dtype(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three in autocast's dtype where it is on for their device, else in the query's.

    float64 is left alone, as autocast leaves it. Tensors that have the dtype are returned as they
    are.
    """
    dtype, device = query.dtype, query.device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)
