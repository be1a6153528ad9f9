"""What `--engine vllm` takes, and refuses, before vLLM is started."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from longctx import tiny
from longctx.attention import Scheme
from longctx.errors import UserError
from longctx.models import vllm_options
from longctx.serve.loading import prepare
from longctx.serve.settings import ServeSettings
from longctx.vllm import version
from longctx.vllm.worker import LayerReport


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel": 2}, "--tensor-parallel 2: only with --engine vllm"),
        ({"pipeline_parallel": 2}, "--pipeline-parallel 2: only with --engine vllm"),
        ({"distributed_executor_backend": "ray"}, "ray: only with --engine vllm"),
        ({"vllm_arguments": ("--seed", "1")}, "-- --seed 1: only with --engine vllm"),
        ({"engine": "tgi"}, "--engine tgi: use longctx or vllm"),
        ({"engine": "vllm", "tensor_parallel": 0}, "--tensor-parallel 0: must be at least 1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, message) -> None:
    with pytest.raises(UserError, match=message):
        ServeSettings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "yarn"}, "--method yarn does not run in vLLM: use one of none, dca, yarn"),
        ({"kernel": "reference"}, "--kernel reference: vLLM decides that itself"),
        ({"device_map": "cuda"}, "--device-map cuda: vLLM decides that itself"),
        ({"kv_dtype": "bfloat16"}, "--kv-dtype bfloat16: vLLM decides that itself"),
    ],
)
def test_what_vllm_settles_itself_is_refused(options, message, monkeypatch) -> None:
    monkeypatch.setattr(vllm_options, "installed", lambda: ("vllm", "0.33.0"))
    monkeypatch.setattr(version, "installed", lambda: ("vllm", "0.33.0"))
    monkeypatch.setattr(vllm_options, "entry_points", lambda group: [EntryPoint("longctx", "", "")])
    with pytest.raises(UserError, match=message):
        prepare(ServeSettings(tiny.EMBEDDED, engine="vllm", **options))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "vLLM is not installed"),
        (("vllm", "0.30.0"), "runs in vLLM 0.32 and 0.33, and vllm 0.30.0"),
    ],
)
def test_another_vllm_is_told_at_once(found, message, monkeypatch) -> None:
    monkeypatch.setattr(vllm_options, "installed", lambda: found)
    monkeypatch.setattr(version, "installed", lambda: found)
    with pytest.raises(UserError, match=message):
        prepare(ServeSettings(tiny.EMBEDDED, engine="vllm"))


@pytest.mark.parametrize(
    ("points", "variable", "message"),
    [
        ([], None, "not among the installed plugins of vLLM: install it again"),
        (["other"], None, "not among the installed plugins"),
        (["longctx"], "other", "VLLM_PLUGINS=other leaves longctx out"),
        (["longctx"], "", "VLLM_PLUGINS= leaves longctx out"),
    ],
)
def test_a_plugin_that_would_not_be_loaded_is_told(points, variable, message, monkeypatch) -> None:
    found = [EntryPoint(name, "", "") for name in points]
    monkeypatch.setattr(vllm_options, "entry_points", lambda group: found)
    if variable is not None:
        monkeypatch.setenv("VLLM_PLUGINS", variable)
    with pytest.raises(UserError, match=message):
        vllm_options.check_plugin()


def test_a_plugin_that_is_loaded_passes(monkeypatch) -> None:
    points = [EntryPoint("longctx", "", "")]
    monkeypatch.setattr(vllm_options, "entry_points", lambda group: points)
    vllm_options.check_plugin()
    monkeypatch.setenv("VLLM_PLUGINS", "other,longctx")
    vllm_options.check_plugin()


def test_another_attention_at_work_is_refused() -> None:
    chunked = Scheme("dca", 512, 512, 512, 64, "chunk_size")
    ours, stock = "longctx.vllm.cpu.DualChunkCpuImpl", "vllm.v1.CPUAttentionBackendImpl"
    vllm_options.check_layers([ours], chunked)
    vllm_options.check_layers([stock], Scheme("none", 512, 512))
    with pytest.raises(
        UserError, match=r"on vllm\.v1\.CPUAttentionBackendImpl, and not on longctx"
    ):
        vllm_options.check_layers([ours, stock], chunked)
    with pytest.raises(UserError, match="DualChunkCpuImpl, and method 'none' was asked for"):
        vllm_options.check_layers([ours], Scheme("none", 512, 512))
    with pytest.raises(UserError, match="names no layer with attention"):
        vllm_options.check_layers([], chunked)


def test_layers_of_experts_have_no_attention_to_tell_of() -> None:
    report = LayerReport()
    attention = SimpleNamespace(impl=[])
    layers = {"0.attn": attention, "0.experts": SimpleNamespace()}
    compilation = SimpleNamespace(static_forward_context=layers)
    report.vllm_config = SimpleNamespace(compilation_config=compilation)
    assert report.longctx_layers() == ["builtins.list"]
