"""Every symbol and parameter of vLLM that the plugin uses is there in the releases it lets in.

By a committed table of what the releases have, so that it needs no vLLM; where one is installed,
the table is held against it.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import vllm_symbols
from vllm_symbols import Source, missing, plugin_files, release_of, table

from longctx.vllm import version

KNOWN = json.loads(vllm_symbols.TABLE.read_text(encoding="utf-8"))


def test_the_table_has_every_minor_release_that_is_let_in() -> None:
    assert {tuple(map(int, release.split(".")[:2])) for release in KNOWN} == set(version.TRIED)


@pytest.mark.parametrize("release", KNOWN)
def test_the_plugin_uses_nothing_else(release) -> None:
    assert missing(plugin_files(), KNOWN[release]) == []


PLANTED = {
    "from vllm.config import get_another_config": "vllm.config has no get_another_config",
    "def f(vllm_config):\n    vllm_config.cache_config.cash_type": "CacheConfig has no cash_type",
    "def f(common):\n    common.prompt_lens": "CommonAttentionMetadata has no prompt_lens",
    "from vllm.v1.kv_cache_layout import KVCacheLayout\nKVCacheLayout.HLBNC": (
        "KVCacheLayout has no HLBNC"
    ),
    "from vllm.v1.attention.backends.registry import register_backend\n"
    "register_backend('CPU_ATTN', path='x')": "register_backend takes no path",
    "from vllm.v1.attention.backend import AttentionMetadataBuilder\n"
    "class Mine(AttentionMetadataBuilder):\n    def build(self, metadata): ...": (
        "AttentionMetadataBuilder.build takes"
    ),
    "from vllm.v1.attention.backend import AttentionMetadataBuilder\n"
    "class Mine(AttentionMetadataBuilder):\n    def build_all(self): ...": (
        "AttentionMetadataBuilder has no build_all"
    ),
}


@pytest.mark.parametrize("release", KNOWN)
@pytest.mark.parametrize("code", PLANTED)
def test_a_use_of_what_is_not_there_is_found(code, release, tmp_path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(code, encoding="utf-8")
    found = missing([*plugin_files(), planted], KNOWN[release])
    assert len(found) == 1 and found[0].startswith(PLANTED[code])


@pytest.mark.skipif(
    version.installed() is None,
    reason="vLLM is not installed: `make test-vllm` holds the table against the one it installs",
)
def test_the_table_is_what_is_installed() -> None:
    name, _ = version.installed() or ("", "")
    place = Path(str(metadata.distribution(name).locate_file("")))
    release = release_of(place)
    assert release in KNOWN
    now = table(Source(place), plugin_files(), whole=True)
    for module, names in KNOWN[release].items():
        for name, about in names.items():
            found = now[module][name]
            assert found.get("parameters") == about.get("parameters"), name
            for kind in ("fields", "methods"):
                assert about.get(kind, {}).items() <= found.get(kind, {}).items(), name
