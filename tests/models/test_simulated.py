"""`sim:clustered`: the share that it finds, and how answers to one text go together."""

from __future__ import annotations

import numpy as np
import pytest

from longctx.errors import UserError
from longctx.eval.protocol import Request, Truth
from longctx.models.simulated import sim_model

TEXTS, PROMPTS = 400, 11


def answers(model: str) -> np.ndarray:
    """A row a text."""
    session = sim_model(model).sessions()["sim"]
    found = [
        [
            session.generate(
                Request([text, prompt], 8, 256, truth=Truth(("1234567",), 50.0, f"0/256/{text}"))
            ).text
            == "1234567"
            for prompt in range(PROMPTS)
        ]
        for text in range(TEXTS)
    ]
    return np.array(found, dtype=float)


def correlation(found: np.ndarray) -> float:
    """Of two answers to one text: analysis of variance."""
    texts = found.mean(axis=1)
    between = PROMPTS * texts.var(ddof=1)
    within = ((found - texts[:, None]) ** 2).sum() / (TEXTS * (PROMPTS - 1))
    return float((between - within) / (between + (PROMPTS - 1) * within))


@pytest.mark.parametrize(("p", "rho"), [(0.8, 0.0), (0.8, 0.1), (0.8, 0.6), (0.5, 0.3), (0.3, 1.0)])
def test_it_finds_its_share_and_answers_to_one_text_go_together(p: float, rho: float) -> None:
    found = answers(f"sim:clustered={p},{rho}")
    assert found.mean() == pytest.approx(p, abs=0.06)
    assert correlation(found) == pytest.approx(rho, abs=0.1)


def test_a_seed_is_another_draw_of_the_same_model() -> None:
    one, again, other = (answers(f"sim:clustered=0.5,0.3{seed}") for seed in ("", "", ",1"))
    assert (one == again).all()
    assert 0.4 < (one == other).mean() < 0.6
    # Neither are two models' texts hard together: nothing that they share helps a comparison.
    assert abs(np.corrcoef(one.mean(axis=1), other.mean(axis=1))[0, 1]) < 0.2


def test_ends_of_the_scale() -> None:
    assert answers("sim:clustered=1,0.5").all()
    assert not answers("sim:clustered=0,0.5").any()


@pytest.mark.parametrize(
    "value", ["", "=", "=0.8", "=0.8,", "=1.2,0", "=0.8,2", "=0.8,0.3,x", "=0.8,0.3,1,2", "=a,b"]
)
def test_what_is_none(value: str) -> None:
    with pytest.raises(UserError, match=r"no such simulated model: use one of .*clustered=P,RHO"):
        sim_model(f"sim:clustered{value}")
