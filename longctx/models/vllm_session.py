"""A local model under one method, asked through vLLM: the engine that serves on several GPUs.

vLLM batches and shares prefixes as it sees fit, so records of one run may be computed in another
order than those of the next; answers are greedy all the same. Knows no task and no prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from longctx.attention import Scheme
from longctx.engine import Answer, EngineBrokenError, EngineRequest, Generation
from longctx.engine.errors import ContextLengthError
from longctx.engine.rules import eos_ids
from longctx.errors import UserError
from longctx.eval.protocol import (
    Completion,
    ContextOverflowError,
    Outcome,
    Request,
    Session,
    TargetLostError,
)
from longctx.models.base import LoadedModels
from longctx.models.local import LocalModel
from longctx.models.source import generation_config
from longctx.models.vllm_engine import VllmEngine
from longctx.models.vllm_options import VllmOptions, check_installed, check_method, check_plugin
from longctx.options.shared import AUTO

_IN_FLIGHT = 16
_CONTEXTS, _TOKENS = 4, 16384  # what memory for keys and values is taken for, on a CPU
_POLL_S = 0.005


class VllmSession(Session):
    """An engine of vLLM while the block lasts.

    Args:
        local: vLLM is its kernel in every key: its numbers are not another one's.
    """

    def __init__(self, local: VllmModel, scheme: Scheme) -> None:
        self._model, self._scheme = local, scheme
        proof = {"verified": True, "by": "the classes that compute attention in vLLM's workers"}
        super().__init__(scheme.method, scheme.to_dict(), local.kernel, proof, _IN_FLIGHT)

    def __enter__(self) -> VllmSession:
        local, settings = self._model, self._model.settings
        tokens = max(_CONTEXTS * settings.longest, _TOKENS)
        budget = None
        if local.device == "cpu":
            budget = local.shape.kv_bytes(tokens, local.bytes_per_value)
        made = SimpleNamespace(
            config=local.model_config, generation_config=generation_config(local.source)
        )
        self._engine = VllmEngine(
            local.tokenizer,
            self._scheme,
            local.model_config,
            VllmOptions(
                directory=local.source.directory,
                dtype=local.dtype,
                context=settings.longest,
                chunk_budget=settings.prefill_chunk,
                max_running=_IN_FLIGHT,
                kv_budget=budget,
                arguments=("--enforce-eager",) if local.device == "cpu" else (),
            ),
            eos_ids=eos_ids(made, local.tokenizer),
            max_waiting=_IN_FLIGHT,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._engine.close()

    def generate(self, request: Request) -> Completion:
        ((_, outcome),) = self.answers([request])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Outcome]]:
        """Keeps as many in flight as vLLM runs at once."""
        source = iter(requests)
        flying: list[tuple[Request, Generation]] = []
        more = True
        while more or flying:
            while more and len(flying) < self.concurrency:
                request = next(source, None)
                if request is None:
                    more = False
                    break
                try:
                    flying.append((request, self._engine.submit(self._asked(request))))
                except Exception as error:
                    yield request, _outcome(error)
            done = [each for each in flying if each[1].done]
            flying = [each for each in flying if not each[1].done]
            if flying and not done:
                time.sleep(_POLL_S)
            for request, handle in done:
                try:
                    yield request, _completion(handle.result(timeout=1))
                except Exception as error:
                    yield request, _outcome(error)

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        if len(ids) < 2:
            return np.zeros(0)
        asked = EngineRequest(
            ids, max_new_tokens=0, prompt_logprobs=True, request_length=request_length
        )
        answer = self._engine.submit(asked).result()
        return np.asarray(answer.prompt_logprobs, dtype=np.float64)

    def _asked(self, request: Request) -> EngineRequest:
        return EngineRequest(
            request.ids,
            max_new_tokens=request.max_new_tokens,
            request_length=request.request_length,
            share_prefix=self._model.prefix_sharing,
        )


def _outcome(error: Exception) -> Exception:
    if isinstance(error, ContextLengthError):
        return ContextOverflowError(str(error))
    return TargetLostError(str(error)) if isinstance(error, EngineBrokenError) else error


def _completion(answer: Answer) -> Completion:
    usage = answer.usage
    return Completion(
        text=answer.text,
        finish_reason="stop" if answer.finish_reason == "stop" else "length",
        ttft_s=usage.total_s if usage.first_token_s is None else usage.first_token_s,
        total_s=usage.total_s,
        cached_tokens=usage.cached_tokens,
    )


@dataclass(frozen=True, kw_only=True)
class VllmModel(LocalModel):
    """A local model that vLLM loads, anew for each method."""

    @property
    def prefix_sharing(self) -> bool:
        return self.settings.prefix_sharing

    def notes(self) -> list[str]:
        return []

    def rough_rate(self) -> float | None:
        return None

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        return {name: VllmSession(self, scheme) for name, scheme in self.local_schemes.items()}

    def probe(self, sessions: Any) -> float | None:
        return None  # would start vLLM once more


def vllm_model(local: LocalModel) -> VllmModel:
    """The same model, asked through vLLM.

    Raises:
        UserError: vLLM is not there, or an argument that it settles itself.
    """
    release = check_installed()
    check_plugin()
    for method in local.local_schemes:
        check_method(method, "--methods")
    settings = local.settings
    for flag, value in (("--kernel", settings.kernel), ("--device-map", settings.device_map)):
        if value != AUTO:
            raise UserError(f"{flag} {value}: vLLM decides that itself: leave it out")
    if local.source.kind == "gguf":
        raise UserError(f"MODEL {local.name}: --engine vllm takes no GGUF file: convert it")
    return VllmModel(**(vars(local) | {"kernel": f"vllm {release.partition('+')[0]}"}))
