"""Before a perplexity run: every argument checked against model, tokenizer and text, no weights.

Gives what a dry run prints and a real run needs. Does not run or write anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from longctx.attention import Scheme
from longctx.chat.encoder import ChatEncoder
from longctx.errors import UserError
from longctx.eval.format import show_bytes, show_length, show_seconds
from longctx.eval.perplexity.passes import TASK, Measurement, PassIdentity, tokens_read, work_of
from longctx.eval.runfolder.folder import describe
from longctx.eval.runfolder.record_schema import PerplexityRecord
from longctx.eval.runfolder.run_schema import PerplexityRunJson
from longctx.eval.texts import corpus
from longctx.eval.texts.files import Reading
from longctx.models import dtypes, quantize
from longctx.models.checks import check_model
from longctx.models.local import LocalSettings, local_model
from longctx.models.logprobs import moving_rope, peak_bytes
from longctx.models.plain import matmul_rate
from longctx.models.schemes import (
    check_kernel,
    device_of,
    settle_device_map,
    settle_schemes,
    temperature_at,
    trained_length,
    without_length,
)
from longctx.models.source import (
    Source,
    fingerprint,
    load_config,
    load_tokenizer,
    locate,
    shape_of,
    tokenizer_sha256,
)
from longctx.models.vllm_session import VllmModel, vllm_model
from longctx.options.perplexity import PerplexityOptions
from longctx.runs.temperature import temperature_of


@dataclass(frozen=True)
class PerplexityPlan:
    """What is about to be done, in figures."""

    passes: int
    done: int
    to_do: int
    tokens: int
    longest: int
    seconds: float
    seconds_from: str
    peak_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.passes} passes: {self.done} done, {self.to_do} to do · {self.tokens:,} tokens "
            f"· about {show_seconds(self.seconds)} ({self.seconds_from}) · KV cache and logits "
            f"{show_bytes(self.peak_bytes)} at {show_length(self.longest)}"
        )


@dataclass(frozen=True)
class PreparedPerplexity:
    """Everything that is known before weights are loaded."""

    options: PerplexityOptions
    source: Source
    model_config: PretrainedConfig
    tokenizer: Any
    chosen: dtypes.DtypeChoice
    device: str
    device_map: str
    kept: torch.dtype
    schemes: Mapping[str, Scheme]
    trained_length: int
    measurement: Measurement
    vllm: VllmModel | None = None

    @property
    def bos_words(self) -> str:
        begin = self.measurement.identity.begin
        if not begin:
            return "no beginning-of-sequence token"
        if self.options.config.metric == "rolling":
            return f"token {begin[0]} before the first window, not counted in its length"
        return f"beginning-of-sequence token {begin[0]} before every window, counted in its length"

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change from one run to the next in the same folder."""
        identity, config = self.measurement.identity, self.options.config
        sums = [document.sha256 for document in self.measurement.corpus.documents]
        return {
            "model": identity.model,
            "dtype": identity.dtype,
            "kernel": identity.kernel,
            "tokenizer_sha256": identity.tokenizer_sha256,
            "bos": self.bos_words,
            "longest": config.longest,
            "documents_sha256": hashlib.sha256(json.dumps(sums).encode()).hexdigest(),
            "seed": config.seed,
        }

    @property
    def output(self) -> Path:
        """The same command finds its folder again; other texts, schemes or models get their own."""
        if self.options.output is not None:
            return self.options.output
        return self.default_output(self.chosen.name)

    def default_output(self, dtype: str) -> Path:
        settings = {**self.settings, "dtype": dtype}
        parts = json.dumps([settings, self.measurement.schemes], sort_keys=True)
        digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
        return Path("runs") / f"perplexity-{Path(self.options.model).name}-{digest}"

    def describe(self) -> PerplexityRunJson:
        """run.json for this run."""
        config = self.options.config
        run: PerplexityRunJson = describe(
            task=TASK,
            grid={"methods": list(self.schemes), "lengths": list(config.lengths)},
            settings=self.settings,
            schemes={
                method: {**without_length(scheme), "sources": scheme.sources}
                for method, scheme in self.schemes.items()
            },
            model={
                "name": self.options.model,
                "type": self.model_config.model_type,
                "fingerprint": self.measurement.identity.model,
            },
            about={
                "view": config.view,
                "text": self.measurement.corpus.describe(),
                "by_length": sorted(self.measurement.by_length),
            },
            trained_length=self.trained_length,
            session={
                "command": shlex.join(["longctx", *sys.argv[1:]]),
                "pid": os.getpid(),
                "device_map": self.options.device_map,
                "dtype_note": self.chosen.note,
                "quantize": self.options.quantize,
                "kv_dtype": dtypes.name_of(self.kept),
                "prefill_chunk": self.options.prefill_chunk,
            },
        )
        return run

    def work_of(self, each: Any) -> float:
        shape = shape_of(self.model_config)
        return work_of(each, shape, shape.hidden * shape.vocabulary)

    def plan(self, records: Mapping[str, PerplexityRecord]) -> PerplexityPlan:
        """Figures of what is to be done; time from finished passes or from a small product."""
        everything = self.measurement.passes()
        to_do = self.measurement.pending(records)[: self.options.config.limit]
        seconds_from, rate = "from finished passes", self.rate(records)
        if rate is None:
            # A whole model reaches about a third of what its largest products reach.
            seconds_from, rate = "a rough guess", 3 * matmul_rate(self.chosen.dtype, self.device)
        shape, longest = shape_of(self.model_config), self.options.config.longest
        size = self.chosen.dtype.itemsize
        return PerplexityPlan(
            passes=len(everything),
            done=len(everything) - len(self.measurement.pending(records)),
            to_do=len(to_do),
            tokens=sum(map(tokens_read, to_do)),
            longest=longest,
            seconds=rate * sum(map(self.work_of, to_do)),
            seconds_from=seconds_from,
            peak_bytes=peak_bytes(
                longest,
                self.options.prefill_chunk,
                shape.vocabulary,
                shape.kv_bytes(1, size),
                size,
            ),
        )

    def rate(self, records: Mapping[str, PerplexityRecord]) -> float | None:
        """Seconds per unit of work over finished passes of this run; None without any."""
        done = [
            (self.work_of(each), records[key]["total_s"])
            for each in self.measurement.passes()
            if (key := self.measurement.key(each)) in records and records[key]["status"] == "ok"
        ]
        spent = sum(seconds for _, seconds in done)
        return spent / sum(work for work, _ in done) if spent else None


def prepare(options: PerplexityOptions) -> PreparedPerplexity:
    """Check every argument against model, tokenizer and text, without loading weights."""
    config = options.config
    source = locate(options.model, weights=not options.dry_run)
    model_config = load_config(source)
    schemes = settle_schemes(options, model_config, config.longest)
    tokenizer = load_tokenizer(source)
    check_model(source, model_config, tokenizer, options.original_length)
    device_map = settle_device_map(options.device_map)
    device = device_of(device_map)
    quantize.check(options.quantize, source, model_config, device)
    chosen = dtypes.choose(
        options.dtype, source, model_config, device, options.output, options.quantize
    )
    kept = dtypes.kept(options.kv_dtype, device, chosen.dtype)
    check_kernel(options.kernel, list(schemes), device, dtypes.computes(kept, chosen.dtype))
    numbers = quantize.fingerprint_of(fingerprint(source), options.quantize, device)
    vllm = _vllm_model(options, schemes) if options.engine == "vllm" else None
    begin = (_prefix if config.metric == "rolling" else _begin)(tokenizer, config.bos)
    encode = ChatEncoder(tokenizer, "none").contents
    tokens = config.longest - len(begin)
    texts = (
        corpus.generate(tokens, config.documents, config.seed, encode)
        if options.text is None
        else corpus.load(
            options.text,
            tokens,
            config.documents,
            encode,
            Reading("--text", options.encoding, options.strict),
        )
    )
    moving = moving_rope(model_config) is not None
    plain = {method: without_length(scheme) for method, scheme in schemes.items()}

    def at(method: str, length: int) -> int:
        return temperature_at(schemes[method], length)

    measurement = Measurement(
        config,
        PassIdentity(
            model=dtypes.kept_in_fingerprint(numbers, kept, chosen.dtype),
            dtype=chosen.name,
            kernel=options.kernel if vllm is None else vllm.kernel,
            tokenizer_sha256=tokenizer_sha256(tokenizer),
            begin=begin,
        ),
        texts,
        plain,
        frozenset(m for m, scheme in schemes.items() if scheme.uses_request_length or moving),
        at,
        temperature_of(plain, at),
    )
    prepared = PreparedPerplexity(
        options=options,
        source=source,
        model_config=model_config,
        tokenizer=tokenizer,
        chosen=chosen,
        device=device,
        device_map=device_map,
        kept=kept,
        schemes=schemes,
        trained_length=trained_length(model_config, options.original_length, schemes),
        measurement=measurement,
        vllm=vllm,
    )
    if options.output is None and not prepared.output.exists():
        # A folder that this command made on a machine of another kind goes on in its own dtype.
        for dtype in chosen.others:
            if (found := prepared.default_output(dtype)).exists():
                return prepare(replace(options, output=found))
    return prepared


def _vllm_model(options: PerplexityOptions, schemes: Mapping[str, Scheme]) -> VllmModel:
    """
    Raises:
        UserError: what vLLM does not run, or windows whose temperature it cannot know.
    """
    config = options.config
    for method, scheme in schemes.items():
        if scheme.uses_request_length and config.metric in ("window", "rolling"):
            raise UserError(
                f"--metric {config.metric}: vLLM takes the temperature of {method} from a window's "
                "own tokens, and the last one may have fewer: use --metric prefix or position, or "
                "leave --engine out"
            )
    asked: dict[str, Any] = {
        "longest": config.longest,
        "weights": not options.dry_run,
        "prefix_sharing": False,
    }
    names = {field.name for field in fields(LocalSettings)} - set(asked)
    settings = LocalSettings(**{name: getattr(options, name) for name in names}, **asked)
    return vllm_model(local_model(settings))


def _prefix(tokenizer: Any, bos: str) -> tuple[int, ...]:
    """What the first token of a rolling window is predicted by, as lm-evaluation-harness has it:
    the beginning-of-sequence token, else the end's."""
    if bos != "auto":
        raise UserError(f"--bos {bos}: --metric rolling has a rule of its own: use auto")
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return (token,)
    raise UserError(
        "--metric rolling: this tokenizer has no token of the beginning or the end to begin with: "
        "use --metric window"
    )


def _begin(tokenizer: Any, bos: str) -> tuple[int, ...]:
    """What stands before every window."""
    token = tokenizer.bos_token_id
    if bos == "always" and token is None:
        raise UserError("--bos always: this tokenizer has no such token: use auto or never")
    added = tokenizer("a")["input_ids"][:1] == [token]
    wanted = bos == "always" or (bos == "auto" and token is not None and added)
    return (token,) if wanted else ()
