from __future__ import annotations

from typing import Any

import pytest
import tiny_models


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.build()
