"""What the tests of the drop-in ask of a model, and under which settings."""

from typing import Any

import torch

from longctx.attention.methods import TRAITS

IDS = torch.randint(1, 97, (1, 333), generator=torch.Generator().manual_seed(5))


# Of every method, so that a new one is asked what the others are.
ARGUMENTS: dict[str, dict[str, Any]] = {
    name: ({"chunk_size": 64, "local_size": 16} if method.chunks else {})
    | ({"factor": 2} if method.has_factor else {})
    for name, method in TRAITS.items()
}


def logits(model, ids=IDS, **extra):
    with torch.no_grad():
        return model(ids, **extra).logits
