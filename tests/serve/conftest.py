from __future__ import annotations

import logging
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


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the server logs."""
    found: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger, handler = logging.getLogger("longctx.serve"), Kept()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)
