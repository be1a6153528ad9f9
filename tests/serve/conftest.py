from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from serve_helpers import Served, served


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    with served() as found:
        yield found


@pytest.fixture(scope="session")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with server.client() as found:
        yield found
