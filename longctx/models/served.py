"""A local model under one method, asked through the engine: what is measured is what is served.

Requests of one length decode together, prompts with common beginnings share their keys, and YaRN's
temperature is taken at the bucket's edge, as for every client of the server. Steps run in the
caller's thread, so that equal runs batch equally. Knows no task and no prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from longctx.attention import Scheme, resolve
from longctx.engine import Engine
from longctx.engine.handle import Answer, Generation
from longctx.engine.memory import default_kv_budget, step_rows
from longctx.engine.runner import Runner
from longctx.errors import UserError
from longctx.eval.protocol import Completion, Session
from longctx.models.engine_session import EngineSession
from longctx.models.plain import DEFAULT_PREFILL_CHUNK, PlainSession, input_device
from longctx.models.proof import HiddenStates, UnprovenMethodError, prove
from longctx.models.quantize import weight_bytes

# Requests in flight, and the memory for their keys: so many contexts of the longest length, or as
# many tokens of short ones, as long as they are small beside the weights. More would decode more of
# them together; few steps are decoding.
IN_FLIGHT = 64
_CONTEXTS, _TOKENS = 4, 16384
_SHARE_OF_WEIGHTS, _SMALL_BYTES = 4, 16 << 20
# So many may wait for memory, or for a beginning that another one computes.
AHEAD = 2


@dataclass(frozen=True)
class Asking:
    """How a model is asked, whatever the method.

    Attributes:
        longest: tokens of the longest prompt and its answer.
        prefill_chunk: tokens of one forward pass.
        prefix_sharing: whether prompts go on from what others have computed.
        kv_dtype: what keys and values are kept in; None: the model's.
    """

    kernel: str
    longest: int
    prefill_chunk: int = DEFAULT_PREFILL_CHUNK
    prefix_sharing: bool = True
    kv_dtype: torch.dtype | None = None


class ServedSession(EngineSession):
    """An engine while the block lasts."""

    def __init__(self, model: Any, tokenizer: Any, scheme: Scheme, asking: Asking) -> None:
        """
        Raises:
            UserError, ValueError: what the engine refuses.
            UnprovenMethodError: the method is not at work.
        """
        self._model, self._tokenizer, self._scheme, self._asking = model, tokenizer, scheme, asking
        self.share_prefix = asking.prefix_sharing
        self._facts = _facts(model, scheme, asking)
        vocabulary = model.config.get_text_config().vocab_size
        # By the same kernel: another one's rounding would pass for a method at work.
        plain = partial(_plain, model, asking.kernel)
        under = partial(_running, model, scheme, asking.kernel)
        proof = prove(scheme, vocabulary, plain, under)
        super().__init__(scheme.method, scheme.to_dict(), self._facts.kernel, proof, IN_FLIGHT)

    def __enter__(self) -> ServedSession:
        asking, device = self._asking, input_device(self._model)
        if device.type == "cuda":  # peak_mem_bytes is that of the cells that are asked together
            torch.cuda.reset_peak_memory_stats(device)
        self.engine = Engine(
            self._model,
            self._tokenizer,
            self._scheme,
            kernel=asking.kernel,
            chunk_budget=asking.prefill_chunk,
            max_context=asking.longest,
            kv_budget_bytes=_kv_budget(self._facts, asking, device),
            prompts_first=True,
            kv_dtype=asking.kv_dtype,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.engine.close()

    def advance(self, flying: Sequence[Generation]) -> None:
        self.engine.step()

    def has_room(self) -> bool:
        """What is taken is answered, also after a deadline: so no more than can begin is."""
        return bool(self.engine.stats().waiting < AHEAD)

    def completion(self, answer: Answer) -> Completion:
        device = self.engine.device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        return replace(
            super().completion(answer), peak_mem_bytes=peak, compute_s=answer.usage.compute_s
        )


def sessions_for(
    model: Any, tokenizer: Any, schemes: Iterable[Scheme], asking: Asking
) -> tuple[dict[str, Session], list[str]]:
    """A session for each method, and what to tell of those that the engine does not take.

    Raises:
        UserError: a method that runs nowhere, or is not at work.
    """
    found: dict[str, Session] = {}
    notes = []
    for scheme in schemes:
        try:
            found[scheme.method] = ServedSession(model, tokenizer, scheme, asking)
            continue
        except UnprovenMethodError:
            raise
        except (UserError, ValueError, TypeError) as error:
            if asking.kv_dtype is not None:  # a plain loop keeps keys as the model computes them
                kept = str(asking.kv_dtype).removeprefix("torch.")
                raise UserError(
                    f"--kv-dtype {kept}: {scheme.method} runs in a plain loop alone, which keeps "
                    f"keys in the model's dtype ({error}): leave it out"
                ) from error
            notes.append(f"{scheme.method}: a plain loop without batches, not the engine: {error}")
        found[scheme.method] = PlainSession(
            model,
            tokenizer,
            scheme,
            kernel=asking.kernel,
            prefill_chunk=asking.prefill_chunk,
            prefix_sharing=asking.prefix_sharing,
        )
    return found, notes


class _Facts(NamedTuple):
    """What an engine over a model would say, without its memory."""

    kernel: str
    kv_bytes_per_token: int
    step_bytes: int
    weight_bytes: int


def _facts(model: Any, scheme: Scheme, asking: Asking) -> _Facts:
    runner = Runner(model, scheme, asking.kernel, asking.kv_dtype, pack=False)
    try:
        return _Facts(
            runner.kernel_name,
            runner.kv_bytes_per_token,
            runner.step_bytes(asking.prefill_chunk, step_rows(IN_FLIGHT)),
            weight_bytes(model),
        )
    finally:
        runner.close()


def _kv_budget(facts: _Facts, asking: Asking, device: torch.device) -> int | None:
    """Bytes for keys and values: a few contexts where there is room, one in any case.

    None, the engine's own choice, on a GPU: its memory is there to be used.
    """
    if device.type != "cpu":
        return None
    wanted = max(_CONTEXTS * asking.longest, _TOKENS) * facts.kv_bytes_per_token
    wanted = min(wanted, max(facts.weight_bytes // _SHARE_OF_WEIGHTS, _SMALL_BYTES))
    try:
        wanted = min(wanted, default_kv_budget([device], facts.step_bytes))
    except UserError:
        wanted = 0
    return max(wanted, asking.longest * facts.kv_bytes_per_token)


def _plain(
    model: Any, kernel: str, tokens: list[int], layers: int | None, request_length: int
) -> torch.Tensor:
    with _running(model, resolve(model.config, "none"), kernel) as states:
        return states(tokens, layers, request_length)


@contextmanager
def _running(model: Any, scheme: Scheme, kernel: str) -> Iterator[HiddenStates]:
    runner = Runner(model, scheme, kernel, pack=False)
    try:
        yield runner.hidden
    finally:
        runner.close()
