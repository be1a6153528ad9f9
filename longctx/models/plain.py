"""A local model that the engine does not take, asked by a plain loop: one request after the other.

Rotaries whose keys move, and foreign families under no method of ours. Decoding is greedy by a loop
of its own, because `generate()` would take sampling and penalties from the model's
generation_config. Knows no task and no prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from longctx.attention import DCA_METHODS, Handle, Scheme, extend
from longctx.attention.hf.cache import cache_argument
from longctx.engine import NonFiniteLogitsError
from longctx.engine.arrays import finite
from longctx.errors import UserError
from longctx.eval.protocol import Completion, Request, Session
from longctx.models.logprobs import moving_rope, token_logprobs
from longctx.models.proof import HiddenStates, prove, states_of
from longctx.models.source import stop_ids

DEFAULT_PREFILL_CHUNK = 2048


class _Prefilled(NamedTuple):
    """The last prompt, and a cache that begins with all of it (its answer lies behind)."""

    ids: list[int]
    request_length: int
    cache: DynamicCache


class PlainSession(Session):
    """The model is extended while the block lasts.

    With `prefix_sharing`, a prompt goes on from the tokens that it has in common with the prompt
    before it, if both have one request_length: equal tokens have equal keys then, under every
    method. Without it, or where the model forbids it, every request starts from an empty cache.

    Raises:
        UserError: a scheme that the model cannot have.
        UnprovenMethodError: the method is not at work.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        scheme: Scheme,
        *,
        kernel: str = "auto",
        prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
        prefix_sharing: bool = True,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._extend = partial(_extend, model, scheme, kernel)
        self._stop_ids = stop_ids(model, tokenizer)
        self._prefill_chunk = prefill_chunk
        self._device = input_device(model)
        self._sharing = prefix_sharing and sharing_obstacle(model.config) is None
        self._last: _Prefilled | None = None
        with self._extend() as handle:
            backend = handle.kernel_name or str(model.config._attn_implementation)
            if scheme.method in DCA_METHODS:
                cache_argument(model)
        plain = states_of(model, self._device)
        vocabulary = model.config.get_text_config().vocab_size
        proof = prove(scheme, vocabulary, plain, partial(_Extended, self._extend, plain))
        super().__init__(scheme.method, scheme.to_dict(), backend, proof)

    def __enter__(self) -> PlainSession:
        self._handle: Handle = self._extend()
        self._cache_argument = cache_argument(self._model)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._last = None
        self._handle.remove()

    def generate(self, request: Request) -> Completion:
        on_cuda = self._device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        began = time.perf_counter()
        with self._handle.request(request.request_length), torch.inference_mode():
            cache, cached = self._begin(request)
            token = self._prefill(request.ids[cached:], cache)
            ttft = time.perf_counter() - began
            answer: list[int] = []
            while token not in self._stop_ids:
                answer.append(token)
                if len(answer) == request.max_new_tokens:
                    break
                token = self._next(torch.tensor([[token]], device=self._device), cache)
        if self._sharing:
            self._last = _Prefilled(list(request.ids), request.request_length, cache)
        return Completion(
            text=str(self._tokenizer.decode(answer, skip_special_tokens=True)),
            finish_reason="stop" if token in self._stop_ids else "length",
            ttft_s=ttft,
            total_s=time.perf_counter() - began,
            peak_mem_bytes=torch.cuda.max_memory_allocated(self._device) if on_cuda else None,
            cached_tokens=cached,
        )

    def logprobs(self, ids: Sequence[int], *, request_length: int) -> npt.NDArray[np.float64]:
        self._last = None  # one cache at a time
        with self._handle.request(request_length), torch.inference_mode():
            return token_logprobs(
                self._model, torch.tensor(ids, device=self._device), self._prefill_chunk
            )

    def _begin(self, request: Request) -> tuple[DynamicCache, int]:
        """The cache to go on from, and how many tokens of the prompt it holds."""
        # Taken, not looked at: a request that fails leaves nothing that could be wrong.
        last, self._last = self._last, None
        cached = 0
        if last is not None and last.request_length == request.request_length:
            # The last token is always computed: its logits are the answer's first.
            cached = common_prefix(last.ids, request.ids[:-1])
        if last is None or not cached:
            return DynamicCache(config=self._model.config), 0
        crop(last.cache, cached)
        return last.cache, cached

    def _prefill(self, ids: Sequence[int], cache: DynamicCache) -> int:
        """The first token of the answer. Blocks bound the memory of the activations."""
        token = -1
        for block in torch.tensor([ids], device=self._device).split(self._prefill_chunk, dim=1):
            token = self._next(block, cache)
        return token

    def _next(self, block: torch.Tensor, cache: DynamicCache) -> int:
        out = self._forward(block, cache, logits_to_keep=1)
        logits_1V = out.logits[0, -1:]
        drawn_1 = logits_1V.argmax(-1).where(finite(logits_1V), -1)  # in one transfer
        if (token := int(drawn_1)) < 0:
            raise NonFiniteLogitsError
        return token

    def _forward(self, block: torch.Tensor, cache: DynamicCache, **more: Any) -> Any:
        return self._model(block, **{self._cache_argument: cache}, use_cache=True, **more)


def sharing_obstacle(config: Any) -> str | None:
    """Why no prompt under this config may go on from another one's cache; None where it may.

    Methods are no obstacle: what they make of a prompt's length, equal request lengths share.
    """
    rope_type = moving_rope(config)
    if rope_type is not None:
        return f"keys under rope_type {rope_type!r} may depend on the length of their prompt"
    for layer in DynamicCache(config=config).layers:
        if type(layer) is not DynamicLayer:
            return f"a cache with a {type(layer).__name__} does not go back to its first tokens"
    return None


def common_prefix(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(ids), len(others)))


def crop(cache: DynamicCache, length: int) -> None:
    """Keep the first `length` tokens; the scheme's tag stays true, as it is on the cache itself.

    Raises:
        TypeError: a layer that does not keep all its tokens.
    """
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise TypeError(
                f"a {type(layer).__name__} cannot be cropped to {length} tokens: start from an "
                "empty cache"
            )
    for layer in cache.layers:
        surplus = layer.get_seq_length() - length
        if surplus > 0:  # releases differ in what they take a count of zero or more for
            layer.crop(-surplus)


class _Extended(AbstractContextManager[HiddenStates]):
    """The model's own hidden states while a scheme is on it."""

    def __init__(self, extended: Any, states: HiddenStates) -> None:
        self._extended, self._states = extended, states

    def __enter__(self) -> HiddenStates:
        self._handle: Handle = self._extended()
        return self._ask

    def _ask(self, tokens: list[int], layers: int | None, request_length: int) -> torch.Tensor:
        with self._handle.request(request_length):
            return self._states(tokens, layers, request_length)

    def __exit__(self, *exc_info: object) -> None:
        self._handle.remove()


def _extend(model: PreTrainedModel, scheme: Scheme, kernel: str) -> Handle:
    dca = scheme.method in DCA_METHODS
    # What was not said is settled again by the same rules: saying it would make L0 the trained
    # window as well, and with DCA they differ.
    said = scheme.sources.get("original_length") == "argument"
    try:
        return extend(
            model,
            scheme.method,
            chunk_size=scheme.chunk_size,
            local_size=scheme.local_size,
            original_length=scheme.original_length if said else None,
            factor=scheme.factor,
            cap=scheme.cap or "chunk_size",
            kernel=kernel if dca else "auto",
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"--methods {scheme.method}: {error}") from error


def input_device(model: PreTrainedModel) -> torch.device:
    """Where ids go: the embedding's device, or its hook's where the weights are offloaded."""
    embedding: Any = model.get_input_embeddings()
    device: torch.device = embedding.weight.device
    if device.type != "meta":
        return device
    return torch.device(getattr(getattr(embedding, "_hf_hook", None), "execution_device", "cpu"))


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """Seconds per floating-point operation in a large matrix product: a first guess of speed."""
    size = 1024 if device == "cpu" else 4096
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - began)
    return best / (2 * size**3)
