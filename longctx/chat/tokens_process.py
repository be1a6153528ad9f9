"""Long texts as tokens, made in processes that are ended where that takes too long or too much.

Short texts take milliseconds, and are not for here.
"""

from __future__ import annotations

import base64
import json
from array import array
from typing import Any, NamedTuple

from longctx.errors import UserError
from longctx.killable.pool import EndedError, KillablePool, TooSlowError
from longctx.killable.process import START_SECONDS, KillableProcess

LONG = 1 << 18  # characters; some 60,000 tokens, and a quarter of a second


class TokenLimits(NamedTuple):
    """What one text may cost."""

    seconds: float = 10.0
    speed: float = 1e5  # bytes that give a second more; a usual core does ten times as many
    memory: int = 1 << 30
    copies: int = 96  # of the text, in bytes: a token takes 330, and has four letters mostly


LIMITS = TokenLimits()


class TokenLimitError(UserError):
    """Making tokens of a text was ended, or could not be begun.

    Attributes:
        what: of the text, as the end of a sentence.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"messages: a text {what}: shorten it")


class TokensPool:
    """Of one tokenizer, from any thread. Processes are started when they are first needed.

    Args:
        most: texts at once.
    """

    def __init__(self, tokenizer: Any, limits: TokenLimits = LIMITS, most: int = 2) -> None:
        self._backend, self._limits = tokenizer.backend_tokenizer, limits
        self._pool = KillablePool(self._begin, most)

    def ids(self, text: str, *, split: bool, add_special: bool = False) -> list[int]:
        """Token ids.

        Args:
            split: special tokens that the text spells are text.
            add_special: with those that the tokenizer puts around a text.

        Raises:
            TokenLimitError: it takes too long or too much memory.
            LeftError: whoever asked has left.
        """
        limits, raw = self._limits, text.encode()
        seconds = limits.seconds + len(raw) / limits.speed
        asked = json.dumps({"split": split, "add_special": add_special, "seconds": seconds})
        try:
            told = self._pool.ask(asked, seconds, raw)
        except TooSlowError as error:
            raise TokenLimitError(
                f"of {len(text):,} characters takes more than {seconds:.0f} seconds to tokenise"
            ) from error
        except EndedError as error:
            raise self._too_much(text) from error
        if "ids" not in told:
            raise self._too_much(text)
        found = array("I")
        found.frombytes(base64.b64decode(told["ids"]))
        return found.tolist()

    def tidy(self) -> None:
        self._pool.tidy()

    def close(self) -> None:
        self._pool.close()

    def _too_much(self, text: str) -> TokenLimitError:
        return TokenLimitError(
            f"of {len(text):,} characters takes more memory to tokenise than one may"
        )

    def _begin(self) -> KillableProcess:
        process = KillableProcess("longctx.chat.tokens_worker")
        limits = json.dumps({"memory": self._limits.memory, "copies": self._limits.copies})
        try:
            process.ask(limits, START_SECONDS, self._backend.to_str().encode())
        except (TooSlowError, EndedError) as error:
            process.close()
            raise EndedError("its process does not start") from error
        return process
