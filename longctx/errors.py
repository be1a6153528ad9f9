"""What a person can put right: the one exception class for it.

Every command turns a UserError into one line on stderr and exit code 2. Anything else that escapes
is a bug and keeps its traceback. This module knows no command and no message.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one line that names the argument, its value and the remedy.

    raise UserError(f"--chunk-size {size} must be larger than --local-size {local}: lower one")
    """

    def __str__(self) -> str:
        # Messages quote file contents and other libraries' errors, which bring their own newlines.
        return " ".join(super().__str__().split())
