"""`--dtype auto`: the checkpoint's where the processor has it, else float32 where it fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from longctx import tiny
from longctx.attention import cpu
from longctx.errors import UserError
from longctx.models import dtypes
from longctx.models import source as models
from longctx.models.schemes import settle_device_map
from longctx.options.declare import from_words
from longctx.options.needle import NeedleOptions
from longctx.runs.needle import run
from longctx.runs.needle_prepare import prepare
from longctx.runs.settle import settle_needle
from longctx.serve import loading
from longctx.serve.settings import ServeSettings


@pytest.fixture
def bf16_model(tmp_path: Path) -> Path:
    """The embedded model, its config saying that it was saved in bfloat16."""
    directory = Path(shutil.copytree(tiny.WEIGHTS, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    config.pop("torch_dtype", None)
    (directory / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return directory


def processor(monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> None:
    def native(dtype: torch.dtype) -> cpu.Ability:
        there = dtype is torch.float32 or (bf16 and dtype is torch.bfloat16)
        return cpu.Ability(there, "for this test" if there else "the processor has none")

    monkeypatch.setattr(cpu, "native", native)


def choose(directory: Path, name: str = "auto", **more: Any) -> dtypes.DtypeChoice:
    source = models.locate(str(directory))
    return dtypes.choose(
        name, source, models.load_config(source), more.pop("device", "cpu"), **more
    )


def test_bf16_is_taken_where_it_is_native(
    bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, bf16=True)
    chosen = choose(bf16_model)
    assert (chosen.dtype, chosen.note, chosen.widened) == (torch.bfloat16, None, False)


def test_float32_stands_in_where_it_is_not(
    bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, bf16=False)
    chosen = choose(bf16_model)
    assert (chosen.name, chosen.widened) == ("float32", True)
    assert chosen.note is not None
    assert "because the processor has none: weights take 0.0 GiB" in chosen.note
    assert choose(bf16_model, device="cuda").dtype is torch.bfloat16


def test_float32_that_does_not_fit_leaves_bf16_and_says_so(
    bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, bf16=False)
    source = models.locate(str(bf16_model))
    weights = dtypes.planned_bytes("model", models.load_config(source), 4, "none")
    stored = (bf16_model / "model.safetensors").stat().st_size  # float16
    assert stored * 2 * 0.97 < weights < stored * 2
    fits = int(weights / dtypes.WEIGHTS_SHARE)
    monkeypatch.setattr(dtypes, "free_host_bytes", lambda: fits - 8)
    chosen = choose(bf16_model)
    assert (chosen.name, chosen.widened) == ("bfloat16", False)
    assert chosen.note is not None and "float32 does not fit" in chosen.note
    monkeypatch.setattr(dtypes, "free_host_bytes", lambda: fits + 8)
    assert choose(bf16_model).name == "float32"


def test_what_is_asked_for_is_taken_and_its_price_told(
    bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, bf16=False)
    chosen = choose(bf16_model, "bfloat16")
    assert chosen.dtype is torch.bfloat16
    assert chosen.note is not None and "bfloat16 is emulated here and slow" in chosen.note
    assert choose(bf16_model, "float32").note is None
    assert choose(bf16_model, "bfloat16", device="cuda").note is None
    with pytest.raises(UserError, match="--dtype int4: not known: use one of auto, float32"):
        choose(bf16_model, "int4")
    with pytest.raises(UserError, match="--kv-dtype int4"):
        dtypes.kept("int4", "cpu", torch.float32)


def test_float16_becomes_float32_on_every_cpu_and_gguf_counts_as_bf16(
    bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, bf16=True)
    source = models.locate(str(bf16_model))
    config = models.load_config(source)
    config.dtype = torch.float16
    chosen = dtypes.choose("auto", source, config, "cpu")
    assert chosen.name == "float32" and not chosen.widened
    assert dtypes.choose("auto", source, config, "cuda").name == "float16"
    gguf = models.Source("x.gguf", "gguf", bf16_model, "x.gguf")
    assert dtypes.choose("auto", gguf, config, "cpu").name == "bfloat16"
    config.dtype = None
    assert dtypes.choose("auto", source, config, "cpu").name == "float32"


def needle(model: Path, **more: Any) -> Any:
    grid = {"lengths": "256", "depths": "50,", "repeats": 1, "methods": "none"}
    said = {"model": str(model), **grid, **more}
    return settle_needle(from_words(NeedleOptions, said))


def test_a_run_folder_keeps_its_dtype_on_another_machine(
    bf16_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    processor(monkeypatch, bf16=True)
    assert run(needle(bf16_model, output=folder)) == 0
    before = json.loads((folder / "run.json").read_text())
    assert before["settings"]["dtype"] == "bfloat16"
    processor(monkeypatch, bf16=False)
    again = prepare(needle(bf16_model, output=folder, repeats=2))
    assert again.model.dtype == "bfloat16"
    assert any(
        "bfloat16, as in the run folder; alone this machine would take float32" in line
        for line in again.model.banner()
    )
    assert run(needle(bf16_model, output=folder, repeats=2)) == 0
    after = json.loads((folder / "run.json").read_text())
    assert len((folder / "results.jsonl").read_text().splitlines()) == 2
    assert "as in the run folder" in after["sessions"][1]["dtype_note"]
    with pytest.raises(UserError, match="has dtype 'bfloat16', this one 'float32'"):
        run(needle(bf16_model, output=folder, dtype="float32"))


def test_the_same_command_finds_its_folder_on_another_machine(
    bf16_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    processor(monkeypatch, bf16=False)
    own = prepare(needle(bf16_model)).output
    processor(monkeypatch, bf16=True)
    theirs = prepare(needle(bf16_model)).output
    assert own != theirs
    theirs.mkdir(parents=True)
    assert prepare(needle(bf16_model)).output == theirs
    processor(monkeypatch, bf16=False)
    assert prepare(needle(bf16_model)).output == theirs
    own.mkdir(parents=True)
    assert prepare(needle(bf16_model)).output == own


def test_the_server_keeps_bf16_keys_where_only_they_fit(
    bf16_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, bf16=False)
    settings = {"method": "dca", "context": 4096, "max_running": 2, "chunk_budget": 64}
    prepared = loading.prepare(ServeSettings(str(bf16_model), **settings, kv_budget=1 << 30))
    loaded = prepared.load()
    with loaded.engine:
        assert (loaded.engine.kv_dtype, loaded.notes) == (torch.float32, ())
        needed = 4096 * loaded.engine._runner.kv_bytes_per_token
        told = "\n".join(loading.banner(prepared, loaded, "http://x"))
        assert "dtype    float32 for the checkpoint's bfloat16" in told
        assert "keys and values in float32" in told
    small = ServeSettings(str(bf16_model), **settings, kv_budget=needed // 2)
    loaded = loading.prepare(small).load()
    with loaded.engine:
        assert loaded.engine.kv_dtype is torch.bfloat16
        assert loaded.engine.max_context == 4096
        assert "keys and values are kept in bfloat16: in float32 2,048" in loaded.notes[0]
    # Asked for, it is what was asked for.
    asked = ServeSettings(str(bf16_model), **settings, kv_budget=needed // 2, kv_dtype="float32")
    with pytest.raises(UserError, match="--context 4096: this machine has memory for 2048"):
        loading.prepare(asked).load()


def test_apples_gpu_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--device-map mps: no attention kernel .* use cpu"):
        settle_device_map("mps")
    assert settle_device_map("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert settle_device_map("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert settle_device_map("auto") == "auto"


@pytest.mark.parametrize(
    ("available", "told"),
    [(True, "linear layers packed by oneDNN"), (False, "linear layers plain: oneDNN refuses")],
)
def test_how_linear_layers_are_computed_is_told(
    bf16_model: Path, available: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "oneDNN" if available else "oneDNN refuses"
    monkeypatch.setattr(cpu, "packs_linear", lambda dtype: cpu.Ability(available, reason))
    prepared = loading.prepare(ServeSettings(str(bf16_model), context=512, kv_budget=1 << 24))
    loaded = prepared.load()
    with loaded.engine:
        banner = "\n".join(loading.banner(prepared, loaded, "http://x"))
    (line,) = [line for line in banner.splitlines() if line.startswith("  kernel ")]
    kernel = loaded.engine.kernel_name
    words = dtypes.kernel_words(kernel, torch.bfloat16, "cpu")
    assert line == f"  kernel   {kernel} on cpu, {words}, {told}"
    notes = prepare(needle(bf16_model)).model.notes()
    assert (told in notes) is not available  # of a run, only what slows it down
    assert dtypes.linear_words(torch.bfloat16, "cuda") is None
