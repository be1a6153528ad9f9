"""A local model under one method, asked through vLLM: the engine that serves on several GPUs.

vLLM batches and shares prefixes as it sees fit, so records of one run may be computed in another
order than those of the next; answers are greedy all the same. Knows no task and no prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from longctx.attention import Scheme
from longctx.engine import Generation
from longctx.engine.rules import eos_ids
from longctx.errors import UserError
from longctx.eval.protocol import Session
from longctx.models.base import LoadedModels
from longctx.models.engine_session import EngineSession
from longctx.models.local import LocalModel
from longctx.models.source import generation_config
from longctx.models.vllm_engine import VllmEngine
from longctx.models.vllm_options import VllmOptions, check_installed, check_method, check_plugin
from longctx.options.shared import AUTO

_IN_FLIGHT = 16
_CONTEXTS, _TOKENS = 4, 16384  # what memory for keys and values is taken for, on a CPU
_POLL_S = 0.005
_RUNNING = "vllm"  # among what is loaded


class RunningVllm:
    """The one vLLM that runs: where the next block wants the same, it is there already.

    Two at once would want the same memory.
    """

    def __init__(self) -> None:
        self._engine: VllmEngine | None = None
        self._made: tuple[Scheme, VllmOptions] | None = None

    def engine(self, local: VllmModel, scheme: Scheme) -> VllmEngine:
        """
        Raises:
            UserError: vLLM does not start.
        """
        options = local.vllm_options
        running = self._engine
        if running is not None and running.broken is None and self._made == (scheme, options):
            return running
        self.close()
        made = SimpleNamespace(
            config=local.model_config, generation_config=generation_config(local.source)
        )
        self._engine = VllmEngine(
            local.tokenizer,
            scheme,
            local.model_config,
            options,
            eos_ids=eos_ids(made, local.tokenizer),
            max_waiting=_IN_FLIGHT,
        )
        self._made = scheme, options
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class VllmSession(EngineSession):
    """An engine of vLLM, which outlasts the block: whoever has loaded it ends it.

    Args:
        local: vLLM is its kernel in every key: its numbers are not another one's.
    """

    def __init__(self, local: VllmModel, scheme: Scheme, running: RunningVllm) -> None:
        self._model, self._scheme, self._running = local, scheme, running
        self.share_prefix = local.prefix_sharing
        proof = {"verified": True, "by": "the classes that compute attention in vLLM's workers"}
        super().__init__(scheme.method, scheme.to_dict(), local.kernel, proof, _IN_FLIGHT)

    def __enter__(self) -> VllmSession:
        self.engine = self._running.engine(self._model, self._scheme)
        return self

    def advance(self, flying: Sequence[Generation]) -> None:
        while not any(handle.done for handle in flying):
            time.sleep(_POLL_S)


@dataclass(frozen=True, kw_only=True)
class VllmModel(LocalModel):
    """A local model that vLLM loads, anew for each method."""

    @property
    def prefix_sharing(self) -> bool:
        return self.settings.prefix_sharing

    @property
    def vllm_options(self) -> VllmOptions:
        """How vLLM is started for it, under any method."""
        settings, on_cpu = self.settings, self.device == "cpu"
        tokens = max(_CONTEXTS * settings.longest, _TOKENS)
        return VllmOptions(
            directory=self.source.directory,
            dtype=self.dtype,
            context=settings.longest,
            chunk_budget=settings.prefill_chunk,
            max_running=_IN_FLIGHT,
            kv_budget=self.shape.kv_bytes(tokens, self.bytes_per_value) if on_cpu else None,
            arguments=("--enforce-eager",) if on_cpu else (),
        )

    def notes(self) -> list[str]:
        return []

    def rough_rate(self) -> float | None:
        return None

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        running = RunningVllm() if loaded is None else loaded.setdefault(_RUNNING, RunningVllm())
        schemes = self.local_schemes.items()
        return {name: VllmSession(self, scheme, running) for name, scheme in schemes}

    def probe(self, sessions: Any) -> float | None:
        return None  # would start vLLM before the plan is told


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
