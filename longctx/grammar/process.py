"""The process that compiles schemas, as seen from the server."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from longctx.grammar.compiler import Vocabulary
from longctx.killable.process import START_SECONDS, EndedError, KillableProcess, TooSlowError


class CompileLimits(NamedTuple):
    """What one schema may cost. `memory` is in bytes, beside what the worker has anyway."""

    seconds: float = 5.0
    memory: int = 256 << 20


class CompileProcess(KillableProcess):
    """Raises:
    EndedError: the system gives no process.
    """

    def __init__(self, bounds: CompileLimits) -> None:
        super().__init__("longctx.grammar.worker")
        self._bounds = bounds

    def set_up(self, vocabulary: Vocabulary) -> None:
        """Make it ready for schemas; a vocabulary of 150,000 tokens takes a second or two.

        Raises:
            EndedError: it did not get ready.
            ImportError: llguidance is missing there.
        """
        given = json.dumps({"vocabulary": vocabulary, **self._bounds._asdict()})
        try:
            told = self.ask(given, START_SECONDS)
        except TooSlowError as error:
            raise EndedError("it did not start in time") from error
        if "failed" in told:
            raise ImportError(told["failed"])

    def prove(self, schema: str) -> dict[str, Any]:
        """What the worker says of a schema in JSON: `refused`, `seconds`, and `spent` where it
        should not be asked again.

        Raises:
            TooSlowError, EndedError: no answer came.
        """
        return self.ask(schema, self._bounds.seconds)
