"""What RULER's thirteen tasks at 128K would take a 7B model on a GPU, beside its data sheet.

Qwen2-7B by its config.json alone, with another tokenizer: no weights are there, and none are asked
for. Expected seconds are put together here, from parameters, operations and bytes.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longctx import cli
from longctx.eval import tasks
from longctx.eval.gpus import GpuEstimate, estimate_on, gpu_of
from longctx.eval.needle.grid import Cell
from longctx.eval.needle.presets import PRESETS
from longctx.options.needle import NeedleOptions
from longctx.runs.needle_prepare import PreparedNeedle, prepare
from longctx.runs.settle import settle_needle
from longctx.tiny import WEIGHTS

# As published with Qwen/Qwen2-7B-Instruct.
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
LENGTH, SAMPLES = 131072, 25
# Answer tokens of RULER's thirteen: eight of niah, vt, cwe, fwe, two of qa.
ANSWERS = 8 * 128 + 30 + 120 + 50 + 2 * 32
# Dense bf16 operations and bytes a second of the data sheets.
SHEETS = {"H100": (989e12, 3.35e12), "H200": (989e12, 4.8e12), "A100-80GB": (312e12, 2.039e12)}
HOURS = {"H100": (1.2, 1.4), "H200": (1.2, 1.3), "A100-80GB": (3.6, 4.2)}


@pytest.fixture(scope="module")
def seven_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "Qwen2-7B-Instruct"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(WEIGHTS / name, directory)
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def prepared(seven_b: Path) -> PreparedNeedle:
    said = NeedleOptions(str(seven_b), methods=("yarn+dca",), lengths=(1024,), dry_run=True)
    return prepare(settle_needle(said))


def expected(name: str) -> tuple[float, float]:
    """Seconds for prompts and for answers, of all thirteen tasks."""
    operations, bandwidth = SHEETS[name]
    head, hidden = 128, 3584
    layer = hidden * head * (28 + 4 + 4) + 28 * head * hidden + 3 * hidden * 18944
    assert 28 * layer + 2 * hidden * 152064 == pytest.approx(7.6e9, rel=0.01)
    # 2 operations a parameter and token; scores and values of half the square, 4 a number.
    prompt = 2 * 28 * layer * LENGTH + 4 * 28 * 28 * head * LENGTH**2 / 2
    held = 2 * (28 * layer + 2 * hidden * 152064) + 2 * 2 * 28 * 4 * head * LENGTH
    prompts = 13 * SAMPLES * prompt / (0.4 * operations)
    return prompts, SAMPLES * ANSWERS * held / (0.6 * bandwidth)


@pytest.mark.parametrize("name", SHEETS)
def test_ruler_at_128k_takes_hours_that_follow_from_the_data_sheet(
    name: str, prepared: PreparedNeedle
) -> None:
    preset = PRESETS["ruler-13"]
    assert (len(preset.tasks), preset.samples, preset.lengths[-1]) == (13, SAMPLES, LENGTH)
    found: list[GpuEstimate] = []
    for task in preset.tasks:
        cells = [Cell("yarn+dca", LENGTH, None, repeat) for repeat in range(SAMPLES)]
        shape: Any = prepared.model.shape
        answer = tasks.get(task).about.answer_tokens
        found.append(estimate_on(gpu_of(name), cells, shape, answer, False))
    prompts, answers = expected(name)
    assert sum(one.prefill_s for one in found) == pytest.approx(prompts, rel=1e-6)
    assert sum(one.decode_s for one in found) == pytest.approx(answers, rel=1e-6)
    low, high = HOURS[name]
    assert low <= sum(one.seconds for one in found) / 3600 <= high
    assert all(one.fits for one in found)


def test_cells_with_texts_of_their_own_share_no_prefill(seven_b: Path, tmp_path: Path) -> None:
    words = ["needle", str(seven_b), "--methods", "dca", "--lengths", "1K", "--dry-run", "--json"]
    words += ["--gpu", "H100", "--output", str(tmp_path / "run")]

    def prompts(*more: str) -> float:
        done = CliRunner().invoke(cli.app, [*words, *more])
        assert done.exit_code == 0, done.output
        return float(json.loads(done.stdout.splitlines()[-1])["gpu"]["prefill_s"])

    own, one = prompts("--depths", "11", "--repeats", "1"), prompts("--depths", "50,")
    assert own == pytest.approx(11 / 2 * one)  # that has two repeats
    assert prompts("--depths", "11", "--repeats", "1", "--shared-texts") < 0.7 * own


@pytest.mark.slow
def test_the_command_says_so_of_all_thirteen(seven_b: Path, tmp_path: Path) -> None:
    squad = {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": f"Text {n}. " * 40,
                        "qas": [
                            {
                                "question": f"What is {n}?",
                                "answers": [{"text": str(n)}],
                                "is_impossible": False,
                            }
                        ],
                    }
                    for n in range(2000)
                ]
            }
        ]
    }
    (tmp_path / "squad.json").write_text(json.dumps(squad), encoding="utf-8")
    words = ["needle", str(seven_b), "--preset", "ruler-13", "--qa", str(tmp_path / "squad.json")]
    words += ["--lengths", "128K", "--methods", "yarn+dca", "--dry-run", "--gpu", "A100-80GB"]
    done = CliRunner().invoke(cli.app, [*words, "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    told = re.search(r"all 13 tasks on one A100-80GB: about (\d+) h (\d+) min, not", done.stderr)
    assert told is not None, done.stderr
    assert int(told[1]) + int(told[2]) / 60 == pytest.approx(
        sum(expected("A100-80GB")) / 3600, abs=0.02
    )
