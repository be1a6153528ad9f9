"""A transformers model in this process as a target of the harness, under any method.

Knows models and attention methods; knows no task and no prompt. Decoding is greedy by a loop of its
own, because `generate()` would take sampling and penalties from the model's generation_config.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from longctx.attention import DCA_METHODS, Handle, Scheme, extend
from longctx.attention.hf.cache import cache_argument
from longctx.errors import UserError
from longctx.eval.protocol import Arm, Completion, Request, Target
from longctx.models.logprobs import moving_rope, token_logprobs

DEFAULT_PREFILL_CHUNK = 2048


class _Prefilled(NamedTuple):
    """The last prompt, and a cache that begins with all of it (its answer lies behind)."""

    ids: list[int]
    request_length: int
    cache: DynamicCache


class LocalTarget:
    """One model under one method.

    With `prefix_sharing`, a prompt goes on from the tokens that it has in common with the prompt
    before it, if both have one request_length: equal tokens have equal keys then, under every
    method. Without it, or where the model forbids it, every request starts from an empty cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        handle: Handle,
        decode: Callable[[list[int]], str],
        stop_ids: frozenset[int],
        prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
        *,
        prefix_sharing: bool,
    ) -> None:
        self._model = model
        self._handle = handle
        self._decode = decode
        self._stop_ids = stop_ids
        self._prefill_chunk = prefill_chunk
        self._device = input_device(model)
        self._cache_argument = cache_argument(model)
        self._sharing = prefix_sharing and sharing_obstacle(model.config) is None
        self._last: _Prefilled | None = None

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
            text=self._decode(answer),
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
        return int(out.logits[0, -1].argmax())

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


def local_arm(
    model: PreTrainedModel,
    scheme: Scheme,
    *,
    decode: Callable[[list[int]], str],
    stop_ids: frozenset[int],
    kernel: str,
    prefill_chunk: int,
    prefix_sharing: bool,
) -> Arm:
    """A method as an arm: opening it extends the model, closing it puts the model back."""

    @contextmanager
    def open_arm() -> Iterator[Target]:
        with _extend(model, scheme, kernel) as handle:
            yield LocalTarget(
                model, handle, decode, stop_ids, prefill_chunk, prefix_sharing=prefix_sharing
            )

    with _extend(model, scheme, kernel) as handle:
        backend = handle.kernel_name or str(model.config._attn_implementation)
    proof = prove(model, scheme, kernel)
    return Arm(scheme.method, scheme.to_dict(), open_arm, backend, proof)


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


_PROBE_TOKENS = 64
# A prompt within one chunk runs the plain model's own kernel: equal up to rounding.
_SAME = 0.02
# Rounding of the merged parts, seen where positions are still true, against the effect of the
# clamped positions behind them: 0.005 and 0.024 on a bfloat16 model of 135M.
_SIGNAL_OVER_NOISE = 2.0


class UnprovenMethodError(UserError):
    """The method that was asked for is not the one that runs."""


def prove(model: PreTrainedModel, scheme: Scheme, kernel: str) -> Mapping[str, Any]:
    """Show at the cost of one layer that the method is at work, so that no silent no-op passes.

    DCA must leave a short prompt as it is, and must change what the first layer gives for tokens
    that lie a quarter beyond the chunk size; methods that change frequencies must change even a
    short prompt. `verified` is False where an effect is there but drowns in rounding.
    """
    method = scheme.method
    if method == "none":
        return {"verified": True, "by": "the model is unchanged"}
    window = scheme.chunk_size or 0
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    tokens = window + max(_PROBE_TOKENS, window // 4)
    ids = torch.randint(0, vocabulary, (1, tokens), generator=generator).to(input_device(model))
    short = ids[:, :_PROBE_TOKENS]
    plain_short, plain_long = _hidden(model, short, None), _hidden(model, ids, 1)
    with _extend(model, scheme, kernel) as handle:
        with handle.request(_PROBE_TOKENS):
            short_change = _change(_hidden(model, short, None), plain_short)
        # At L0 or below YaRN's temperature is 1, so that positions are all that differs.
        with handle.request(min(tokens, scheme.original_length)):
            long_states = _hidden(model, ids, 1)
    last = slice(-_PROBE_TOKENS, None)
    layer_change = _change(long_states[last], plain_long[last])
    if layer_change == 0.0:
        raise UnprovenMethodError(
            f"--methods {method}: it is not at work: the first layer gives the same for {tokens} "
            "tokens with it and without it"
        )
    # Frequencies and YaRN's factor change everything; plain DCA nothing within one chunk.
    rounding = 0.0
    if window and scheme.factor is None:
        if short_change > _SAME:
            raise UnprovenMethodError(
                f"--methods {method}: it changes a prompt of {_PROBE_TOKENS} tokens by "
                f"{short_change:.1%}: within one chunk it must not"
            )
        true_positions = slice(window - _PROBE_TOKENS, window)
        rounding = _change(long_states[true_positions], plain_long[true_positions])
    return {
        "verified": layer_change > _SIGNAL_OVER_NOISE * rounding,
        "tokens": tokens,
        "layer_change": float(f"{layer_change:.3g}"),
        "rounding": float(f"{rounding:.3g}"),
        "short_change": float(f"{short_change:.3g}"),
    }


def _hidden(model: PreTrainedModel, ids: torch.Tensor, layers: int | None) -> torch.Tensor:
    """Hidden states (tokens, width) after the first `layers` layers, or after all of them."""
    base: Any = model.base_model
    config, whole = base.config, base.config.num_hidden_layers
    # Decoders of transformers run `self.layers[: self.config.num_hidden_layers]`.
    config.num_hidden_layers = layers or whole
    try:
        with torch.inference_mode():
            states: torch.Tensor = base(ids, use_cache=False).last_hidden_state[0]
    finally:
        config.num_hidden_layers = whole
    return states


def _change(states: torch.Tensor, plain: torch.Tensor) -> float:
    return float((states.float() - plain.float()).norm() / plain.float().norm())


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
