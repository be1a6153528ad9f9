from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import needle_fakes
import perplexity_fakes
import pytest

from longctx.eval.haystack import Haystack


@pytest.fixture(scope="session")
def chatml() -> Any:
    return needle_fakes.chatml_tokenizer()


@pytest.fixture(scope="session")
def metaspace() -> Any:
    return needle_fakes.metaspace_tokenizer()


@pytest.fixture(params=["chatml", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def book() -> Haystack:
    return Haystack.from_text(needle_fakes.english(), "book")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, chatml: Any) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    needle_fakes.save_tiny_model(directory, chatml)
    return directory


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    perplexity_fakes.write_texts(directory)
    return directory


@pytest.fixture
def perplexity_command(tiny_model: Path, texts: Path, tmp_path: Path) -> list[str]:
    methods = ",".join(perplexity_fakes.METHODS)
    return [
        *("perplexity", str(tiny_model), "--methods", methods, "--lengths", "256,640"),
        *("--text", str(texts), "--documents", "3", "--output", str(tmp_path / "run")),
    ]


@pytest.fixture(scope="module")
def questions() -> Haystack:
    return Haystack.from_text(json.dumps(needle_fakes.QA), "doors.json")
