"""Large bodies, proven in processes of their own before they are parsed in this one.

A parser makes all values while no other thread can run, so it must be known that it ends, and with
how much memory. What is proven is that it is JSON; whether it is a request is looked at here.
"""

from __future__ import annotations

import json

from longctx.killable.pool import EndedError, KillablePool, TooSlowError
from longctx.killable.process import START_SECONDS, KillableProcess
from longctx.serve.errors import ApiError
from longctx.serve.settings import BodyLimits


class LargeBodies:
    """From any thread. Processes are started when they are first needed.

    Args:
        most: bodies at once.
    """

    def __init__(self, limits: BodyLimits, most: int = 2) -> None:
        self._limits = limits
        self._pool = KillablePool(self._begin, most)

    def prove(self, raw: bytes) -> None:
        """
        Raises:
            ApiError: it is no JSON, or it takes too long or too much memory to find that out.
            LeftError: whoever asked has left.
        """
        limits = self._limits
        seconds = limits.seconds + len(raw) / limits.speed
        try:
            told = self._pool.ask(json.dumps({"seconds": seconds}), seconds, raw)
        except TooSlowError as error:
            raise _refused(f"more than {seconds:.0f} seconds", raw) from error
        except EndedError as error:
            raise _refused("more memory than one may", raw) from error
        if told.get("refused") == "MemoryError":
            raise _refused("more memory than one may", raw)
        if told.get("refused") == "RecursionError":
            raise ApiError(400, "The body is nested too deeply.", code="invalid_json")
        if told["refused"] is not None:
            message = f"The body is not JSON: Invalid JSON: {told['refused']}."
            raise ApiError(400, message, code="invalid_json")

    def tidy(self) -> None:
        self._pool.tidy()

    def close(self) -> None:
        self._pool.close()

    def _begin(self) -> KillableProcess:
        process = KillableProcess("longctx.serve.body_worker")
        setup = {"memory": self._limits.memory, "copies": self._limits.copies}
        try:
            process.ask(json.dumps(setup), START_SECONDS, b"")
        except (TooSlowError, EndedError) as error:
            process.close()
            raise EndedError("its process does not start") from error
        return process


def _refused(what: str, raw: bytes) -> ApiError:
    size = f"{len(raw) / 2**20:.1f} MiB"
    return ApiError(
        400, f"The body of {size} takes {what} to parse: send less.", code="body_too_costly"
    )
