"""A transformers model on this machine as the model of a needle run. Loads weights when told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from longctx import tiny
from longctx.attention import Scheme
from longctx.eval import estimate
from longctx.eval.protocol import Request, Session
from longctx.models import dtypes, quantize
from longctx.models.base import LoadedModels, Model
from longctx.models.checks import check_model
from longctx.models.plain import matmul_rate, sharing_obstacle
from longctx.models.schemes import (
    beyond,
    check_kernel,
    device_of,
    settle_device_map,
    settle_schemes,
    temperature_at,
    trained_length,
    without_length,
)
from longctx.models.served import Asking, sessions_for
from longctx.models.source import (
    Source,
    fingerprint,
    load_config,
    load_tokenizer,
    locate,
    shape_of,
)


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """Which model, under which methods, and how it is asked. None stands where a rule decides.

    Attributes:
        longest: tokens of the longest prompt and its answer.
        output: a folder that a run goes on in, whose dtype is kept.
        weights: whether they will be loaded; a hub's need not be fetched otherwise.
    """

    model: str
    methods: tuple[str, ...] | None
    chunk_size: int | None
    local_size: int | None
    original_length: int | None
    cap: str | None
    factor: float | None
    kernel: str
    dtype: str
    quantize: str
    kv_dtype: str
    device_map: str
    prefill_chunk: int
    prefix_sharing: bool
    longest: int
    output: Path | None
    weights: bool


@dataclass(frozen=True, kw_only=True)
class LocalModel(Model):
    settings: LocalSettings
    source: Source
    model_config: PretrainedConfig
    chosen: dtypes.DtypeChoice
    device: str
    device_map: str
    kept: torch.dtype
    local_schemes: Mapping[str, Scheme]
    engine_notes: list[str] = field(default_factory=list)  # known once loaded

    @property
    def other_dtypes(self) -> tuple[str, ...]:
        return self.chosen.others

    @property
    def prefix_sharing(self) -> bool:
        """Whether it was asked for, and the model allows it."""
        return self.settings.prefix_sharing and sharing_obstacle(self.model_config) is None

    def banner(self) -> list[str]:
        lines = [str(scheme) for scheme in self.local_schemes.values()]
        longest = self.settings.longest
        lines += [note for each in self.local_schemes.values() if (note := beyond(each, longest))]
        if self.chosen.note is not None:
            lines.insert(0, self.chosen.note)
        if self.name == tiny.EMBEDDED:
            told = f"the embedded model, trained for this very task; its card: {tiny.CARD}"
            lines.insert(0, told)
        return lines

    def notes(self) -> list[str]:
        notes = list(self.engine_notes)
        linear = dtypes.linear_words(self.chosen.dtype, self.device)
        if linear is not None and "plain" in linear:
            notes.append(linear)
        obstacle = sharing_obstacle(self.model_config)
        if self.settings.prefix_sharing and obstacle is not None:
            notes.append(f"every prompt is computed from its first token: {obstacle}")
        return notes

    def session_record(self) -> dict[str, Any]:
        return {
            "device_map": self.settings.device_map,
            "dtype_note": self.chosen.note,
            "quantize": self.settings.quantize,
            "kv_dtype": dtypes.name_of(self.kept),
            "prefill_chunk": self.settings.prefill_chunk,
            "prefix_sharing": self.prefix_sharing,
        }

    def rough_rate(self) -> float | None:
        # A whole model reaches about a third of what its largest products reach.
        return 3 * matmul_rate(self.chosen.dtype, self.device)

    def temperature_at(self, method: str, length: int) -> int:
        return temperature_at(self.local_schemes[method], length)

    def sessions(self, loaded: LoadedModels | None = None) -> dict[str, Session]:
        settings, loaded = self.settings, LoadedModels() if loaded is None else loaded
        if self.name not in loaded:
            loaded[self.name] = quantize.load(
                self.source,
                self.model_config,
                self.chosen.dtype,
                self.device_map,
                settings.quantize,
                self.device,
            )
        model = loaded[self.name]
        asking = Asking(
            settings.kernel,
            settings.longest,
            settings.prefill_chunk,
            settings.prefix_sharing,
            None if self.kept == self.chosen.dtype else self.kept,
        )
        told = quantize.notes(model, settings.quantize, self.chosen.dtype, self.device)
        sessions, notes = sessions_for(model, self.tokenizer, self.local_schemes.values(), asking)
        self.engine_notes[:] = [*told, *notes]
        return sessions

    def probe(self, sessions: Mapping[str, Session]) -> float | None:
        length = min(1024, self.settings.longest)
        try:
            with next(iter(sessions.values())) as session:
                answer = session.generate(Request([1] * (length - 1), 1, length))
        except Exception:  # the cells will meet it too, and tell
            return None
        return answer.total_s / estimate.work(self.shape, length, 0)


def local_model(settings: LocalSettings) -> LocalModel:
    """Check what concerns the model: files, methods, dtype, kernel. No weights are loaded."""
    source = locate(settings.model, weights=settings.weights)
    model_config = load_config(source)
    schemes = settle_schemes(settings, model_config, settings.longest)
    tokenizer = load_tokenizer(source)
    check_model(source, model_config, tokenizer, settings.original_length)
    device_map = settle_device_map(settings.device_map)
    device = device_of(device_map)
    quantize.check(settings.quantize, source, model_config, device)
    chosen = dtypes.choose(
        settings.dtype, source, model_config, device, settings.output, settings.quantize
    )
    kept = dtypes.kept(settings.kv_dtype, device, chosen.dtype)
    check_kernel(settings.kernel, list(schemes), device, dtypes.computes(kept, chosen.dtype))
    numbers = quantize.fingerprint_of(fingerprint(source), settings.quantize, device)
    return LocalModel(
        name=settings.model,
        kind=model_config.model_type,
        fingerprint=dtypes.kept_in_fingerprint(numbers, kept, chosen.dtype),
        dtype=chosen.name,
        kernel=settings.kernel,
        tokenizer=tokenizer,
        schemes={
            method: {**without_length(scheme), "sources": scheme.sources}
            for method, scheme in schemes.items()
        },
        trained_length=trained_length(model_config, settings.original_length, schemes),
        shape=shape_of(model_config),
        bytes_per_value=chosen.dtype.itemsize,
        settings=settings,
        source=source,
        model_config=model_config,
        chosen=chosen,
        device=device,
        device_map=device_map,
        kept=kept,
        local_schemes=schemes,
    )
