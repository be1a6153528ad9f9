"""`longctx perplexity` against hand-computed losses, transformers' own loss, and itself resumed."""

from __future__ import annotations

import csv
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
from typer.testing import CliRunner

from longctx import cli, logprobs, models
from longctx.attention.hf import extend
from longctx.eval import perplexity_summary, prose, records
from longctx.eval.folder import LockedFolder
from longctx.eval.perplexity import windows
from longctx.local_target import LocalTarget
from longctx.plots import perplexity as picture

LENGTHS = (256, 640)
METHODS = ("none", "dca", "yarn+dca")
FILES = 3


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    for number in range(FILES):
        text = prose.haystack(64, seed=50 + number).text[:6000]
        (directory / f"{number}.txt").write_text(f"Città {number}: 山. {text}")
    (directory / "short.md").write_text("Too short to count.")
    return directory


@pytest.fixture
def command(tiny_model: Path, texts: Path, tmp_path: Path) -> list[str]:
    return [
        *("perplexity", str(tiny_model), "--methods", ",".join(METHODS), "--lengths", "256,640"),
        *("--text", str(texts), "--documents", "3", "--output", str(tmp_path / "run")),
    ]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, prog_name="longctx")


def done(*arguments: str) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    source = models.locate(str(tiny_model))
    return models.load_model(source, models.load_config(source), torch.float32, "cpu")


@pytest.fixture(scope="module")
def documents(texts: Path, chatml: Any) -> list[list[int]]:
    found = [chatml(file.read_text())["input_ids"] for file in sorted(texts.glob("*.txt"))]
    assert min(map(len, found)) > 640
    return [ids[:640] for ids in found]


def losses(model: Any, ids: list[int]) -> np.ndarray:
    """By the definition, from all logits at once."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    rows = torch.log_softmax(logits, -1)
    return -rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def direct(model: Any, method: str, ids: list[int]) -> np.ndarray:
    """One forward pass over exactly these tokens, their number being the request's length."""
    with extend(model, method, request_length=len(ids)):
        return losses(model, ids)


def perplexity_of(rows: list[np.ndarray]) -> float:
    return math.exp(sum(float(row.sum()) for row in rows) / sum(len(row) for row in rows))


# -- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", LENGTHS)
def test_prefix_equals_a_direct_computation_at_every_length(
    command: list[str], model: Any, documents: list[list[int]], method: str, length: int
) -> None:
    """Also yarn+dca, whose temperature at L is that of a request of L tokens."""
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


def test_the_temperature_is_that_of_the_length(
    command: list[str], tmp_path: Path, documents: list[list[int]]
) -> None:
    done(*command)
    found = records.read(tmp_path / "run" / "perplexity.jsonl", records.PERPLEXITY)
    lengths = {(r["scheme"]["method"], r["tokens"], r["scheme"]["request_length"]) for r in found}
    assert lengths == {
        *(("none", 640, None), ("dca", 640, None)),
        *(("yarn+dca", 256, 256), ("yarn+dca", 640, 640)),
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
    told = done(
        *("perplexity", str(tmp_path / "model"), "--text", str(texts / "0.txt"), "--bos", "always"),
        *("--methods", "none", "--lengths", "64", "--output", str(tmp_path / "run")),
        *("--documents", "1"),
    )
    source = models.locate(str(tmp_path / "model"))
    model = models.load_model(source, models.load_config(source), torch.float32, "cpu")
    ids = metaspace((texts / "0.txt").read_text(), add_special_tokens=False)["input_ids"]
    figure = told["methods"]["none"]["lengths"]["64"]
    expected = losses(model, [metaspace.bos_token_id, *ids[:63]])
    assert figure["nll"] == pytest.approx(expected.mean(), rel=2e-6)
    assert figure["tokens"] == 63
    assert told["bos"].startswith(f"beginning-of-sequence token {metaspace.bos_token_id} before")


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
    source = models.locate(str(copy))
    for length in (256, 600, 640):
        rows = []
        for ids in documents:  # each on a fresh model: the rotary remembers its longest text
            fresh = models.load_model(source, models.load_config(source), torch.float32, "cpu")
            rows.append(losses(fresh, ids[:length]))
        figure = told["lengths"][str(length)]
        assert figure["perplexity"] == pytest.approx(perplexity_of(rows), rel=2e-6)


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


# -- folder -------------------------------------------------------------------------------------


def test_a_run_leaves_everything_it_promises(command: list[str], tmp_path: Path) -> None:
    result = invoke(*command)
    assert result.exit_code == 0
    run = tmp_path / "run"
    assert {file.name for file in run.iterdir()} == {
        *("run.json", "perplexity.jsonl", "lock", "perplexity.json", "perplexity.csv"),
        *("perplexity.md", "perplexity.png", "perplexity.svg"),
    }
    summary = json.loads((run / "perplexity.json").read_text())
    with (run / "perplexity.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["method"], row["length"]) for row in rows] == [
        (method, str(length)) for method in METHODS for length in LENGTHS
    ]
    for row in rows:
        figure = summary["methods"][row["method"]]["lengths"][row["length"]]
        assert float(row["perplexity"]) == figure["perplexity"]
    page = (run / "perplexity.md").read_text()
    for text in (page, result.stdout):
        assert "tokens 2 to L of each document. 3 document(s) of 640 tokens" in text
        assert "1 shorter texts left out" in text
        assert "No beginning-of-sequence token" in text
    about = json.loads((run / "run.json").read_text())
    assert about["sessions"][0]["arms"]["dca"]["proof"]["verified"] is True
    assert about["by_length"] == ["yarn+dca"]
    assert [d["id"] for d in about["text"]["documents"]] == ["0.txt", "1.txt", "2.txt"]
    assert "a pass for every length" in result.stderr


def test_interrupted_and_resumed_is_the_same(command: list[str], tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert done(*command, "--limit", "5")["states"] == {"ok": 5, "not_run": 7}
    file = run / "perplexity.jsonl"
    kept = file.read_bytes()
    assert kept.count(b"\n") == 5
    file.write_bytes(kept + b'{"schema": 1, "key": "torn')
    first = done(*command)
    assert file.read_bytes().startswith(kept)
    assert file.read_bytes().count(b"\n") == 12
    command[command.index(str(run))] = str(whole)
    second = done(*command)
    assert first | {"output": ""} == second | {"output": ""}
    losses = [
        {r["key"]: r["nll"] for r in records.read(folder / file.name, records.PERPLEXITY)}
        for folder in (run, whole)
    ]
    assert losses[0] == losses[1]


def test_control_c_is_code_130_and_resumable(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def interrupted(self: Any, ids: Any, *, request_length: int) -> Any:
        calls.append(len(ids))
        if len(calls) == 7:  # in the second document
            raise KeyboardInterrupt
        return own(self, ids, request_length=request_length)

    own = LocalTarget.logprobs
    monkeypatch.setattr(LocalTarget, "logprobs", interrupted)
    result = invoke(*command)
    assert result.exit_code == 130
    assert "interrupted, 6 passes left: the same command goes on from here" in result.stderr
    page = (tmp_path / "run/perplexity.md").read_text()
    assert "2 of 3 documents" in page and "1 of 3 documents" in page
    assert "Not counted: 6 pass(es) not run." in page
    monkeypatch.undo()
    assert done(*command)["states"] == {"ok": 12}


def test_a_second_writer_is_refused(command: list[str], tmp_path: Path) -> None:
    with LockedFolder(tmp_path / "run"), pytest.raises(cli.UserError, match=r"pid \d+ on"):
        CliRunner().invoke(cli.app, command, catch_exceptions=False)


def test_a_finished_run_loads_no_weights(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(*command)

    def no_weights(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(models, "load_model", no_weights)
    assert done(*command) == first


def test_failed_passes_are_code_3_and_no_figure(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, ids: Any, *, request_length: int) -> Any:
        if self._handle.scheme.method == "dca":
            raise MemoryError("no room")
        return own(self, ids, request_length=request_length)

    own = LocalTarget.logprobs
    monkeypatch.setattr(LocalTarget, "logprobs", fail)
    result = invoke(*command, "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["states"] == {"ok": 9, "error": 3}
    assert told["methods"]["dca"]["lengths"] == {"256": None, "640": None}
    assert told["failures"][0]["error"] == "MemoryError: no room"
    assert "Not counted: 3 pass(es) failed." in (tmp_path / "run/perplexity.md").read_text()
    monkeypatch.undo()
    assert done(*command)["states"] == {"ok": 12}


def test_what_failed_in_one_view_is_no_failure_of_another(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, ids: Any, *, request_length: int) -> Any:
        if len(ids) < 640:
            raise MemoryError("no room")
        return own(self, ids, request_length=request_length)

    own = LocalTarget.logprobs
    command[command.index(",".join(METHODS))] = "none,dca"
    monkeypatch.setattr(LocalTarget, "logprobs", fail)
    result = invoke(*command, "--metric", "window", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout.splitlines()[-1])["states"] == {"error": 6, "ok": 6}
    told = done(*command)
    assert (told["failures"], told["states"]) == ([], {"ok": 6})


def test_a_loss_that_is_no_number_is_a_failure(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, ids: Any, *, request_length: int) -> Any:
        return np.full(len(ids) - 1, np.nan)

    monkeypatch.setattr(LocalTarget, "logprobs", broken)
    result = invoke(*command, "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["failures"][0]["error"] == "ArithmeticError: a loss in tokens 1-640 is no number"


def test_a_dry_run_loads_no_weights_and_writes_nothing(
    command: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (copy / "model.safetensors").write_bytes(b"no weights")
    command[1] = str(copy)
    plan = done(*command, "--dry-run")["plan"]
    assert (plan["passes"], plan["to_do"], plan["done"]) == (12, 12, 0)
    assert plan["tokens"] == 3 * (640 + 640 + 256 + 640)
    assert plan["seconds"] > 0
    assert not (tmp_path / "run").exists()
    window = done(*command, "--dry-run", "--metric", "window", "--stride", "128")["plan"]
    assert window["tokens"] == 3 * 3 * (4 * 256 + 640)


def test_generated_prose_is_the_default(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["perplexity", str(tiny_model), "--lengths", "64", "--output", str(tmp_path)]
    told = [done(*arguments, "--dry-run", "--documents", "2", "--seed", seed) for seed in "01"]
    names = [[document["id"] for document in each["text"]["documents"]] for each in told]
    assert names[0] == [f"generated prose 1 (en), seed {n}" for n in (1, 2)]
    assert names[1] == [f"generated prose 1 (en), seed {n}" for n in (3, 4)]
    assert list(told[0]["schemes"]) == ["none", "dca"]


def test_one_book_gives_several_documents(command: list[str], texts: Path, tmp_path: Path) -> None:
    command[command.index(str(texts))] = str(texts / "0.txt")
    command[command.index("256,640")] = "64,128"
    text = done(*command, "--dry-run")["text"]
    assert [d["id"] for d in text["documents"]] == [
        *("0.txt", "0.txt from token 128", "0.txt from token 256")
    ]
    assert len({d["sha256"] for d in text["documents"]}) == 3


BAD = {
    "too short": (("--lengths", "64K"), r"--text texts\d*/ \(4 files\): its longest file has "
                  r"\d+ of 65536 tokens .*add text, or lower --lengths"),
    "tiny length": (("--lengths", "3"), "--lengths 3: too short"),
    "no text": (("--text", "nowhere*"), r"--text nowhere\*: no such file"),
    "metric": (("--metric", "x"), "--metric x: use one of prefix, window, position"),
    "unused stride": (("--stride", "64"), "--stride 64: --metric prefix does not read it"),
    "unused window": (("--window", "64"), "--window 64: --metric prefix does not read it"),
    "long stride": (("--metric", "window", "--stride", "255"), "--stride 255: must lie between"),
    "long window": (("--metric", "position", "--window", "1K"), "--window 1024: must lie between"),
    "bos": (("--bos", "x"), "--bos x: use one of auto, always, never"),
    "no bos": (("--bos", "always"), "--bos always: this tokenizer has no such token"),
    "documents": (("--documents", "0"), "--documents 0: must be at least 1"),
    "seed": (("--seed", "-1"), "--seed -1: must not be negative"),
    "limit": (("--limit", "0"), "--limit 0: must be at least 1"),
    "method": (("--methods", "rope"), "--methods rope: not known"),
    "kernel": (("--kernel", "magic"), "--kernel magic: "),
    "unused factor": (("--factor", "2"), r"--factor 2\.0: no method of this run"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, command: list[str], tmp_path: Path) -> None:
    arguments, message = BAD[case]
    with pytest.raises(cli.UserError, match=message) as caught:
        CliRunner().invoke(cli.app, [*command, *arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_experiment_in_the_same_folder(command: list[str], tmp_path: Path) -> None:
    done(*command, "--limit", "1")
    for arguments, message in (
        (("--lengths", "256,512"), "longest 640, this one 512"),
        (("--seed", "5"), "seed 0, this one 5"),
        (("--documents", "2"), "documents_sha256"),
    ):
        with pytest.raises(cli.UserError, match=message):
            CliRunner().invoke(cli.app, [*command, *arguments], catch_exceptions=False)
    needle = ["needle", *command[1:2], "--lengths", "256", "--output", str(tmp_path / "run")]
    with pytest.raises(cli.UserError, match="it holds a perplexity run, this is a needle run"):
        CliRunner().invoke(cli.app, needle, catch_exceptions=False)


# -- picture ------------------------------------------------------------------------------------


def test_the_picture_shows_the_figures(command: list[str], tmp_path: Path) -> None:
    done(*command)
    run = tmp_path / "run"
    results = perplexity_summary.load(run)
    (axes,) = picture.figure_of(results).axes
    lines = {line.get_label(): line for line in axes.lines}
    for method in METHODS:
        figures = [results.figure(method, length) for length in LENGTHS]
        assert list(lines[method].get_xdata()) == list(LENGTHS)
        assert list(lines[method].get_ydata()) == [f.perplexity for f in figures if f]
    assert len(axes.collections) == len(METHODS)  # bands
    words = " ".join(text.get_text() for text in axes.texts)
    assert "trained 512" in words and "yarn+dca" in words
    first = [(run / name).read_bytes() for name in ("perplexity.png", "perplexity.svg")]
    assert [file.read_bytes() for file in picture.draw(run)] == first
