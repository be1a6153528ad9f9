from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import serve_fakes
from serve_helpers import Served, served

from longctx.serve.chat import ChatRenderer


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    with served() as found:
        yield found


@pytest.fixture(scope="session")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with server.client() as found:
        yield found


@pytest.fixture(scope="module")
def tools_tokenizer() -> Any:
    return serve_fakes.tokenizer(serve_fakes.QWEN25)


@pytest.fixture(scope="module")
def tools_chat(tools_tokenizer: Any) -> ChatRenderer:
    return ChatRenderer(tools_tokenizer)
