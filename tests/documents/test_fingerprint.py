"""What keys depend on changes the fingerprint; what they do not depend on does not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from longctx.attention import resolve
from longctx.documents.fingerprint import ModelFacts, weights_sha256
from longctx.models.source import Source, locate
from longctx.tiny import EMBEDDED, WEIGHTS


def facts_of(source: Source, method: str = "yarn+dca", **options: Any) -> ModelFacts:
    config = AutoConfig.from_pretrained(source.directory)
    scheme = resolve(config, method, **options)
    tokenizer = AutoTokenizer.from_pretrained(source.directory)
    return ModelFacts(source, config, scheme, tokenizer, "float32", "float32")


@pytest.fixture(scope="module")
def embedded() -> ModelFacts:
    return facts_of(locate(EMBEDDED))


@pytest.fixture
def copied(tmp_path: Path) -> Source:
    return locate(str(shutil.copytree(WEIGHTS, tmp_path / "model")))


def test_each_thing_that_keys_depend_on_changes_it(embedded: ModelFacts, copied: Source) -> None:
    print_of = {"as it is": embedded.fingerprint(724, None)}
    print_of["bucket"] = embedded.fingerprint(861, None)
    for name in ("dtype", "kv_dtype"):
        print_of[name] = replace(embedded, **{name: "bfloat16"}).fingerprint(724, None)
    print_of["int8 keys"] = replace(embedded, kv_dtype="int8").fingerprint(724, None)
    print_of["numbers"] = replace(embedded, numbers="int8").fingerprint(724, None)
    for name, options in (
        ("method", {"method": "dca"}),
        ("chunk size", {"chunk_size": 256}),
        ("local size", {"chunk_size": 512, "local_size": 32}),
        ("original length", {"original_length": 256, "chunk_size": 256}),
    ):
        other = replace(embedded, scheme=facts_of(embedded.source, **options).scheme)
        print_of[name] = other.fingerprint(724, None)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    tokenizer.add_tokens(["zzzz"])
    print_of["tokenizer"] = replace(embedded, tokenizer=tokenizer).fingerprint(724, None)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    tokenizer.chat_template += " "
    print_of["template"] = replace(embedded, tokenizer=tokenizer).fingerprint(724, None)
    config = json.loads((copied.directory / "config.json").read_text())
    (copied.directory / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    print_of["config"] = facts_of(copied).fingerprint(724, None)
    (copied.directory / "config.json").write_text(json.dumps(config))
    assert facts_of(copied).fingerprint(724, None) == print_of["as it is"]
    (weights,) = copied.weight_files()
    raw = bytearray(weights.read_bytes())
    raw[-1000] ^= 1  # one weight, by one bit
    weights.write_bytes(raw)
    print_of["weights"] = facts_of(copied).fingerprint(724, None)
    assert len(set(print_of.values())) == len(print_of)


def test_checksums_of_weights_are_kept_as_long_as_a_file_is_the_same(
    copied: Source, tmp_path: Path
) -> None:
    cache = tmp_path / "weights.json"
    (first,) = weights_sha256(copied, cache)
    known = json.loads(cache.read_text())
    ((path, entry),) = known.items()
    cache.write_text(json.dumps({path: [*entry[:3], "remembered"]}))
    assert weights_sha256(copied, cache) == ["remembered"]
    (weights,) = copied.weight_files()
    weights.write_bytes(weights.read_bytes())  # another time of change
    assert weights_sha256(copied, cache) == [first]
    cache.write_text("no JSON")
    assert weights_sha256(copied, cache) == [first]
