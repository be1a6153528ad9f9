"""Fixtures of several rooms. The libraries that they need are imported when they are asked for:
the contract test of flash-attn runs where most of them are not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from longctx.eval.texts.haystack import Haystack


@pytest.fixture
def no_proxy_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from longctx.models.openai_client import KEY_VARIABLES

    for name in (*KEY_VARIABLES, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def chatml() -> Any:
    import needle_fakes

    return needle_fakes.chatml_tokenizer()


@pytest.fixture(scope="session")
def metaspace() -> Any:
    import needle_fakes

    return needle_fakes.metaspace_tokenizer()


@pytest.fixture(params=["chatml", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def book() -> Haystack:
    import needle_fakes

    from longctx.eval.texts.haystack import Haystack

    return Haystack.from_text(needle_fakes.english(), "book")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, chatml: Any) -> Path:
    import needle_fakes

    directory = tmp_path_factory.mktemp("models") / "tiny"
    needle_fakes.save_tiny_model(directory, chatml)
    return directory


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import perplexity_fakes

    directory = tmp_path_factory.mktemp("texts")
    perplexity_fakes.write_texts(directory)
    return directory


@pytest.fixture
def perplexity_command(tiny_model: Path, texts: Path, tmp_path: Path) -> list[str]:
    import perplexity_fakes

    methods = ",".join(perplexity_fakes.METHODS)
    return [
        *("perplexity", str(tiny_model), "--methods", methods, "--lengths", "256,640"),
        *("--text", str(texts), "--documents", "3", "--output", str(tmp_path / "run")),
    ]


@pytest.fixture(scope="module")
def questions() -> Haystack:
    import needle_fakes

    from longctx.eval.texts.haystack import Haystack

    return Haystack.from_text(json.dumps(needle_fakes.QA), "doors.json")
