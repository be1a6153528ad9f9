"""The arm of llama.cpp in serving.py: through llama-cpp-python's own functions, one context.

Each request is a sequence of the context, as in a slot of llama.cpp's server: prompts go in one
behind the other, `_BATCH` tokens a call, and then every call takes a token of each. Logits are
asked for where a token is chosen, the greatest. Keys and values are float16, its default.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving_arms import Clock, Prompts, Run, warm

_BATCH = 512  # tokens of a call at most
_PAGE = 256  # llama.cpp rounds the tokens of a sequence up to it


def load(path: Path) -> Any:
    """The weights, mapped; the arms of all lengths share them."""
    import llama_cpp

    # It prints how it loads, unless this logger of its own is for errors.
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    if loaded is None:
        raise SystemExit(f"--gguf {path}: llama.cpp cannot load it")
    return loaded


@contextmanager
def llama_cpp(
    loaded: Any, clock: Clock, tokens: int, threads: int, max_context: int, requests: int
) -> Iterator[Callable[[Prompts], Run]]:
    """A context with as many sequences as requests, of `max_context` tokens each."""
    with _Sequences(loaded, threads, max_context, requests) as made:

        def forgotten(ids: list[int]) -> None:
            for _ in made.prefill([ids]):
                pass
            made.forget()

        def run(prompts: Prompts) -> Run:
            warm(prompts, forgotten)
            answers: list[list[int]] = [[] for _ in prompts]
            first = [0.0] * len(prompts)
            began = clock()
            for sequence, token in made.prefill(prompts):
                first[sequence] = clock() - began
                answers[sequence].append(token)
            times = [clock()]
            for position in range(len(prompts[0]), len(prompts[0]) + tokens - 1):
                new = made.step([answer[-1] for answer in answers], position)
                times.append(clock())
                for answer, token in zip(answers, new, strict=True):
                    answer.append(token)
            made.forget()
            return Run(first, [b - a for a, b in itertools.pairwise(times)], answers)

        yield run


class _Sequences:
    """A context of llama.cpp, and the one batch that everything goes through."""

    def __init__(self, loaded: Any, threads: int, max_context: int, requests: int) -> None:
        import llama_cpp
        import numpy as np

        self._lib, self._np = llama_cpp, np
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = requests * (-(-max_context // _PAGE) * _PAGE)
        params.n_batch = params.n_ubatch = _BATCH
        params.n_seq_max = requests
        params.n_threads = params.n_threads_batch = threads
        # Flash attention, its default on a CPU, and a stretch of keys for each sequence: the faster
        # of both choices in prefill and in steps.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(loaded, params)
        if self._context is None:
            raise RuntimeError(f"llama.cpp makes no context of {params.n_ctx} tokens")
        vocabulary = llama_cpp.llama_model_get_vocab(loaded)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def __enter__(self) -> _Sequences:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)

    def forget(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def prefill(self, prompts: Prompts) -> Iterator[tuple[int, int]]:
        """Each sequence and its first token, once that is there."""
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for began in range(0, len(rows), _BATCH):
            part = rows[began : began + _BATCH]
            ended = [sequence for _, _, sequence, last in part if last]
            yield from zip(ended, self._decode(part), strict=True)

    def step(self, tokens: Sequence[int], position: int) -> list[int]:
        """The next token of each sequence, all as long."""
        rows = [(token, position, sequence, True) for sequence, token in enumerate(tokens)]
        return self._decode(rows)

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Rows of (token, position, sequence, whether its logits are wanted); the greatest of
        those."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = wanted
        if code := self._lib.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode of {len(rows)} tokens returned {code}")
        return [self._greatest(index) for index, row in enumerate(rows) if row[3]]

    def _greatest(self, index: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, index)
        return int(self._np.argmax(self._np.ctypeslib.as_array(logits, (self._vocabulary,))))
