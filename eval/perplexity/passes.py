"""The loss of every token of every document under every method: what perplexities are made of.

The primitive is one pass: the negative log-likelihood, in nats, of each token given what stands
before it. A static scheme and plain DCA give a token the same loss however much text follows, so
one pass over the longest length holds all the shorter ones. What depends on the length (the
temperature of yarn+dca, a rotary that follows the length) gets a pass for every length.

    prefix, position   pass [0 ------------------- L)
    window             [0 ---- L)                      every token is predicted once,
                         ..[stride ---- )              with at least L - stride before it
                              ..[2 stride ---- )
    rolling            b[0 -- L)                       windows that share one token: every token is
                              [L - 1 ---- 2L)          predicted once, the first by the token b;
                                  [N - L - 1 ---- N)   the last one reaches back to be full

`rolling` is the rolling log-likelihood of lm-evaluation-harness: L tokens are read at once, and
the last loss is that of the token behind them.

Sees models through a protocol; prints nothing; a figure is made elsewhere, from records.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from longctx.errors import UserError
from longctx.eval.estimate import ModelSizes, work
from longctx.eval.format import show_length
from longctx.eval.perplexity.config import PerplexityConfig
from longctx.eval.protocol import (
    Session,
    Temperature,
    TemperatureAt,
    exactly,
    no_temperature,
    with_temperature,
)
from longctx.eval.runfolder.folder import timestamp
from longctx.eval.runfolder.record_schema import PerplexityRecord
from longctx.eval.runfolder.records import SCHEMA, RecordFile
from longctx.eval.runfolder.schema_parts import PassScheme
from longctx.eval.texts.corpus import Corpus, Document

TASK = "perplexity"
_DIGITS = 6  # of a loss in nats; what float32 logits hold


@dataclass(frozen=True)
class Pass:
    """One document's first `tokens` tokens under one method, in windows of `window`."""

    method: str
    document: int
    tokens: int
    window: int
    stride: int | None = None

    @property
    def rolling(self) -> bool:
        """Windows that stand side by side: of `window`, the stride is smaller."""
        return self.stride == self.window


class Window(NamedTuple):
    """Tokens start ... stop of a document are read, those from `scored` on are counted."""

    start: int
    stop: int
    scored: int


@dataclass(frozen=True)
class PassIdentity:
    """What stays the same over a run and is part of every key. `begin` stands before every window:
    the beginning-of-sequence token, or nothing."""

    model: str
    dtype: str
    kernel: str
    tokenizer_sha256: str
    begin: tuple[int, ...]


class PassObserver(Protocol):
    def finished(self, done: Pass, record: PerplexityRecord) -> None: ...


@dataclass(frozen=True)
class Measurement:
    """Documents, methods and lengths, ready to run. `by_length` are the methods whose losses
    depend on the length of the pass."""

    config: PerplexityConfig
    identity: PassIdentity
    corpus: Corpus
    schemes: Mapping[str, Mapping[str, Any]]
    by_length: frozenset[str]
    temperature_at: TemperatureAt = exactly
    temperature: Temperature = no_temperature

    def passes(self) -> list[Pass]:
        """Document by document: a run that is stopped has whole documents to compare."""
        config, stride = self.config, self.config.view["stride"]
        found = []
        for document in range(len(self.corpus.documents)):
            for method in self.schemes:
                if config.metric == "window":
                    for length in config.lengths:
                        step = stride if length < config.longest else None
                        found.append(Pass(method, document, config.longest, length, step))
                elif config.metric == "rolling":
                    for length in config.lengths:
                        found.append(Pass(method, document, config.longest, length, length))
                else:
                    own = config.lengths if method in self.by_length else (config.longest,)
                    found += [Pass(method, document, length, length) for length in own]
        return found

    def scheme(self, of: Pass) -> dict[str, Any]:
        """Of a pass, as its key has it."""
        length = None
        if of.method in self.by_length:
            length = self.temperature_at(of.method, of.window)
        return {**self.schemes[of.method], "request_length": length}

    def recorded_scheme(self, of: Pass) -> PassScheme:
        """The same with its temperature, which follows from the rest."""
        return with_temperature(self.scheme(of), self.temperature(of.method, of.window))

    def key(self, of: Pass) -> str:
        identity = self.identity
        parts = {
            "schema": SCHEMA,
            "task": TASK,
            "document": self.corpus.documents[of.document].sha256,
            "scheme": self.scheme(of),
            **{"tokens": of.tokens, "window": of.window, "stride": of.stride},
            **{"model": identity.model, "dtype": identity.dtype, "kernel": identity.kernel},
            **{"tokenizer": identity.tokenizer_sha256, "begin": list(identity.begin)},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def pending(self, records: Mapping[str, PerplexityRecord]) -> list[Pass]:
        """Passes without a record, and those whose record is an error."""
        done = {key for key, record in records.items() if record["status"] != "error"}
        return [each for each in self.passes() if self.key(each) not in done]

    def run(
        self,
        pending: Sequence[Pass],
        sessions: Mapping[str, Session],
        file: RecordFile[PerplexityRecord],
        observer: PassObserver,
    ) -> None:
        for each in pending:
            with sessions[each.method] as session:
                record = self.run_pass(each, session)
            file.append(record)
            observer.finished(each, record)

    def run_pass(self, each: Pass, session: Session) -> PerplexityRecord:
        """Whatever the session throws becomes the record of a failed pass."""
        document = self.corpus.documents[each.document]
        begin = self.identity.begin
        began = time.perf_counter()
        losses: list[float] | None = None
        error = None
        try:
            losses = token_losses(session, document, each, self.temperature_at, begin)
        except UserError:
            raise  # what a person has to put right stops the run
        except Exception as failure:
            # Out of memory, a kernel's complaint: the other passes go on without this one.
            error = f"{type(failure).__name__}: {' '.join(str(failure).split())[:500]}"
        first = 0 if begin else 1
        return {
            "schema": SCHEMA,
            "key": self.key(each),
            "task": TASK,
            "scheme": self.recorded_scheme(each),
            "document": {"id": document.id, "sha256": document.sha256},
            "tokens": each.tokens,
            "window": each.window,
            "stride": each.stride,
            "status": "error" if losses is None else "ok",
            "error": error,
            "nll": losses,
            "bytes": document.bytes[first : each.tokens - len(begin)],
            "total_s": round(time.perf_counter() - began, 3),
            "backend": session.backend,
            "ts": timestamp(),
        }


def token_losses(
    session: Session,
    document: Document,
    each: Pass,
    temperature_at: TemperatureAt = exactly,
    begin: Sequence[int] = (),
) -> list[float]:
    """The loss of every token that has something before it, in order; each is predicted once.

    Raises:
        ArithmeticError: a loss that is no number.
    """
    ids = document.ids[: each.tokens - len(begin)]
    found: list[float] = []
    for window in windows_of(each, len(ids), len(begin)):
        # In rolling windows the token before the first one is what the beginning is to that.
        before = [] if each.rolling and window.start else begin
        read = [*before, *ids[window.start : window.stop]]
        length = temperature_at(each.method, each.window)
        logprobs = session.logprobs(read, request_length=length)
        losses = -logprobs[len(logprobs) - (window.stop - window.scored) :]
        if not np.isfinite(losses).all():
            raise ArithmeticError(f"a loss in tokens {window.scored}-{window.stop} is no number")
        found += [round(float(loss), _DIGITS) for loss in losses]
    return found


def windows(tokens: int, room: int, stride: int | None, first: int) -> Iterator[Window]:
    """Windows of at most `room` tokens, each `stride` behind the one before; the last one ends
    with the document. `first` is the first token that has something before it."""
    scored = first
    for start in range(0, tokens, stride or tokens):
        stop = min(start + room, tokens)
        yield Window(start, stop, scored)
        if stop == tokens:
            return
        scored = stop


def windows_of(each: Pass, tokens: int, begin: int = 0) -> Iterator[Window]:
    """Of a pass over so many tokens, behind `begin` ones that stand before windows."""
    if each.rolling:
        return rolling_windows(tokens, each.window)
    return windows(tokens, each.window - begin, each.stride, 0 if begin else 1)


def rolling_windows(tokens: int, room: int) -> Iterator[Window]:
    """Windows that predict `room` tokens each and begin with the token before them; the last one
    predicts what is left and reaches back to `room` tokens before the end. The first one has no
    such token: the caller puts one there."""
    scored = 0
    while scored < tokens:
        stop = min(scored + room, tokens)
        yield Window(max(stop - room - 1, 0) if scored else 0, stop, scored)
        scored = stop


def work_of(each: Pass, shape: ModelSizes, output_parameters: int) -> float:
    """Floating-point operations of a pass; the output layer reads every token here."""
    read = [w.stop - w.start for w in windows_of(each, each.tokens)]
    return sum(work(shape, tokens, 0) + 2.0 * output_parameters * tokens for tokens in read)


def tokens_read(each: Pass) -> int:
    return sum(w.stop - w.start for w in windows_of(each, each.tokens))


def show_pass(each: Pass) -> str:
    windowed = "" if each.stride is None else f" of {show_length(each.tokens)}"
    return f"{each.method} document {each.document + 1}, {show_length(each.window)}{windowed}"
