"""What the tests of the drop-in ask of a model, and under which settings."""

import torch

IDS = torch.randint(1, 97, (1, 333), generator=torch.Generator().manual_seed(5))


ARGUMENTS = {
    "none": {},
    "pi": {"factor": 2},
    "ntk": {"factor": 2},
    "yarn": {"factor": 2},
    "dca": {"chunk_size": 64, "local_size": 16},
    "yarn+dca": {"chunk_size": 64, "local_size": 16},
    "yarn-freqs+dca": {"chunk_size": 64, "local_size": 16, "factor": 2},
}


def logits(model, ids=IDS, **extra):
    with torch.no_grad():
        return model(ids, **extra).logits
