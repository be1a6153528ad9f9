"""Whether the device still computes: steps that fail one after the other, or one without an end.

A step that fails is, as a rule, the fault of its requests. It is the device's where several in a
row fail and a tiny forward of the engine's own fails as well: no client can bring that about.
Knows no requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

FAILED_STEPS = 3


class Health:
    """Args:
    probe: computes a little on the device; raises where that goes wrong.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self.broken: Exception | None = None
        self._probe = probe
        self._failed = 0
        self._since = time.monotonic()

    @property
    def waited_s(self) -> float:
        """Seconds since a step ended, or since there is work for one."""
        return time.monotonic() - self._since

    def asked(self) -> None:
        """There is work, after there was none."""
        self._since = time.monotonic()

    def stepped(self, failure: BaseException | None) -> None:
        """A step has ended. A failure is one that nobody in it got anything from."""
        self._since = time.monotonic()
        if failure is None:
            self._failed = 0
            return
        self._failed += 1
        if self._failed < FAILED_STEPS or self.broken is not None:
            return
        try:
            self._probe()
        except Exception as error:
            error.__traceback__ = None
            self.broken = error
            _log.error("%d steps in a row failed, and so does a forward of one token", self._failed)
        else:
            self._failed = 0
        self._since = time.monotonic()
