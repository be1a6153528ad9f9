"""NaN and infinities end the request whose they are: no token is drawn from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_helpers import engine_for, greedy, prompt_of, run

from longctx.engine import EngineRequest, NonFiniteLogitsError, Sampling, arrays, sampling
from longctx.engine.sampling import RowSampler, draw

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "settings", [Sampling(), Sampling(temperature=0.8, top_k=3, top_p=0.9, min_p=0.1, seed=1)]
)
@pytest.mark.parametrize("bad", [[1, NAN, 0, 2], [1, INF, 0, 2], [-INF] * 4])
def test_a_row_without_a_token_fails_and_its_neighbours_do_not(
    bad: list[float], settings: Sampling
) -> None:
    good = [0.0, 90.0, -INF, 1.0]  # what a model forbids is no failure
    rows = [good, bad, good]
    drawn = draw(torch.tensor(rows), [RowSampler(settings, top_logprobs=2) for _ in rows])
    assert isinstance(drawn[1], NonFiniteLogitsError)
    for each in (drawn[0], drawn[2]):
        assert not isinstance(each, Exception)
        assert each.token == 1 and each.logprob is not None and each.logprob.logprob == 0.0


def test_all_rows_come_back_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would be a second wait for the device, at every step."""
    monkeypatch.setattr(arrays, "hosted", lambda device: False)
    read: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        read.append(tensor.numel())
        return tolist(tensor)

    def never(*_: Any) -> None:
        raise AssertionError("a wait for the device")

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    for name in ("item", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, never)
    drawn = draw(torch.tensor([[0.0, 1.0], [NAN, 1.0]]), [RowSampler(Sampling())] * 2)
    assert read == [2] and isinstance(drawn[1], NonFiniteLogitsError)


def _spoiled(engine: Any, monkeypatch: pytest.MonkeyPatch, token: int, value: float) -> None:
    """Logits of a step that holds the token are `value` where that row's are wanted."""
    forward = engine._runner.forward

    def spoils(tokens: Any, rows: Any, wanted: Any) -> torch.Tensor:
        logits: torch.Tensor = forward(tokens, rows, wanted).clone()
        at = 0
        for row in rows:
            mine = [n for n, want in enumerate(wanted) if at <= want < at + row.length]
            if token in list(tokens)[at : at + row.length]:
                logits[mine, 5] = value
            at += row.length
        return logits

    monkeypatch.setattr(engine._runner, "forward", spoils)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_request_whose_logits_are_not_finite_fails_alone(
    model: Any, value: float, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with engine_for(model) as engine:
        prompt = [token % 90 for token in prompt_of(30)]
        want = greedy(engine, prompt, 1)
        _spoiled(engine, monkeypatch, 96, value)
        good = engine.submit(EngineRequest(prompt, max_new_tokens=1))
        bad = engine.submit(EngineRequest([*prompt[:20], 96], max_new_tokens=12))
        engine.run_until_idle()
        assert good.result(timeout=0).token_ids == want
        with pytest.raises(NonFiniteLogitsError, match=r"^the model's logits are not finite .*dty"):
            bad.result(timeout=0)
        assert engine.stats().counts.failed == 1
    (line,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "are not finite" in line.getMessage() and line.exc_info is None


@pytest.mark.parametrize("value", [NAN, INF])
def test_scores_of_a_prompt_are_not_finite_or_there(
    model: Any, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        _spoiled(engine, monkeypatch, 96, value)
        request = EngineRequest([*prompt_of(20), 96, 4], max_new_tokens=0, prompt_logprobs=True)
        handle = engine.submit(request)
        engine.run_until_idle()
        with pytest.raises(NonFiniteLogitsError):
            handle.result(timeout=0)


def test_what_a_spoiled_answer_went_on_from_is_not_kept(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(model) as engine:
        prompt = [token % 90 for token in prompt_of(40)]
        run(engine, EngineRequest(prompt, max_new_tokens=1))
        assert engine.stats().retained_prefixes == 1
        _spoiled(engine, monkeypatch, 96, NAN)
        bad = engine.submit(EngineRequest([*prompt, 96], max_new_tokens=2))
        engine.run_until_idle()
        with pytest.raises(NonFiniteLogitsError):
            bad.result(timeout=0)
        assert engine.stats().retained_prefixes == 0


def test_a_constraint_sees_no_token_of_a_spoiled_row() -> None:
    class Takes:
        def mask(self, logits_V: torch.Tensor) -> None:
            logits_V[1:] = -INF  # the NaN is among what is forbidden

        def accept(self, token: int) -> bool:
            raise AssertionError("no token was drawn")

    (drawn,) = sampling.draw(
        torch.tensor([[1.0, NAN]]), [RowSampler(Sampling(), constraint=Takes())]
    )
    assert isinstance(drawn, NonFiniteLogitsError)
