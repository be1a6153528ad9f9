from __future__ import annotations

import pytest


@pytest.fixture
def no_proxy_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from longctx.endpoint import KEY_VARIABLES

    for name in (*KEY_VARIABLES, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
