from __future__ import annotations

from typing import Any

import pytest
import serve_fakes

from longctx.chat.renderer import ChatRenderer


@pytest.fixture(scope="module")
def tools_tokenizer() -> Any:
    return serve_fakes.tokenizer(serve_fakes.QWEN25)


@pytest.fixture(scope="module")
def tools_chat(tools_tokenizer: Any) -> ChatRenderer:
    return ChatRenderer(tools_tokenizer)
