"""Benchmarks run and report; their figures are measured by people, never asserted."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from longctx.attention import cpu, kernels

SCRIPTS = Path(__file__).resolve().parent.parent / "benchmarks"
Done = subprocess.CompletedProcess[str]
INT8 = bool(cpu.multiplies_int8())


def run(script: str, *words: str, cwd: Path | None = None, check: bool = False) -> Done:
    """A benchmark with these arguments, in a process of its own as people start it."""
    command = [sys.executable, str(SCRIPTS / script), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=check)


def native_report(script: str, *words: str, cwd: Path) -> Any:
    """What a benchmark of the C library reports; None where there is none, as it says itself."""
    reason = kernels.get("native").unavailable(torch.device("cpu"), torch.float32)
    done = run(script, *words, cwd=cwd)
    if reason is None:
        return json.loads(done.stdout)
    assert done.returncode == 1 and reason in done.stderr
    return None


def test_attention_benchmark_reports_both_arms(tmp_path: Path) -> None:
    arguments = ["--lengths", "1K,2K", "--shapes", "0.5B", "--only", "decode,prefill"]
    sizes = ["--chunk-size", "512", "--local-size", "64", "--pairs", "2", "--json"]
    done = run("attention.py", *arguments, *sizes, cwd=tmp_path, check=True)
    report = json.loads(done.stdout)
    assert report["about"]["chunk_size"] == 512
    seen = {(row["phase"], row["length"]) for row in report["results"]}
    assert seen == {(phase, n) for phase in ("decode", "prefill") for n in (1024, 2048)}
    for row in report["results"]:
        ratio = row["cpu_s"]["dca"] / row["cpu_s"]["plain"]
        assert row["pairs"] == 2 and abs(ratio - row["ratio_cpu"]) < 0.02


def test_unknown_shapes_are_refused() -> None:
    done = run("attention.py", "--shapes", "70B")
    assert done.returncode == 2 and "unknown: 70B" in done.stderr


def test_prefix_sharing_benchmark_reports_ratio_and_bound(tmp_path: Path) -> None:
    model = ["--layers", "1", "--hidden", "64", "--length", "512", "--prefill-chunk", "128"]
    arguments = ["--methods", "none,yarn+dca", "--pairs", "1", "--json"]
    done = run("prefix_sharing.py", *model, *arguments, cwd=tmp_path, check=True)
    report = json.loads(done.stdout)
    assert report["about"]["prefill_chunk"] == 128
    assert [row["method"] for row in report["results"]] == ["none", "yarn+dca"]
    for row in report["results"]:
        assert len(row["depths"]) == 11
        # The published ceilings, but for the needle and the question.
        assert 1.5 < row["bound_linear"] < 1.69
        assert 1.25 < row["bound_attention"] < row["bound"] < row["bound_linear"]
        ratio = row["cpu_s"]["without"] / row["cpu_s"]["with"]
        assert abs(ratio - row["ratio_cpu"]) < 0.05
        # What a text for every cell costs.
        own = row["cpu_s"]["own"] / row["cpu_s"]["with"]
        assert abs(own - row["own_texts_cost"]) < 0.05


def test_certainty_benchmark_prints_its_tables() -> None:
    done = run("certainty.py", "--runs", "8", check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    # Six figures, each a head, a line and eight designs at four correlations.
    assert len(rows) == 6 * 10
    assert all(row.count("|") == 6 for row in rows)


@pytest.mark.slow
def test_certainty_benchmark_runs_the_whole_harness() -> None:
    done = run("certainty.py", "--harness", "1", check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["0", "0.1", "0.3", "0.6"]


def test_unknown_methods_are_refused() -> None:
    done = run("prefix_sharing.py", "--methods", "none,rope")
    assert done.returncode == 2 and "unknown: rope" in done.stderr


def test_serving_benchmark_reports_every_arm(tmp_path: Path) -> None:
    arguments = ["--model", "random", "--lengths", "96", "--requests", "3", "--tokens", "5"]
    arguments += ["--methods", "none,dca", *(["--quantize", "int8"] if INT8 else [])]
    done = run("serving.py", *arguments, "--rounds", "1", "--json", cwd=tmp_path, check=True)
    report = json.loads(done.stdout)
    assert report["about"]["threads"] == 1
    arms = [(row["arm"], row["requests"]) for row in report["results"]]
    kinds = ["generate", "engine none", "engine dca"]
    kinds += ["engine none int8", "engine dca int8"] if INT8 else []
    assert all(report["about"]["ceilings"][name] > 0 for name in ("matmul", "attention", "memory"))
    assert arms[:-1] == [(arm, requests) for requests in (1, 3) for arm in kinds]
    assert arms[-1] == ("engine none, one document", 3)
    for row in report["results"]:
        assert row["same_tokens"] is (True if row["arm"] == "engine none" else None)
        assert row["first_token_s"] <= row["first_token_p99_s"]
        assert row["step_p50_ms"] <= row["step_p99_ms"]
        assert (row["second_question_s"] is None) == (row["arm"] == "generate")
        assert row["decode_ratio"] > 0 and row["length"] == 96
        floors = (row["prefill_floor"], row["decode_floor"])
        assert all(floor is not None for floor in floors) is ("document" not in row["arm"])


def test_a_serving_benchmark_without_a_step_to_time_is_refused() -> None:
    done = run("serving.py", "--tokens", "2")
    assert done.returncode == 2 and "at least 4" in done.stderr


def test_an_arm_that_is_not_installed_is_refused_not_left_out() -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed here")
    done = run("serving.py", "--vllm")
    assert done.returncode == 2 and "--vllm: vllm is not installed" in done.stderr
    done = run("in_vllm.py", "--model", "random")
    assert done.returncode == 2 and "vllm is not installed" in done.stderr


def test_llama_cpp_is_refused_where_it_is_not_installed() -> None:
    if importlib.util.find_spec("llama_cpp") is not None:
        pytest.skip("llama-cpp-python is installed here")
    done = run("serving.py", "--model", "random", "--gguf", "M.gguf")
    assert done.returncode == 2 and "--gguf: llama_cpp is not installed" in done.stderr


def test_the_benchmark_inside_vllm_measures_longctxs_engine_without_it(tmp_path: Path) -> None:
    words = ["--model", "embedded", "--lengths", "64", "--pairs", "1", "--new", "2"]
    done = run("in_vllm.py", *words, "--arms", "embedded", cwd=tmp_path, check=True)
    rows = [line.split("|")[1:3] for line in done.stdout.splitlines()[2:]]
    assert rows == [[" 64 ", " prompt "], [" 64 ", " token "]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident size is read as Linux and glibc tell")
def test_memory_of_a_perplexity_pass_is_linear_in_its_length(tmp_path: Path) -> None:
    """A square of the length, or logits of the whole text, would make the second slope larger.

    Resident size is a few hundred kilobytes more or less by chance, hence steps of 16 MiB of keys
    and values.
    """
    arguments = ["--lengths", "4K,12K,20K", "--methods", "none,yarn+dca", "--json"]
    done = run("perplexity_memory.py", *arguments, cwd=tmp_path, check=True)
    results = json.loads(done.stdout)["results"]
    assert [found["method"] for found in results] == ["none", "yarn+dca"]
    for found in results:
        steps, least = found["bytes_per_token"], found["kv_bytes_per_token"]
        assert least == 2 * 4 * 2 * 32 * 4  # keys and values, layers, key heads, head_dim, float32
        assert len(steps) == 2 and min(steps) > 0.9 * least
        assert max(steps) < 1.3 * min(steps), steps
        # float32 logits of the whole text alone would be 8192 bytes per token.
        assert max(steps) < 4 * least, steps


def test_a_slope_needs_two_lengths() -> None:
    done = run("perplexity_memory.py", "--lengths", "2K")
    assert done.returncode == 2 and "two at least" in done.stderr


@pytest.mark.slow
def test_compile_benchmark_reports_both_arms(tmp_path: Path) -> None:
    arguments = ["--layers", "1", "--hidden", "64", "--tokens", "4", "--rounds", "2"]
    arguments += ["--backend", "eager", "--caches", "dynamic", "--json"]
    done = run("compile.py", *arguments, cwd=tmp_path, check=True)
    report = json.loads(done.stdout)
    (row,) = report["results"]
    assert report["about"]["backend"] == "eager" and row["cache"] == "dynamic"
    assert [arm["method"] for arm in row["arms"]] == ["none", "yarn+dca"]
    for arm in row["arms"]:
        assert arm["same_tokens"] and arm["frames_later"] == 0
        assert 0 < arm["steady_cpu_s"] <= arm["first_cpu_s"]


def test_a_method_without_plans_is_refused_by_the_compile_benchmark() -> None:
    done = run("compile.py", "--method", "yarn")
    assert done.returncode == 2 and "only DCA methods" in done.stderr


def test_blocks_benchmark_reports_every_way_that_keys_may_lie(tmp_path: Path) -> None:
    arguments = ["--lengths", "100", "--blocks", "16", "--rows", "2", "--prompt", "8"]
    done = run("kv_blocks.py", *arguments, "--rounds", "1", "--json", cwd=tmp_path, check=True)
    report = json.loads(done.stdout)
    seen = {(row["case"], row["keys"]) for row in report["results"]}
    ways = ("side by side", "runs of 1024", "table of 16", "gather of 16")
    assert seen == {(c, w) for c in ("decode", "decode x2", "prompt of 8") for w in ways}


def test_prefixes_benchmark_reports_each_number_of_them(tmp_path: Path) -> None:
    arguments = ["--prefixes", "50,300", "--tokens", "40", "--shared", "20", "--rounds", "5"]
    done = run("prefixes.py", *arguments, "--json", cwd=tmp_path, check=True)
    rows = json.loads(done.stdout)["results"]
    assert [row["prefixes"] for row in rows] == [50, 300]
    assert all(row[name] > 0 for row in rows for name in ("match_ms", "insert_ms"))


@pytest.mark.slow
def test_plan_memory_benchmark_sets_plan_and_peak_side_by_side(tmp_path: Path) -> None:
    from longctx import tiny

    done = run("plan_memory.py", str(tiny.WEIGHTS), "--lengths", "1K", cwd=tmp_path, check=True)
    report = json.loads(done.stdout)
    assert report["tokens"] == 1024 and report["peak"] >= report["loaded"] > 0
    assert report["ratio"] == round(report["planned"] / report["peak"], 3)


@pytest.mark.slow
def test_documents_under_load_are_answered_as_on_a_quiet_server(tmp_path: Path) -> None:
    few = ["--clients", "3", "--seconds", "4", "--port", "8193"]
    done = run("documents_load.py", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["errors"], report["wrong_answers"]) == (0, 0)
    assert report["counts"]["add"] > 3 and report["counts"]["ask"] > 3
    assert report["files_left_when_all_are_deleted"] == [".lock", "weights.json"]


def test_decode_benchmark_reports_kernels_and_ceiling(tmp_path: Path) -> None:
    arguments = ["--lengths", "1K", "--rows", "1,2", "--rounds", "1", "--chunk-size", "256"]
    arguments += ["--local-size", "64", "--json"]
    report = native_report("decode.py", *arguments, cwd=tmp_path)
    if report is None:
        return
    seen = [(row["dtype"], row["rows"]) for row in report["results"]]
    assert seen == [(dtype, rows) for dtype in ("float32", "bfloat16", "int8") for rows in (1, 2)]
    for row in report["results"]:
        assert set(row["gb_s"]) == set(row["times"]) == {"memory", "native", "torch_cpu"}


def test_int8_keys_benchmark_reports_ratios(tmp_path: Path) -> None:
    arguments = ["--lengths", "96", "--layers", "1", "--rounds", "1", "--tokens", "3", "--json"]
    report = native_report("int8_keys.py", *arguments, cwd=tmp_path)
    if report is None:
        return
    (row,) = report["results"]
    for name in ("prompt", "token"):
        each = row[name]
        assert each["ratio"] == pytest.approx(each["int8"] / each["float32"])
    assert row["length"] == 96 and set(report["rounding_us"]) == {"native", "torch"}


def test_prefill_benchmark_reports_kernels_and_ceiling(tmp_path: Path) -> None:
    arguments = ["--queries", "100", "--lengths", "90,128", "--shapes", "135M", "--rounds", "1"]
    report = native_report("prefill.py", *arguments, "--json", cwd=tmp_path)
    if report is None:
        return
    seen = [(row["dtype"], row["keys"], row["causal"]) for row in report["results"]]
    cases = [(90, False), (128, False), (128, True)]  # 100 queries at the end of 90 keys: none
    assert seen == [(dtype, *case) for dtype in ("float32", "bfloat16") for case in cases]
    for row in report["results"]:
        assert set(row["gflops"]) == set(row["times"]) == {"matmul", "native", "torch_cpu"}


@pytest.mark.skipif(not INT8, reason="no products of bytes on this processor")
def test_int8_linear_benchmark_reports_both_ways_with_the_same_bits() -> None:
    arguments = ["--shapes", "64x128,100x70", "--rows", "1,9", "--rounds", "1", "--json"]
    done = run("int8_linear.py", *arguments, check=True)
    rows = json.loads(done.stdout)["results"]
    assert [(row["inputs"], row["outputs"], row["rows"]) for row in rows] == [
        (64, 128, 1),
        (64, 128, 9),
        (100, 70, 1),
        (100, 70, 9),
    ]
    for row in rows:
        assert row["same"] and set(row["seconds"]) == {"native", "oneDNN", "float32", "memory"}
        assert row["gb_s"] == pytest.approx(
            row["inputs"] * row["outputs"] / row["seconds"]["native"] / 1e9
        )
