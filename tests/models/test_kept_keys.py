"""`--kv-dtype int8`: who has it, what tells runs and documents apart, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import scheme_of
from typer.testing import CliRunner

from longctx import cli
from longctx.ask.local import settings_of
from longctx.documents.keys_file import KeysLayout
from longctx.engine.kept import KeptPiece
from longctx.errors import UserError
from longctx.models import dtypes, served
from longctx.models.plan import on_cpu
from longctx.models.served import Asking, sessions_for
from longctx.options.ask import AskOptions
from longctx.options.declare import from_words
from longctx.options.needle import NeedleOptions
from longctx.options.perplexity import PerplexityOptions
from longctx.runs import needle, needle_prepare, perplexity, perplexity_prepare
from longctx.runs.plan import make_plan
from longctx.runs.settle import settle_needle, settle_perplexity
from longctx.serve import loading
from longctx.serve.settings import ServeSettings

INT8 = "int8"


class Ids:
    """A tokenizer of nothing."""

    eos_token_id = None


def needle_options(**words: Any) -> NeedleOptions:
    told = {"methods": "none", "lengths": "256", "depths": "50%", "repeats": 1, **words}
    return settle_needle(from_words(NeedleOptions, told))


def perplexity_options(**words: Any) -> PerplexityOptions:
    told = {"methods": "none", "lengths": "256", "documents": 1, **words}
    return settle_perplexity(from_words(PerplexityOptions, told))


# -- no two forms are mixed up ---------------------------------------------------------------------


def test_runs_over_other_keys_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for prepare, options in (
        (needle_prepare.prepare, needle_options),
        (perplexity_prepare.prepare, perplexity_options),
    ):
        plain, same, int8 = (
            prepare(options(kv_dtype=name, dtype="float32")) for name in ("auto", "float32", INT8)
        )
        assert plain.output == same.output != int8.output
        assert int8.settings["model"] == f"{plain.settings['model']} (keys in int8)"


@pytest.mark.slow
def test_a_run_is_over_such_keys_and_goes_on_with_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert needle.run(needle_options(output=folder, kv_dtype=INT8)) == 0
    told = json.loads((folder / "run.json").read_text())
    assert told["model"]["fingerprint"].endswith(" (keys in int8)")
    assert told["sessions"][0]["kv_dtype"] == INT8
    with pytest.raises(UserError, match="model"):
        needle.run(needle_options(output=folder))


@pytest.mark.slow
def test_perplexity_is_another_one(tmp_path: Path) -> None:
    losses = {}
    for name in ("float32", INT8):
        folder = tmp_path / name
        said = perplexity_options(output=folder, kv_dtype=name, dtype="float32")
        assert perplexity.run(said) == 0
        told = json.loads((folder / "run.json").read_text())
        assert told["sessions"][0]["kv_dtype"] == name
        (record,) = map(json.loads, (folder / "perplexity.jsonl").read_text().splitlines())
        losses[name] = torch.tensor(record["nll"]).mean()
    assert 0 < (losses[INT8] - losses["float32"]).abs() < 0.05


def test_a_server_says_what_it_keeps_and_keeps_documents_apart() -> None:
    prepared = loading.prepare(ServeSettings(kv_dtype=INT8, context=512, kv_budget=1 << 22))
    assert prepared.about()["kv_dtype"] == INT8
    loaded = prepared.load()
    try:
        assert "keys and values in int8" in "\n".join(loading.banner(prepared, loaded, "http://x"))
        assert loaded.facts is not None and loaded.facts.kv_dtype == INT8
        dim = prepared.config.hidden_size // prepared.config.num_attention_heads
        shape = 2 * prepared.config.num_hidden_layers * prepared.config.num_key_value_heads
        assert loaded.engine._scheduler.pool.bytes_per_token == shape * (dim + 2)
    finally:
        loaded.engine.close()


def test_ask_loads_the_same() -> None:
    options = AskOptions(("a.txt",), "what?", kv_dtype=INT8)
    assert settings_of(options, "embedded").kv_dtype == INT8


def test_a_stored_token_takes_what_it_takes_in_memory() -> None:
    piece = KeptPiece(0, *torch.zeros(2, 3, 2, 5, 66, dtype=torch.int8))
    layout = KeysLayout.of(5, piece)
    assert layout.dtype == INT8 and layout.bytes_per_token == 2 * 3 * 2 * (64 + 2)
    assert layout.size == len(layout.header) + 5 * (layout.bytes_per_token + 4)


# -- plan ------------------------------------------------------------------------------------------


def test_a_plan_counts_bytes_and_scales_on_a_cpu() -> None:
    made = {
        name: make_plan("Qwen2-7B", 32768, "1x80GB", "bf16", name).model for name in ("auto", INT8)
    }
    assert made[INT8].kv_bytes == made["auto"].kv_bytes  # of GPUs, in bfloat16
    here = on_cpu(made[INT8])
    assert (here.kv_dtype, here.kv_bytes) == (INT8, 32768 * 2 * 28 * 4 * (128 + 2))
    told = CliRunner().invoke(cli.app, ["plan", "Qwen2-7B", "--kv-dtype", INT8]).stdout
    assert "keys and values in int8 3.6 GiB" in told
    with pytest.raises(UserError, match="--kv-dtype int4: use auto or int8"):
        make_plan("Qwen2-7B", None, "80GB", "bf16", "int4")


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [ServeSettings, needle_options, perplexity_options, lambda **w: AskOptions((), **w)]
)
def test_words_that_mean_nothing_are_refused(said: Any) -> None:
    with pytest.raises(UserError, match=r"--kv-dtype int4: use one of auto, .*int8"):
        said(kv_dtype="int4")


@pytest.mark.parametrize("said", [ServeSettings, needle_options, perplexity_options])
def test_vllm_decides_itself(said: Any) -> None:
    with pytest.raises(UserError, match="--kv-dtype int8: vLLM decides that itself: leave it out"):
        said(kv_dtype=INT8, engine="vllm")


def test_a_model_that_nobody_computes_has_no_keys() -> None:
    with pytest.raises(UserError, match=r"--kv-dtype int8: .* simulated .*: leave --kv-dtype out"):
        needle_prepare.prepare(needle_options(model="sim:perfect", methods=None, kv_dtype=INT8))


def test_a_gpu_is_refused_before_weights_are_loaded() -> None:
    with pytest.raises(UserError, match=r"--kv-dtype int8: .* read on a CPU, not on cuda: leave"):
        dtypes.kept(INT8, "cuda", torch.bfloat16)
    assert dtypes.kept("auto", "cuda", torch.bfloat16) is torch.bfloat16
    assert dtypes.kept("float16", "cuda", torch.bfloat16) is torch.float16


def test_a_plain_loop_is_no_silent_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise ValueError("no engine here")

    monkeypatch.setattr(served, "ServedSession", refuses)
    model = tiny_models.build()
    schemes = [scheme_of(model, "none")]
    sessions, _ = sessions_for(model, Ids(), schemes, Asking("auto", 100))
    assert list(sessions) == ["none"]
    with pytest.raises(UserError, match="--kv-dtype int8: none runs in a plain loop alone"):
        sessions_for(model, Ids(), schemes, Asking("auto", 100, kv_dtype=torch.int8))
