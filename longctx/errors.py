"""What a person can put right: the one exception class for it.

Every command turns a UserError into one line on stderr and its exit code: 2, or 3 where nothing was
wrong with the input and the same command goes on. Anything else that escapes
is a bug and keeps its traceback. This module knows no command and no message.
"""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quota's number


class UserError(Exception):
    """Bad input. The message is one line that names the argument, its value and the remedy.

    raise UserError(f"--chunk-size {size} must be larger than --local-size {local}: lower one")
    """

    exit_code = 2

    def __str__(self) -> str:
        # Messages quote file contents and other libraries' errors, which bring their own newlines.
        return " ".join(super().__str__().split())


class StoppedError(UserError):
    """A run that cannot go on now, through no fault of its arguments: the same command goes on."""

    exit_code = 3


def disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL
