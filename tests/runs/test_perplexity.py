"""The figures of `longctx perplexity` against hand-computed losses and transformers' own loss."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import needle_fakes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from perplexity_fakes import LENGTHS, METHODS, done
from transformers import GraniteConfig, GraniteForCausalLM
from typer.testing import CliRunner

from longctx import cli
from longctx.attention.hf import extend
from longctx.errors import UserError
from longctx.eval.perplexity.passes import rolling_windows, windows
from longctx.eval.runfolder import records
from longctx.models import logprobs
from longctx.models.source import load_config, load_model, locate


@pytest.fixture
def command(perplexity_command: list[str]) -> list[str]:
    return perplexity_command


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    source = locate(str(tiny_model))
    return load_model(source, load_config(source), torch.float32, "cpu")


@pytest.fixture(scope="module")
def documents(texts: Path, chatml: Any) -> list[list[int]]:
    found = [chatml(file.read_text())["input_ids"] for file in sorted(texts.glob("*.txt"))]
    assert min(map(len, found)) > 640
    return [ids[:640] for ids in found]


# 448 tokens of chunk and original length: 448 * 2^(5/8) is the next edge.
EDGES = {640: 691}


def losses(model: Any, ids: list[int]) -> np.ndarray:
    """By the definition, from all logits at once."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    rows = torch.log_softmax(logits, -1)
    return -rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def direct(model: Any, method: str, ids: list[int]) -> np.ndarray:
    """One forward pass over exactly these tokens, its temperature at their bucket's edge."""
    with extend(model, method, request_length=EDGES.get(len(ids), len(ids))):
        return losses(model, ids)


def perplexity_of(rows: list[np.ndarray]) -> float:
    return math.exp(sum(float(row.sum()) for row in rows) / sum(len(row) for row in rows))


# -- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", LENGTHS)
def test_prefix_equals_a_direct_computation_at_every_length(
    command: list[str], model: Any, documents: list[list[int]], method: str, length: int
) -> None:
    """Also yarn+dca, whose temperature at L is that of a served request of L tokens."""
    rows = [direct(model, method, ids[:length]) for ids in documents]
    told = done(*command)["methods"][method]["lengths"][str(length)]
    assert told["perplexity"] == pytest.approx(perplexity_of(rows), rel=2e-6)
    assert told["nll"] == pytest.approx(math.log(told["perplexity"]), rel=1e-8)
    assert (told["documents"], told["tokens"]) == (3, 3 * (length - 1))
    macro = sum(math.exp(row.mean()) for row in rows) / 3
    assert told["perplexity_macro"] == pytest.approx(macro, rel=2e-6)
    half = perplexity_of([row[length // 2 - 1 :] for row in rows])
    assert told["second_half"] == pytest.approx(half, rel=2e-6)
    assert told["low"] < told["perplexity"] < told["high"]


def test_it_is_the_loss_of_transformers(
    command: list[str], model: Any, documents: list[list[int]]
) -> None:
    command[command.index("--documents") + 1] = "1"
    told = done(*command)["methods"]["none"]["lengths"]["640"]
    ids = torch.tensor([documents[0]])
    with torch.inference_mode():
        loss = float(model(ids, labels=ids).loss)
    assert told["nll"] == pytest.approx(loss, rel=1e-6)


def test_the_temperature_is_that_of_the_lengths_bucket(
    command: list[str], tmp_path: Path, documents: list[list[int]]
) -> None:
    done(*command)
    found = records.read(tmp_path / "run" / "perplexity.jsonl", records.PERPLEXITY)
    lengths = {(r["scheme"]["method"], r["tokens"], r["scheme"]["request_length"]) for r in found}
    assert lengths == {
        *(("none", 640, None), ("dca", 640, None)),
        *(("yarn+dca", 256, 256), ("yarn+dca", 640, EDGES[640])),
    }
    assert len(found) == 4 * 3
    own, longer = (
        np.array(r["nll"][:255])
        for tokens in LENGTHS
        for r in found
        if r["scheme"]["method"] == "yarn+dca" and r["tokens"] == tokens
        if r["document"]["id"] == "0.txt"
    )
    assert np.abs(own - longer).max() > 1e-3


def test_position_is_a_view_of_the_same_passes(
    command: list[str], tmp_path: Path, model: Any, documents: list[list[int]]
) -> None:
    done(*command)
    file = tmp_path / "run" / "perplexity.jsonl"
    before = file.read_bytes()
    told = done(*command, "--metric", "position", "--window", "64")
    assert file.read_bytes() == before
    rows = [losses(model, ids) for ids in documents]
    for length in LENGTHS:
        expected = perplexity_of([row[length - 1 - 64 : length - 1] for row in rows])
        figure = told["methods"]["none"]["lengths"][str(length)]
        assert figure["perplexity"] == pytest.approx(expected, rel=2e-6)
        assert figure["tokens"] == 3 * 64
    bins = told["methods"]["none"]["bins"]
    assert [(b["start"], b["end"]) for b in bins] == [(n, n + 64) for n in range(0, 640, 64)]
    first = perplexity_of([row[:63] for row in rows])  # the first token is not predicted
    assert bins[0]["perplexity"] == pytest.approx(first, rel=2e-6)
    last = told["methods"]["none"]["lengths"]["640"]["perplexity"]
    assert bins[-1]["perplexity"] == pytest.approx(last, rel=1e-6)


def sliding(model: Any, ids: list[int], length: int, stride: int) -> tuple[float, int]:
    """The loop of transformers' documentation, which masks what was counted before."""
    tokens, total, count, before = torch.tensor([ids]), 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        window = tokens[:, begin:end]
        targets = window.clone()
        targets[:, : -(end - before)] = -100
        with torch.inference_mode():
            loss = float(model(window, labels=targets).loss)
        valid = int((targets[:, 1:] != -100).sum())
        total, count, before = total + loss * valid, count + valid, end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize("stride", [100, 128])
def test_windows_are_those_of_transformers_documentation(
    command: list[str], model: Any, documents: list[list[int]], stride: int
) -> None:
    told = done(*command, "--metric", "window", "--stride", str(stride))
    for length in LENGTHS:
        found = [sliding(model, ids, length, stride) for ids in documents]
        total, count = (sum(part) for part in zip(*found, strict=True))
        figure = told["methods"]["none"]["lengths"][str(length)]
        assert count == figure["tokens"] == 3 * 639
        assert figure["nll"] == pytest.approx(total / count, rel=2e-6)
    rows = []
    with extend(model, "yarn+dca", request_length=256):
        for ids in documents:
            for window in windows(640, 256, stride, 1):
                found_here = losses(model, ids[window.start : window.stop])
                rows.append(found_here[len(found_here) - (window.stop - window.scored) :])
    figure = told["methods"]["yarn+dca"]["lengths"]["256"]
    assert figure["perplexity"] == pytest.approx(perplexity_of(rows), rel=2e-6)


@given(st.integers(2, 400), st.integers(3, 90), st.integers(1, 80), st.integers(0, 1))
def test_each_token_is_predicted_once(tokens: int, room: int, stride: int, first: int) -> None:
    stride = min(stride, room - 1)
    made = list(windows(tokens, room, stride, first))
    assert [t for w in made for t in range(w.scored, w.stop)] == list(range(first, tokens))
    for window in made:
        assert window.stop - window.start <= room
        assert window.start == 0 or window.scored - window.start >= room - stride


def side_by_side(model: Any, ids: list[int], begin: int, length: int) -> list[float]:
    """The rule of lm-evaluation-harness, in float64: `length` tokens are read, each but the first
    of a window predicts the next one, and a last window that is short is filled from before."""
    found, done = list[float](), 0
    while done < len(ids):
        end = min(done + length, len(ids))
        context = [begin] if done == 0 else ids[end - length - 1 : done]
        rows = losses(model.double(), [*context, *ids[done:end]])
        found += rows[len(context) - 1 :].tolist()
        done = end
    return found


@pytest.mark.parametrize("method", METHODS)
def test_rolling_is_lm_evals_rule(
    command: list[str], model: Any, documents: list[list[int]], chatml: Any, method: str
) -> None:
    """Lengths that do not divide the text, and one that is all of it."""
    command[command.index("--lengths") + 1] = "256,640"
    told = done(*command, "--metric", "rolling")
    begin = chatml.bos_token_id if chatml.bos_token_id is not None else chatml.eos_token_id
    exact = copy.deepcopy(model)
    for length in LENGTHS:
        with extend(exact, method, request_length=EDGES.get(length, length)):
            rows = [side_by_side(exact, ids[:639], begin, length) for ids in documents]
        figure = told["methods"][method]["lengths"][str(length)]
        assert figure["tokens"] == sum(map(len, rows)) == 3 * 639
        assert figure["nll"] == pytest.approx(sum(map(sum, rows)) / (3 * 639), rel=2e-6)
    assert told["meaning"].startswith("Perplexity of every token of each document once, in windows")
    assert f"Token {begin} before the first window" in told["meaning"]


@given(st.integers(1, 400), st.integers(2, 90))
def test_rolling_windows_predict_each_token_once(tokens: int, room: int) -> None:
    made = list(rolling_windows(tokens, room))
    assert [t for w in made for t in range(w.scored, w.stop)] == list(range(tokens))
    assert made[0] == (0, min(room, tokens), 0)
    for window in made[1:]:
        assert window.stop - window.start == room + 1  # read but for the last, which is predicted
        assert window.scored > window.start


def test_rolling_has_a_rule_of_its_own_for_the_beginning(command: list[str]) -> None:
    with pytest.raises(UserError, match="--bos never: --metric rolling has a rule of its own"):
        CliRunner().invoke(
            cli.app, [*command, "--metric", "rolling", "--bos", "never"], catch_exceptions=False
        )


def test_bits_per_byte(command: list[str], chatml: Any, documents: list[list[int]]) -> None:
    told = done(*command)["methods"]["none"]["lengths"]["640"]
    size = sum(
        len(chatml.decode(ids).encode()) - len(chatml.decode(ids[:1]).encode()) for ids in documents
    )
    assert told["bits_per_byte"] == pytest.approx(
        told["nll"] * told["tokens"] / math.log(2) / size, rel=1e-6
    )


def test_arms_are_compared_on_the_same_tokens(
    command: list[str], model: Any, documents: list[list[int]]
) -> None:
    told = done(*command)["methods"]
    assert "difference" not in told["none"]["lengths"]["640"]
    pairs = [direct(model, "dca", ids) - losses(model, ids) for ids in documents]
    found = told["dca"]["lengths"]["640"]["difference"]
    assert found["mean"] == pytest.approx(float(np.concatenate(pairs).mean()), abs=2e-6)
    assert (found["against"], found["tokens"]) == ("none", 3 * 639)
    assert found["interval_by"] == "blocks"  # three documents are too few to draw
    assert found["low"] < found["mean"] < found["high"]
    # Within a chunk DCA is the model itself: no difference, and no doubt about it.
    same = told["dca"]["lengths"]["256"]["difference"]
    assert max(abs(same[name]) for name in ("mean", "low", "high")) < 1e-5


def test_a_beginning_of_sequence_token_is_counted_and_never_predicted(
    tmp_path: Path, texts: Path, metaspace: Any
) -> None:
    needle_fakes.save_tiny_model(tmp_path / "model", metaspace)
    command = [
        *("perplexity", str(tmp_path / "model"), "--text", str(texts / "0.txt"), "--bos", "always"),
        *("--methods", "none", "--lengths", "32,64", "--documents", "1"),
        *("--output", str(tmp_path / "run")),
    ]
    source = locate(str(tmp_path / "model"))
    model = load_model(source, load_config(source), torch.float32, "cpu")
    begin = metaspace.bos_token_id
    ids = metaspace((texts / "0.txt").read_text(), add_special_tokens=False)["input_ids"][:63]
    told = done(*command)
    figure = told["methods"]["none"]["lengths"]["64"]
    assert figure["nll"] == pytest.approx(losses(model, [begin, *ids]).mean(), rel=2e-6)
    assert figure["tokens"] == 63
    assert told["bos"].startswith(f"beginning-of-sequence token {begin} before every window")
    # It stands before every window, in one of its places.
    told = done(*command, "--metric", "window", "--stride", "16")
    rows = [
        losses(model, [begin, *ids[start : start + 31]])[-count:]
        for start, count in ((0, 31), (16, 16), (32, 16))
    ]
    figure = told["methods"]["none"]["lengths"]["32"]
    assert figure["nll"] == pytest.approx(np.concatenate(rows).mean(), rel=2e-6)
    assert figure["tokens"] == 63


def test_a_rope_that_follows_the_length_gets_a_pass_for_each(
    command: list[str], tmp_path: Path, tiny_model: Path, documents: list[list[int]]
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    (copy / "config.json").write_text(json.dumps(config))
    command[1], command[command.index(",".join(METHODS))] = str(copy), "none"
    command[command.index("256,640")] = "256,600,640"
    told = done(*command)["methods"]["none"]
    assert told["one_pass"] is False
    source = locate(str(copy))
    for length in (256, 600, 640):
        rows = []
        for ids in documents:  # each on a fresh model: the rotary remembers its longest text
            fresh = load_model(source, load_config(source), torch.float32, "cpu")
            rows.append(losses(fresh, ids[:length]))
        figure = told["lengths"][str(length)]
        assert figure["perplexity"] == pytest.approx(perplexity_of(rows), rel=2e-6)


def test_logits_that_are_more_than_an_output_layer_are_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = GraniteConfig(
        **sizes, **heads, vocab_size=50, logits_scaling=8.0, rope_parameters=rope
    )
    with pytest.raises(UserError, match=r"'dynamic'.*GraniteForCausalLM lacks: name another"):
        logprobs.token_logprobs(GraniteForCausalLM(config).eval(), torch.arange(20))


# -- memory -------------------------------------------------------------------------------------


def test_logits_of_one_block_at_most_are_materialised(model: Any, tiny_model: Path) -> None:
    vocabulary = model.config.vocab_size
    seen: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda *made: seen.append(made[2].numel()))
    ids = torch.randint(3, vocabulary, (1000,))
    with torch.inference_mode():
        for block in (64, 300):
            seen.clear()
            assert len(logprobs.token_logprobs(model, ids, block)) == 999
            assert max(seen) == block * vocabulary
            assert sum(seen) == 999 * vocabulary
    hook.remove()


def test_memory_grows_by_keys_and_values_alone() -> None:
    def peak(tokens: int) -> int:
        return logprobs.peak_bytes(tokens, 512, 152_000, 56 << 10, 2)

    assert peak(1 << 17) - peak(1 << 16) == (1 << 16) * (56 << 10)
    assert peak(1 << 17) - (1 << 17) * (56 << 10) == 512 * 152_000 * 2 + 2 * 64 * 152_000 * 8
