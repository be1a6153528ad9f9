"""What the engine refuses, with the numbers a client needs to do better.

Knows no HTTP: the server turns a class into a status, and never parses a message.
"""

from __future__ import annotations

from longctx.errors import UserError


class ContextLengthError(UserError):
    """The request needs more tokens than the engine's context.

    Attributes:
        limit: tokens of prompt and answer together that the engine takes.
        prompt_tokens, max_new_tokens: what was asked for.
    """

    def __init__(self, limit: int, prompt_tokens: int, max_new_tokens: int) -> None:
        self.limit, self.prompt_tokens, self.max_new_tokens = limit, prompt_tokens, max_new_tokens
        super().__init__(
            f"prompt of {prompt_tokens} tokens and max_new_tokens={max_new_tokens} are "
            f"{self.asked} tokens, the context is {limit}: shorten the prompt or lower "
            "max_new_tokens"
        )

    @property
    def asked(self) -> int:
        return self.prompt_tokens + self.max_new_tokens


class InsufficientMemoryError(UserError):
    """The request's keys and values would not fit, even alone.

    Attributes:
        asked_tokens, asked_bytes: what the request needs.
        fitting_tokens, budget_bytes: what this engine has for keys and values.
    """

    def __init__(self, asked_tokens: int, bytes_per_token: int, budget_bytes: int) -> None:
        self.asked_tokens, self.asked_bytes = asked_tokens, asked_tokens * bytes_per_token
        self.fitting_tokens, self.budget_bytes = budget_bytes // bytes_per_token, budget_bytes
        super().__init__(
            f"{asked_tokens} tokens need {self.asked_bytes} bytes of keys and values, "
            f"kv_budget_bytes={budget_bytes} holds {self.fitting_tokens} tokens: shorten the "
            "request or raise the budget"
        )


class QueueFullError(UserError):
    """As many requests wait as may."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(f"max_waiting={waiting} requests are waiting already: try again later")


class ConstraintError(UserError):
    """An output constraint that cannot be compiled, or that no token can satisfy."""


class NonFiniteLogitsError(RuntimeError):
    """The model computed NaN or infinities: there is no next token, and no probability."""

    def __init__(self) -> None:
        super().__init__(
            "the model's logits are not finite (NaN or infinite): try another dtype (bfloat16 or "
            "float32 where float16 overflows), and `longctx doctor` on this machine"
        )


class EngineBrokenError(RuntimeError):
    """The device fails whatever it is asked: a new process may do better, this one will not."""

    def __init__(self, cause: Exception) -> None:
        words = " ".join(str(cause).split())[:300]
        super().__init__(
            f"the device fails every step ({type(cause).__name__}: {words}): start the program "
            "anew, and see `longctx doctor` where that does not help"
        )


class EngineClosedError(RuntimeError):
    """The engine was closed before the request was done."""
