"""vLLM under the face of longctx's own engine: requests in, events out.

Tokens go in and come out; text, stop strings and the events' order are longctx's, so a server in
front of it cannot tell the two apart. vLLM schedules, keeps prefixes and draws; its answers are
read in an event loop in a thread of its own. How far a prompt has come vLLM does not tell: there is
an event when it begins, and one when its first token is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from longctx.attention import Scheme
from longctx.engine import (
    ContextLengthError,
    EngineBrokenError,
    EngineClosedError,
    EngineRequest,
    Event,
    Failed,
    Finished,
    Generation,
    InsufficientMemoryError,
    QueueFullError,
    Stats,
)
from longctx.engine.stepper import Counts
from longctx.errors import UserError
from longctx.models.vllm_answer import VllmAnswer, sampling_params
from longctx.models.vllm_options import (
    VllmOptions,
    check_installed,
    check_layers,
    check_plugin,
    engine_arguments,
)
from longctx.models.vllm_start import Figures, start, tokens
from longctx.vllm.settings import bucket_of

_log = logging.getLogger(__name__)
# Its log is long, and it reports its use to its makers where it is not told otherwise. It gives a
# step up after five minutes, which one of a long prompt takes on a busy CPU.
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600",
}
# On a CPU it wants a NUMA node for each worker, to bind its threads to, and most machines have one.
_SEVERAL = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_END_SECONDS = 5.0  # for vLLM's processes to end by themselves


class VllmEngine:
    """Serves one model directory in vLLM under one scheme.

    Args:
        config: the model's, of transformers.
        eos_ids: tokens that end an answer.
        max_waiting: requests.

    Raises:
        UserError: vLLM is not there, does not take the model, or runs it on another attention.
    """

    started = True

    def __init__(
        self,
        tokenizer: Any,
        scheme: Scheme,
        config: Any,
        options: VllmOptions,
        *,
        eos_ids: frozenset[int],
        max_waiting: int,
    ) -> None:
        self.version = check_installed()
        check_plugin()
        workers = options.tensor_parallel * options.pipeline_parallel
        environment = _ENVIRONMENT | (_SEVERAL if workers > 1 else {})
        for name, value in environment.items():  # read when vLLM is imported, below
            os.environ.setdefault(name, value)
        self.scheme, self.tokenizer, self.max_context = scheme, tokenizer, options.context
        self.vocabulary: int = config.get_text_config().vocab_size
        self._options, self._eos_ids, self._max_waiting = options, eos_ids, max_waiting
        self._counts = Counts()
        self._figures = Figures()
        self._flying: dict[str, asyncio.Task[None] | None] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._given_up: Exception | None = None
        self._number = 0
        self._heard = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            made = engine_arguments(options, scheme, config)
            self._llm: Any = self._wait(start(made, self._figures))
            self._vllm_config = self._llm.vllm_config
        except Exception as error:
            self._end_loop()
            if isinstance(error, UserError):
                raise
            raise UserError(f"vLLM cannot run this model: {_last_line(error)}") from error
        try:
            self._check_layers()
        except UserError:
            self.close()
            raise

    def _check_layers(self) -> None:
        workers = self._wait(self._llm.collective_rpc("longctx_layers"))
        self.layers = tuple(sorted({layer for layers in workers for layer in layers}))
        check_layers(self.layers, self.scheme)

    def __repr__(self) -> str:
        return f"<vLLM {self.version}: {self.scheme}, {', '.join(self.layers)}>"

    # -- what is told -----------------------------------------------------------------------------

    @property
    def kernel_name(self) -> str:
        return (
            f"{', '.join(each.rpartition('.')[2] for each in self.layers)} in vLLM {self.version}"
        )

    @property
    def device(self) -> torch.device:
        return torch.device(self._vllm_config.device_config.device_type)

    @property
    def kv_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._vllm_config.model_config.dtype
        return dtype

    @property
    def fitting_tokens(self) -> int:
        cache = self._vllm_config.cache_config
        return int((cache.num_gpu_blocks or 0) * cache.block_size)

    @property
    def broken(self) -> Exception | None:
        if self._given_up is not None:
            return self._given_up
        if self._closed or not self._llm.errored:
            return None
        error = self._llm.dead_error
        return error if isinstance(error, Exception) else RuntimeError(str(error))

    @property
    def stalled_s(self) -> float:
        return time.monotonic() - self._heard if self._flying else 0.0

    @property
    def _bytes_per_token(self) -> int:
        vllm_config = self._vllm_config
        model, parallel = vllm_config.model_config, vllm_config.parallel_config
        values = model.get_num_layers(parallel) * model.get_num_kv_heads(parallel)
        return int(2 * values * model.get_head_size() * self.kv_dtype.itemsize)

    @property
    def max_running(self) -> int:
        return self._options.max_running

    def stats(self) -> Stats:
        flying = len(self._flying)
        running = min(flying, self._figures.running or self._options.max_running)
        budget = self.fitting_tokens * self._bytes_per_token
        return Stats(
            running=running,
            waiting=flying - running,
            kv_used_bytes=int(self._figures.usage * budget),
            kv_budget_bytes=budget,
            retained_prefixes=0,
            counts=replace(self._counts, steps=self._figures.steps),
        )

    # -- requests ---------------------------------------------------------------------------------

    def submit(
        self, request: EngineRequest, listener: Callable[[Event], None] | None = None
    ) -> Generation:
        """As `Engine.submit`; the listener is called in vLLM's thread.

        Raises:
            UserError: also a temperature of another length than the prompt's.
        """
        if self._closed:
            raise EngineClosedError("the engine is closed: make a new one")
        if self.broken is not None:
            raise EngineBrokenError(self.broken)
        self.check(request)
        answer = VllmAnswer(request, self._eos_ids, self._decode)
        params = sampling_params(request, self._eos_ids)
        handle: Generation
        with self._lock:
            waiting = len(self._flying) - self._options.max_running
            if waiting >= self._max_waiting:
                raise QueueFullError(self._max_waiting)
            self._number += 1
            name = f"longctx-{self._number}"
            if not self._flying:
                self._heard = time.monotonic()
            self._flying[name] = None
        handle = Generation(lambda: self._cancel(name), listener)

        def begin() -> None:
            if name in self._flying:
                task = self._loop.create_task(self._run(name, params, answer, handle))
                self._flying[name] = task

        self._loop.call_soon_threadsafe(begin)
        return handle

    def check(self, request: EngineRequest) -> None:
        """As `Engine.check`; what vLLM is not asked for here is refused too."""
        for name, asked in (
            ("min_new_tokens", request.min_new_tokens),
            ("prompt_top_logprobs", request.prompt_top_logprobs),
        ):
            if asked:
                raise UserError(f"{name}={asked} is not offered with --engine vllm: leave it out")
        if not isinstance(request.json_schema, dict | None):
            raise UserError(
                "choices, patterns and grammars are not offered with --engine vllm: give a JSON "
                "schema, or leave them out"
            )
        prompt = len(request.prompt_ids)
        asked = prompt + request.max_new_tokens
        if asked > self.max_context:
            raise ContextLengthError(self.max_context, prompt, request.max_new_tokens)
        if asked > self.fitting_tokens:
            size = self._bytes_per_token
            raise InsufficientMemoryError(asked, size, self.fitting_tokens * size)
        low, high = min(request.prompt_ids), max(request.prompt_ids)
        if low < 0 or high >= self.vocabulary:
            raise UserError(
                f"prompt_ids hold {low if low < 0 else high}: ids of this model are 0 to "
                f"{self.vocabulary - 1}"
            )
        wanted = request.request_length or prompt
        if bucket_of(self.scheme, wanted) != bucket_of(self.scheme, prompt):
            raise UserError(
                f"request_length={wanted}: vLLM takes the temperature from the prompt's own "
                f"{prompt} tokens, and these are in another bucket"
            )
        if request.stop and self.tokenizer is None:
            raise UserError("stop needs text, and the engine has no tokenizer: use stop_ids")

    def _cancel(self, name: str) -> None:
        def end() -> None:
            task = self._flying.get(name)
            if task is not None:
                task.cancel()

        if not self._closed:
            self._loop.call_soon_threadsafe(end)

    async def _run(self, name: str, params: Any, answer: VllmAnswer, handle: Generation) -> None:
        """One request until its last event."""
        last: Finished | Failed
        try:
            _tell(handle, answer.begun())
            stream = self._llm.generate(tokens(answer.request.prompt_ids), params, name)
            try:
                async for output in stream:
                    self._heard = time.monotonic()
                    for event in answer.heard(output):
                        _tell(handle, event)
                    if answer.ended:
                        break
            finally:
                await stream.aclose()  # vLLM ends what is not at its end
            last = answer.finished()
        except asyncio.CancelledError:
            if self._given_up is not None:
                last = Failed(EngineBrokenError(self._given_up))
            else:
                last = Failed(_closed()) if self._closed else answer.cancelled()
        except Exception as error:
            last = Failed(self._told(error))
        with self._lock:
            self._flying.pop(name, None)
        if isinstance(last, Failed):
            self._counts.failed += 1
        else:
            self._counts.finished += 1
            self._counts.prompt_tokens += last.usage.prompt_tokens - last.usage.cached_tokens
            self._counts.cached_tokens += last.usage.cached_tokens
            self._counts.completion_tokens += last.usage.completion_tokens
        _tell(handle, last)

    def _told(self, error: Exception) -> Exception:
        if self._closed:
            return _closed()
        if self.broken is not None:
            return EngineBrokenError(self.broken)
        if isinstance(error, ValueError):
            return UserError(f"vLLM refuses it: {_last_line(error)}")
        _log.error("a request failed in vLLM", exc_info=error)
        return error

    def _decode(self, ids: Sequence[int]) -> str:
        if self.tokenizer is None or not ids:
            return ""
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> VllmEngine:
        return self

    def give_up(self) -> None:
        """As `Engine.give_up`: what is in flight is told that no step ends any more."""
        self._given_up = TimeoutError(f"no step has ended for {self.stalled_s:.0f} s")

        def end() -> None:
            for task in self._flying.values():
                if task is not None:
                    task.cancel()

        self._loop.call_soon_threadsafe(end)

    def close(self, *, drain: bool = False) -> None:
        """End vLLM's processes. What is in flight fails, or is answered first with `drain`."""
        while drain and self._flying and self.broken is None:
            time.sleep(0.02)
        if self._closed:
            return
        self._closed = True

        async def end() -> None:
            tasks = [task for task in self._flying.values() if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._llm.shutdown(timeout=_END_SECONDS)
            self._llm = None  # what it says of itself at the interpreter's end is no use

        self._wait(end())
        self._end_loop()

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _tell(handle: Generation, event: Event) -> None:
    try:
        handle.emit(event)
    except Exception:  # a client's listener must not cost its neighbours
        _log.exception("a listener failed")


def _closed() -> EngineClosedError:
    return EngineClosedError("the engine was closed before the request was done")


def _last_line(error: BaseException) -> str:
    """pydantic's reports hold the reason in the middle; others on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Value error, ")]
    text = told[0].removeprefix("Value error, ") if told else " ".join(lines)
    return text.partition(" [type=")[0] or type(error).__name__
