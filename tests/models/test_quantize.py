"""`--quantize int8`: what is rounded, what that takes, and that no two forms are mixed up."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engine_helpers import engine_for, greedy, prompt_of, run
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from longctx import tiny
from longctx.attention import cpu
from longctx.engine import EngineRequest
from longctx.errors import UserError
from longctx.models import dtypes, quantize
from longctx.models.int8 import Int8Linear
from longctx.models.source import Source, load_config, load_model, locate
from longctx.options.declare import from_words
from longctx.options.needle import NeedleOptions
from longctx.options.perplexity import PerplexityOptions
from longctx.runs import needle, needle_prepare, perplexity_prepare
from longctx.runs.settle import settle_needle, settle_perplexity
from longctx.serve import loading
from longctx.serve.settings import ServeSettings

needs_int8 = pytest.mark.skipif(not cpu.multiplies_int8(), reason=cpu.multiplies_int8().reason)


def form() -> str | None:
    return quantize.form("int8", "cpu")


def embedded(how: str = "int8", dtype: torch.dtype = torch.float32) -> Any:
    source = locate(tiny.EMBEDDED)
    return quantize.load(source, load_config(source), dtype, "cpu", how, "cpu")


def rounded(model: nn.Module) -> list[str]:
    return [name for name, each in model.named_modules() if isinstance(each, Int8Linear)]


# -- what is rounded -------------------------------------------------------------------------------


@needs_int8
def test_all_linear_layers_are_rounded_and_the_embedding_stays() -> None:
    plain, model = embedded("none"), embedded()
    linear = [name for name, each in plain.named_modules() if isinstance(each, nn.Linear)]
    assert rounded(model) == linear and "lm_head" in linear
    table = model.get_input_embeddings().weight
    assert torch.equal(table, plain.get_input_embeddings().weight)
    assert model.dtype == torch.float32 and model.config.dtype == torch.float32
    assert not model.training


@needs_int8
def test_its_logits_are_near_those_of_float32() -> None:
    ids = torch.tensor([prompt_of(200)])
    with torch.inference_mode():
        want, found = (model(ids).logits for model in (embedded("none"), embedded()))
    error = float((found - want).norm() / want.norm())
    assert 1e-4 < error < 0.1


@needs_int8
def test_a_tied_head_is_rounded_where_the_whole_becomes_smaller() -> None:
    for vocabulary, there in ((97, True), (4096, False)):
        sizes = {**tiny_models.SIZES, "vocab_size": vocabulary, "tie_word_embeddings": True}
        model = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
        before = quantize.weight_bytes(model)
        planned = before - quantize.sizes_of(model).saved(4)
        quantize.round_linears(model)
        assert ("lm_head" in rounded(model)) is there
        assert quantize.weight_bytes(model) == planned < before


@needs_int8
def test_what_chooses_experts_and_fused_experts_stay_and_are_told() -> None:
    model = tiny_models.build("qwen2_moe")
    quantize.round_linears(model)
    names = rounded(model)
    assert any(name.endswith("shared_expert.down_proj") for name in names)
    assert not any(name.split(".")[-1] in ("gate", "shared_expert_gate") for name in names)
    (told,) = quantize.notes(model, "int8", torch.float32, "cpu")
    assert "not rounded are Qwen2MoeExperts (" in told and told.endswith("no linear layers")
    with engine_for(model) as engine:
        assert len(greedy(engine, prompt_of(40))) == 12


@needs_int8
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("method", ["none", "yarn+dca"])
def test_every_family_answers_under_every_kind_of_method(family: str, method: str) -> None:
    model = tiny_models.build(family)
    quantize.round_linears(model)
    with engine_for(model, method) as engine:
        assert len(greedy(engine, prompt_of(150))) == 12


# -- what a request's answer depends on ------------------------------------------------------------


@needs_int8
def test_logits_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    """Every bit, where attention is a row's own too: from prompts of one token."""
    model = embedded()
    ids = torch.tensor([[5], [17], [900], [3], [44]])
    with torch.inference_mode():
        together = model(ids).logits
        for row in range(len(ids)):
            assert torch.equal(model(ids[row : row + 1]).logits, together[row : row + 1])


@needs_int8
def test_answers_depend_neither_on_the_batch_nor_on_chunks_nor_on_the_cache() -> None:
    model = embedded()
    prompts = [prompt_of(length, seed) for seed, length in enumerate((61, 150, 222, 97, 300))]
    with engine_for(model, chunk_budget=64) as engine:
        alone = [greedy(engine, prompt) for prompt in prompts]
        cached = [greedy(engine, prompt) for prompt in prompts]
    for budget in (33, 400):
        with engine_for(model, chunk_budget=budget) as engine:
            requests = [EngineRequest(prompt, max_new_tokens=12) for prompt in prompts]
            assert [answer.token_ids for answer in run(engine, *requests)] == alone
    assert cached == alone


# -- loading ---------------------------------------------------------------------------------------

_PEAK = """
import sys, threading, time, torch
from longctx.models import quantize
from longctx.models.source import load_config, locate

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) >> 10

source = locate(sys.argv[1])
config = load_config(source)
small = locate(sys.argv[2])
quantize.load(small, load_config(small), torch.float32, "cpu", "int8", "cpu")
before, most, done = anonymous(), 0, False

def watch():
    global most
    while not done:
        most = max(most, anonymous())
        time.sleep(0.0005)

thread = threading.Thread(target=watch)
thread.start()
model = quantize.load(source, config, torch.float32, "cpu", "int8", "cpu")
done = True
thread.join()
print(most - before, quantize.weight_bytes(model) >> 20)
"""


@needs_int8
def test_each_float_weight_goes_before_the_next_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.build()
    layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
    left, alive = [weakref.ref(each.weight) for each in layers], []
    del layers
    rounds = quantize.side_by_side

    def counted(layers: Any) -> Any:
        alive.append(sum(weight() is not None for weight in left))
        return rounds(layers)

    monkeypatch.setattr(quantize, "side_by_side", counted)
    quantize.round_linears(model)
    # Queries with keys and values, outputs, gates with what they open, back: of two layers.
    assert len(alive) == 2 * 4 + 1 and alive[0] == 2 * 7 + 1
    assert all(later < sooner for sooner, later in itertools.pairwise(alive[1:]))
    assert alive[-1] <= 1 + 1


@needs_int8
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc as Linux has it")
def test_loading_never_holds_the_floats_of_all_layers(tmp_path: Path, tiny_model: Path) -> None:
    """Of 200 MB in bfloat16, which float32 would double."""
    sizes = {**tiny_models.SIZES, "hidden_size": 768, "intermediate_size": 3072}
    sizes |= {"num_hidden_layers": 12, "num_attention_heads": 12, "dtype": "bfloat16"}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes)).to(torch.bfloat16)
    large = tmp_path / "large"
    model.save_pretrained(large)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(large), str(tiny_model)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, weights = map(int, done.stdout.split())
    assert 95 < weights < 110
    assert peak < weights + 60  # float32 is 390


@needs_int8
def test_bytes_are_told_as_planned(tmp_path: Path) -> None:
    source = locate(tiny.EMBEDDED)
    config = load_config(source)
    for how, itemsize in (("none", 4), ("int8", 4), ("int8", 2)):
        dtype = torch.float32 if itemsize == 4 else torch.bfloat16
        planned = quantize.planned_bytes("embedded", config, itemsize, how)
        assert planned == quantize.weight_bytes(embedded(how, dtype))


@needs_int8
def test_less_has_to_fit_for_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    source = locate(tiny.EMBEDDED)
    config = load_config(source)
    config.dtype = torch.bfloat16
    monkeypatch.setattr(
        cpu, "native", lambda dtype: cpu.Ability(dtype is torch.float32, "it has none")
    )
    free = int(quantize.planned_bytes("embedded", config, 4, "none") / dtypes.WEIGHTS_SHARE) - 8
    monkeypatch.setattr(dtypes, "free_host_bytes", lambda: free)
    assert dtypes.choose("auto", source, config, "cpu").name == "bfloat16"
    assert dtypes.choose("auto", source, config, "cpu", quantize="int8").name == "float32"


# -- no two forms are mixed up ---------------------------------------------------------------------


def test_forms_have_names_and_fingerprints_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [quantize.fingerprint_of("sha256:1", "none", "cpu")]
    found.append(quantize.fingerprint_of("sha256:1", "int8", "cuda"))
    for largest in (127, 64):
        monkeypatch.setattr(cpu, "largest_int8_weight", lambda largest=largest: largest)
        found.append(quantize.fingerprint_of("sha256:1", "int8", "cpu"))
    assert found == [
        "sha256:1",
        "sha256:1 (int8 weights)",
        "sha256:1 (int8)",
        "sha256:1 (int8, weights of 7 bits)",
    ]


def needle_options(**words: Any) -> NeedleOptions:
    told = {"methods": "none", "lengths": "256", "depths": "50%", "repeats": 1, **words}
    return settle_needle(from_words(NeedleOptions, told))


@needs_int8
def test_runs_of_two_forms_have_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, int8 = (needle_prepare.prepare(needle_options(quantize=how)) for how in ("none", "int8"))
    assert plain.output != int8.output
    assert int8.settings["model"] == f"{plain.settings['model']} ({form()})"


@needs_int8
@pytest.mark.slow
def test_a_run_does_not_go_on_in_another_form(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert needle.run(needle_options(output=folder, quantize="int8")) == 0
    run_json = json.loads((folder / "run.json").read_text())
    assert run_json["model"]["fingerprint"].endswith(f" ({form()})")
    assert run_json["sessions"][0]["quantize"] == "int8"
    with pytest.raises(UserError, match="model"):
        needle.run(needle_options(output=folder))


@needs_int8
def test_perplexity_has_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = {"methods": "none", "lengths": "256", "documents": 1}
    found = [
        perplexity_prepare.prepare(
            settle_perplexity(from_words(PerplexityOptions, {**said, "quantize": how}))
        )
        for how in ("none", "int8")
    ]
    assert found[0].output != found[1].output
    assert found[1].settings["model"] == f"{found[0].settings['model']} ({form()})"


@needs_int8
def test_a_server_says_what_it_computes_in_and_keeps_documents_apart() -> None:
    prepared = loading.prepare(ServeSettings(quantize="int8", context=512, kv_budget=1 << 22))
    assert prepared.about()["quantize"] == "int8"
    loaded = prepared.load()
    try:
        banner = "\n".join(loading.banner(prepared, loaded, "http://x"))
        assert f"29 linear layers in {form()}, their activations in 16 bits, row by row" in banner
        facts = loaded.facts
        assert facts is not None and facts.numbers == form()
    finally:
        loaded.engine.close()


# -- what is refused and offered -------------------------------------------------------------------


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="--quantize int4: use none or int8"):
        ServeSettings(quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--quantize int4: use none or int8"):
        needle_options(quantize="int4")
    with pytest.raises(UserError, match="--quantize int8: vLLM loads the weights itself"):
        ServeSettings(quantize="int8", engine="vllm")
    with pytest.raises(UserError, match=r"--quantize int8: .* simulated .*: leave --quantize out"):
        needle_prepare.prepare(needle_options(model="sim:perfect", methods=None, quantize="int8"))


def test_machines_and_checkpoints_without_it_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    source = locate(tiny.EMBEDDED)
    config = load_config(source)
    monkeypatch.setattr(cpu, "multiplies_int8", lambda: cpu.Ability(False, "not tried on arm64"))
    with pytest.raises(UserError, match="--quantize int8: not tried on arm64: leave it out"):
        quantize.check("int8", source, config, "cpu")
    quantize.check("none", source, config, "cpu")
    config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(UserError, match=r"are packed already \(gptq\): leave it out"):
        quantize.check("int8", source, config, "cpu")


def test_it_is_offered_where_it_would_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "multiplies_int8", lambda: cpu.Ability(True, "oneDNN"))
    monkeypatch.setattr(quantize, "_PAYS_FROM", 1000)
    model = embedded("none")
    (told,) = quantize.notes(model, "none", torch.float32, "cpu")
    assert told.startswith("--quantize int8 would take 2.0 MiB of weights instead of 4.0 MiB")
    assert quantize.notes(model, "none", torch.bfloat16, "cpu") == []
    assert quantize.notes(model, "none", torch.float32, "cuda") == []
    monkeypatch.setattr(quantize, "_PAYS_FROM", 1 << 40)
    assert quantize.notes(model, "none", torch.float32, "cpu") == []


# -- on a GPU --------------------------------------------------------------------------------------


def test_on_a_gpu_torchao_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = locate(tiny.EMBEDDED)
    config = load_config(source)
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(
        UserError, match=r"--quantize int8: on a GPU torchao .* pip install torchao"
    ):
        quantize.check("int8", source, config, "cuda")
    gguf = Source("x.gguf", "gguf", tiny.WEIGHTS, "x.gguf")
    with pytest.raises(UserError, match="on a GPU not for a GGUF file: make a directory of it"):
        quantize.check("int8", gguf, config, "cuda")


def test_on_a_gpu_transformers_is_given_torchaos_weight_only_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a stand-in: what is called, and with what, by torchao 0.15 and transformers 5."""
    import transformers

    quantization = types.ModuleType("torchao.quantization")
    quantization.Int8WeightOnlyConfig = type("Int8WeightOnlyConfig", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", quantization)
    monkeypatch.setattr(transformers, "TorchAoConfig", lambda form: ("by torchao", type(form)))
    calls: list[Any] = []

    def loads(source: Any, config: Any, dtype: Any, device_map: str, **more: Any) -> Any:
        calls.append((dtype, device_map, more))
        return nn.Linear(2, 2)

    monkeypatch.setattr(quantize, "load_model", loads)
    source = locate(tiny.EMBEDDED)
    quantize.check("int8", source, load_config(source), "cuda")
    made = quantize.load(source, load_config(source), torch.bfloat16, "auto", "int8", "cuda")
    form = ("by torchao", quantization.Int8WeightOnlyConfig)
    assert calls == [(torch.bfloat16, "auto", {"quantization_config": form})]
    (told,) = quantize.notes(made, "int8", torch.bfloat16, "cuda")
    assert told == "weights of linear layers in int8, by torchao"


def test_load_model_hands_on_what_is_to_quantize(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    seen: dict[str, Any] = {}

    def stops(*_: Any, **told: Any) -> Any:
        seen.update(told)
        raise RuntimeError("seen")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", stops)
    directory = Path(shutil.copytree(tiny.WEIGHTS, tmp_path / "model"))
    source = locate(str(directory))
    with pytest.raises(UserError, match="seen"):
        load_model(source, load_config(source), torch.float32, "cpu", quantization_config="form")
    assert seen["quantization_config"] == "form"
