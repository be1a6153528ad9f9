"""The system's clock may jump: deadlines, waits and figures go by one that does not."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
from serve_helpers import CHAT, body, served

import longctx
from longctx.serve.settings import Deadlines

ROOMS = ("serve", "engine", "grammar", "chat", "killable")
# When something was made, for people to read; nothing is reckoned from it.
ALLOWED = {("serve/service.py", "time"), ("serve/logs.py", "fromtimestamp")}
# The fields of jobs and responses that clients see as `created` and `completed_at`.
ALLOWED_NAMES = {("serve/jobs.py", "time"), ("serve/responses_api.py", "time")}


def wall_clocks(path: Path) -> set[str]:
    """What of the system's clock a file reads."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and (
            (node.attr in ("time", "time_ns") and ast.unparse(node.value) == "time")
            or node.attr in ("now", "utcnow", "today", "fromtimestamp")
        )
    }


def test_nothing_is_reckoned_from_the_systems_clock() -> None:
    package = Path(longctx.__file__).parent
    found = {
        (path.relative_to(package).as_posix(), name)
        for room in ROOMS
        for path in (package / room).rglob("*.py")
        for name in wall_clocks(path)
    }
    assert found == ALLOWED | ALLOWED_NAMES


@pytest.mark.parametrize("step", [-10 * 365 * 86400.0, 86400.0], ids=["back", "ahead"])
def test_a_server_whose_clock_jumps_serves_on(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with deadlines of seconds, which a day ahead would be over, and ten years back never."""
    limits = Deadlines(head=2.0, silence=2.0, taking=2.0)
    with served(deadlines=limits, step_timeout=60.0, drain_timeout=5.0) as server:
        before = server.call(CHAT, body(temperature=0))[2]["choices"]
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + step)
        monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (real() + step)))
        status, _, value = server.call(CHAT, body(temperature=0))
        assert (status, value["choices"]) == (200, before)
        status, _, told = server.call(CHAT, body(stream=True, return_progress=True))
        assert status == 200 and '"eta_ms": -' not in told and '"time_ms": -' not in told
        assert server.call("/ready")[0] == 200
        server.signal()
        began = time.monotonic()
        while not server.server.should_exit:
            assert time.monotonic() < began + 4
            time.sleep(0.01)
