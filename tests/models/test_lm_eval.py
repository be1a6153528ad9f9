"""The adapter for lm_eval, where lm_eval is installed."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from longctx import cli
from longctx.attention import extend
from longctx.eval.texts import prose
from longctx.tiny import WEIGHTS

pytest.importorskip(
    "lm_eval", reason="lm_eval is not installed: pip install 'longctx-dca[lm-eval]'"
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT = ("The salt warehouse was shut. " * 110).strip()
SCHEME = {"method": "yarn+dca", "max_length": 2048}


@pytest.fixture(scope="module")
def model_class() -> Any:
    importlib.import_module("longctx.models.lm_eval")
    from lm_eval.api.registry import get_model

    return get_model("longctx")


def make(model_class: Any, **arguments: Any) -> Any:
    words = ",".join(f"{name}={value}" for name, value in arguments.items())
    return model_class.create_from_arg_string(
        f"pretrained={WEIGHTS},dtype=float32,{words}", {"device": "cpu", "batch_size": 1}
    )


def instance(kind: str, *arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_log_likelihoods_are_those_of_the_extended_model(model_class: Any) -> None:
    from transformers import AutoModelForCausalLM

    lm = make(model_class, **SCHEME)
    ((total, _),) = lm.loglikelihood([instance("loglikelihood", TEXT, " Bruno and Mina.")])
    plain = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    context, whole = lm.tok_encode(TEXT), lm.tok_encode(TEXT + " Bruno and Mina.")
    assert len(whole) > 512

    def expected(method: str) -> float:
        # lm_eval leaves out the last token, which predicts nothing.
        ids = torch.tensor([whole[:-1]])
        length = 2048 if method != "none" else None
        with extend(plain, method, request_length=length), torch.inference_mode():
            logs = plain(ids).logits[0].log_softmax(-1)
        places = range(len(context) - 1, len(whole) - 1)
        return sum(float(logs[at, whole[at + 1]]) for at in places)

    assert total == pytest.approx(expected("yarn+dca"), abs=1e-3)
    assert abs(total - expected("none")) > 0.1


def test_it_generates_beyond_the_trained_window(model_class: Any) -> None:
    lm = make(model_class, **SCHEME)
    question = instance("generate_until", TEXT, {"until": ["\n"], "max_gen_toks": 4})
    (answer,) = lm.generate_until([question])
    assert isinstance(answer, str) and answer


def test_results_tell_the_scheme(model_class: Any) -> None:
    lm = make(model_class, chunk_size=448, **SCHEME)
    told = lm.get_model_info()["longctx"]
    assert (told["method"], told["chunk_size"], told["L0"]) == ("yarn+dca", 448, 512)
    assert lm.max_length == 2048


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "method=None: use one of none, "),
        ({"method": "rope"}, "method=rope: use one of"),
        ({"method": "dca"}, "method=dca: say max_length=TOKENS"),
        ({"method": "dca", "max_length": 2048, "chunk_size": 4096}, "chunk_size=4096 exceeds"),
    ],
)
def test_what_is_missing_is_said(model_class: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(model_class, **arguments)


def test_choices_share_the_context_that_they_answer(model_class: Any) -> None:
    lm = make(model_class, **SCHEME)
    choices = [instance("loglikelihood", TEXT, text) for text in (" Bruno.", " Mina came.")]
    together = lm.loglikelihood(choices)
    assert lm.longctx.stats().counts.cached_tokens > 500
    alone = [make(model_class, **SCHEME).loglikelihood([choice])[0] for choice in choices]
    for (total, greedy), (expected, same) in zip(together, alone, strict=True):
        assert total == pytest.approx(expected, abs=1e-3) and greedy == same


def test_a_setting_that_the_engine_lacks_is_refused(model_class: Any) -> None:
    lm = make(model_class, **SCHEME)
    question = instance("generate_until", TEXT, {"until": ["."], "num_beams": 2})
    with pytest.raises(ValueError, match="generation with num_beams: not in the engine"):
        lm.generate_until([question])


def test_rolling_perplexity_is_lm_evals(tmp_path: Path) -> None:
    """The whole command against lm_eval's own loglikelihood_rolling on the same text."""
    from lm_eval.models.huggingface import HFLM

    text = prose.haystack(64, seed=3).text[:5000]
    (tmp_path / "text.txt").write_text(text)
    for length in (256, 512):
        lm = HFLM(pretrained=str(WEIGHTS), dtype="float32", device="cpu", max_length=length)
        ids = lm.tok_encode(text)
        words = ["perplexity", "embedded", "--text", str(tmp_path / "text.txt"), "--metric"]
        words += ["rolling", "--lengths", f"{length},{len(ids) + 1}", "--methods", "none"]
        words += ["--documents", "1", "--output", str(tmp_path / f"run{length}"), "--json"]
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout.splitlines()[-1])["methods"]["none"]["lengths"][str(length)]
        (total,) = lm.loglikelihood_rolling([instance("loglikelihood_rolling", text)])
        assert told["tokens"] == len(ids)
        assert told["nll"] == pytest.approx(-total / len(ids), rel=2e-6)
        bits = -total / math.log(2) / len(text.encode())
        assert told["bits_per_byte"] == pytest.approx(bits, rel=2e-6)
