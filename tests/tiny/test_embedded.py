"""The embedded model as the sharpest test of the attention: a broken backend loses needles.

Prompts of 2K tokens, four times its window, with needles in the question's own chunk, in the chunk
before it and in earlier ones. Each planted bug computes plausible attention, quickly and without
complaint; only the answers tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from longctx import tiny
from longctx.attention import hf, step, tokens
from longctx.attention.chunks import ChunkQueries, KeyPart
from longctx.attention.kernels.base import Partial
from longctx.attention.positions import ChunkMap
from longctx.cli import app
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.needle import TASK
from longctx.eval.protocol import Session
from longctx.models.local import LocalModel
from longctx.models.plain import PlainSession
from longctx.models.served import Asking, ServedSession
from longctx.models.source import load_config, load_model, locate
from longctx.options.needle import NeedleOptions
from longctx.runs.needle_prepare import prepare

DEPTHS = (0.0, 30.0, 60.0, 85.0, 100.0)


@pytest.fixture(scope="module")
def model() -> Any:
    source = locate(tiny.EMBEDDED)
    return load_model(source, load_config(source), torch.float32, "cpu")


def found(
    model: Any,
    method: str,
    length: int = 2048,
    depths: tuple[float, ...] = DEPTHS,
    *,
    plain: bool = False,
    kernel: str = "auto",
) -> float:
    """Share of the needles found, three documents a depth; `plain`: by the drop-in's loop."""
    config = NeedleConfig(lengths=(length,), depths=depths, repeats=3, answer_tokens=12)
    options = {"methods": (method,), "tasks": (TASK,), "device_map": "cpu"}
    prepared = prepare(NeedleOptions(tiny.EMBEDDED, config=config, **options))
    local = prepared.model
    assert isinstance(local, LocalModel)
    scheme, sweep = local.local_schemes[method], prepared.sweep
    if plain:
        session: Session = PlainSession(model, local.tokenizer, scheme, kernel=kernel)
    else:
        session = ServedSession(model, local.tokenizer, scheme, Asking(kernel, length))
    with session:
        records = [sweep.run_cell(cell, session) for cell in sweep.all_cells()]
    assert not [record["error"] for record in records if record["error"]]
    return sum(record["score"] for record in records) / len(records)


# -- what it is ---------------------------------------------------------------------------------


def test_the_weights_are_small_and_come_with_a_card() -> None:
    weights = tiny.WEIGHTS / "model.safetensors"
    assert weights.stat().st_size < 6 << 20
    config = load_config(locate(tiny.EMBEDDED))
    assert config.model_type == "qwen2"
    assert config.max_position_embeddings == 512
    card = tiny.CARD.read_text(encoding="utf-8")
    recipe = json.loads((tiny.WEIGHTS / "recipe.json").read_text())
    assert f"`--seed {recipe['seed']}`" in card
    assert f"{recipe['tokens']:,} tokens" in card


def test_a_needle_run_without_a_model_takes_it_and_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["needle", "--dry-run", "--json"])
    assert result.exit_code == 0, result.stderr
    assert "the embedded model, trained for this very task" in result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert list(told["schemes"]) == ["none", "yarn", "dca", "yarn+dca"]
    assert told["plan"]["cells"] == 4 * 6 * 11 * 2
    args = ["needle", "--methods", "dca", "--lengths", "256", "--depths", "50%", "--repeats", "3"]
    result = CliRunner().invoke(app, [*args, "--output", "run", "--json"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["states"]["ok"] == 3
    assert all(count == 0 for state, count in told["states"].items() if state != "ok")
    assert (tmp_path / "run/heatmap.png").is_file()


# -- what it finds ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "dca", "yarn+dca"])
def test_within_its_window_it_finds_every_needle(model, method) -> None:
    assert found(model, method, length=512) == 1.0


def test_beyond_its_window_plain_rotary_loses_and_dca_finds(model) -> None:
    assert found(model, "none", depths=(0.0, 30.0, 60.0)) <= 1 / 9
    assert found(model, "none", depths=(100.0,)) == 1.0  # beside the question
    assert found(model, "dca") >= 14 / 15
    assert found(model, "yarn+dca") >= 14 / 15


# -- planted bugs -------------------------------------------------------------------------------


def _each_part(change: Callable[[ChunkMap, KeyPart], KeyPart | None]) -> Any:
    """split_block whose parts are changed, or dropped where `change` gives None."""
    split_block = step.split_block

    def planted(chunk_map: ChunkMap | None, start: int, length: int) -> tuple[ChunkQueries, ...]:
        found = split_block(chunk_map, start, length)
        if chunk_map is None:
            return found
        steps = []
        for each in found:
            bands = []
            for band in each.bands:
                parts = [change(chunk_map, part) for part in band.parts]
                bands.append(replace(band, parts=tuple(p for p in parts if p is not None)))
            steps.append(replace(each, bands=tuple(bands)))
        return tuple(steps)

    return planted


def _inter_off_by_one_chunk(chunk_map: ChunkMap, part: KeyPart) -> KeyPart:
    return part if part.cap is None else replace(part, cap=part.cap - chunk_map.chunk_len)


def _without_succ(chunk_map: ChunkMap, part: KeyPart) -> KeyPart | None:
    if part.name == "succ":
        return None
    if part.name == "inter":
        return part
    origin = part.keys.stop - chunk_map.chunk_len
    return replace(part, keys=slice(0, origin)) if origin > 0 else None


def _mean(partials: list[Partial]) -> Partial:
    out = torch.stack([part.out_BHLD for part in partials]).mean(0)
    return Partial(out, partials[0].lse_BHL)


def _even(lse: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.full_like(lse, 1 / lse.shape[dim])


BUGS = {
    "q_inter off by S": (step, "split_block", _each_part(_inter_off_by_one_chunk), True),
    "succ dropped": (step, "split_block", _each_part(_without_succ), True),
    "succ dropped in the engine": (step, "split_block", _each_part(_without_succ), False),
    "merge without weights": (step, "merge", _mean, True),
    "keys at p": (
        hf.Handle,
        "_fold_positions",
        lambda self, module, args, kwargs: (args, kwargs),
        True,
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_loses_needles(model, monkeypatch, bug) -> None:
    owner, name, wrong, plain = BUGS[bug]
    # Parts are merged by this kernel alone; the others read what the same chunks say.
    kernel = "torch_cpu" if name == "merge" else "auto"
    planted = found(model, "dca", plain=plain, kernel=kernel)
    assert planted >= 14 / 15
    monkeypatch.setattr(owner, name, wrong)
    if name == "merge":  # a row of one token has its own
        monkeypatch.setattr(tokens, "_weights", _even)
        monkeypatch.setattr(tokens, "_second_weight", lambda a, b: torch.full_like(a, 0.5))
    assert found(model, "dca", plain=plain, kernel=kernel) <= 12 / 15
