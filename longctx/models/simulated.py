"""Models that are none: they know where the needle is and answer by a rule. No weights.

    sim:perfect         finds everything
    sim:window=N        finds needles at most N tokens from the question: at length L those below
                        depth 1 - N/L, so that its effective length is N
    sim:lost-middle     finds needles near both ends; the longer the text, the less in between
    sim:flaky[=SHARE]   misses a share of the prompts (0.2), by chance
    sim:clustered=P,RHO finds a share P of the prompts; those of one text are found or missed
                        together, with a correlation of RHO (beta-binomial over texts)

For tests, documentation and for seeing what a map means. Chance is seeded by the prompt: the same
prompt is answered alike in every run. A third number of sim:clustered is a seed: another draw of
the same model. Distances are those of the map: depth times length.
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from longctx import tiny
from longctx.errors import UserError
from longctx.eval.needle.config import parse_lengths
from longctx.eval.needle.needle import seeded
from longctx.eval.protocol import Completion, Request, Session, Truth
from longctx.models import source
from longctx.models.base import LoadedModels, Model, TokensOnly, bare_scheme
from longctx.models.source import SIMULATED

NAMES = (
    *("sim:perfect", "sim:window=N", "sim:lost-middle", "sim:flaky", "sim:flaky=SHARE"),
    *("sim:clustered=P,RHO", "sim:clustered=P,RHO,SEED"),
)
METHOD = "sim"
_FLAKY_SHARE = 0.2
_MIDDLE_HOLDS = 1024  # up to here sim:lost-middle finds everything
_MISSED = "I do not know."
_VERSION = 1  # part of the fingerprint: another rule is another model

Finds = Callable[[Request, Truth], bool]


class SimSession(Session):
    """Answers by a rule."""

    def __init__(self, scheme: Mapping[str, Any], finds: Finds) -> None:
        proof = {"verified": None, "by": "no attention is at work"}
        super().__init__(METHOD, scheme, "simulated", proof)
        self._finds = finds

    def generate(self, request: Request) -> Completion:
        truth = request.truth
        found = truth is not None and self._finds(request, truth)
        text = " ".join(truth.expected) if truth is not None and found else _MISSED
        return Completion(text, "stop", 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class SimModel(Model):
    finds: Finds

    def banner(self) -> list[str]:
        return ["a simulated model: no weights, the embedded model's tokenizer"]

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        return {METHOD: SimSession(self.schemes[METHOD], self.finds)}


def sim_model(model: str) -> SimModel:
    """
    Raises:
        UserError: no such simulated model.
    """
    finds, window = _rule(model)
    return SimModel(
        name=model,
        kind="simulated",
        fingerprint=f"{model}/{_VERSION}",
        dtype="none",
        kernel="none",
        tokenizer=source.load_tokenizer(source.locate(tiny.EMBEDDED)),
        schemes={METHOD: bare_scheme(METHOD)},
        trained_length=window,
        shape=TokensOnly(),
        finds=finds,
    )


def _rule(model: str) -> tuple[Finds, int | None]:
    """What it finds, and the window that it has."""
    name, _, value = model.removeprefix(SIMULATED).partition("=")
    if name == "perfect" and not value:
        return lambda request, truth: True, None
    if name == "window" and value:
        lengths = parse_lengths(value, f"MODEL {model}: window")
        if len(lengths) == 1:
            return _within(lengths[0]), lengths[0]
    if name == "lost-middle" and not value:
        return _near_an_end, None
    if name == "flaky" and (share := _share(value or str(_FLAKY_SHARE))) is not None:
        return lambda request, truth: _chance(request) >= share, None
    if name == "clustered" and (rule := _clustered(value)) is not None:
        return rule, None
    raise UserError(f"MODEL {model}: no such simulated model: use one of {', '.join(NAMES)}")


def _within(window: int) -> Finds:
    def finds(request: Request, truth: Truth) -> bool:
        # In integers of a thousandth of a percent, so that the frontier itself is found.
        depth = round((truth.depth or 0.0) * 1000)
        return (100_000 - depth) * request.request_length <= 100_000 * window

    return finds


def _near_an_end(request: Request, truth: Truth) -> bool:
    lost = max(0.0, 1 - _MIDDLE_HOLDS / request.request_length)
    return _chance(request) >= lost * math.sin(
        math.pi * (50.0 if truth.depth is None else truth.depth) / 100
    )


def _clustered(value: str) -> Finds | None:
    """None where it is not two numbers from 0 to 1, and perhaps a whole one."""
    share, correlation, *more = (*value.split(","), "")
    p, rho, seed = _share(share), _share(correlation), more[0] if more else ""
    if p is None or rho is None or len(more) > 2 or (len(more) == 2 and not seed.isdigit()):
        return None

    def finds(request: Request, truth: Truth) -> bool:
        drawn = seeded("clustered", p, rho, seed, truth.text)
        return _chance(request, value) < text_share(drawn, p, rho)

    return finds


def text_share(drawn: random.Random, p: float, rho: float) -> float:
    """The share of a text's prompts that is found: Beta, of mean `p`, such that prompts of one text
    correlate by `rho`."""
    if rho == 0 or p in (0.0, 1.0):
        return p
    if rho == 1:
        return float(drawn.random() < p)
    weight = (1 - rho) / rho
    return drawn.betavariate(p * weight, (1 - p) * weight)


def _chance(request: Request, salt: str = "") -> float:
    digest = hashlib.sha256(array("q", request.ids).tobytes() + salt.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None
