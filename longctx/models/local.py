"""A transformers model on this machine as the model of a needle run. Loads weights when told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig

from longctx import tiny
from longctx.attention import Scheme
from longctx.eval import estimate
from longctx.eval.protocol import Request, Session
from longctx.models import dtypes
from longctx.models.base import Loaded, Model
from longctx.models.plain import matmul_rate, sharing_obstacle
from longctx.models.schemes import (
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
    load_model,
    load_tokenizer,
    locate,
    shape_of,
)
from longctx.options.needle import NeedleOptions


@dataclass(frozen=True, kw_only=True)
class LocalModel(Model):
    options: NeedleOptions
    source: Source
    model_config: PretrainedConfig
    chosen: dtypes.DtypeChoice
    device: str
    device_map: str
    local_schemes: Mapping[str, Scheme]
    engine_notes: list[str] = field(default_factory=list)  # known once loaded

    @property
    def other_dtypes(self) -> tuple[str, ...]:
        return self.chosen.others

    @property
    def prefix_sharing(self) -> bool:
        """Whether it was asked for, and the model allows it."""
        return self.options.prefix_sharing and sharing_obstacle(self.model_config) is None

    def banner(self) -> list[str]:
        lines = [str(scheme) for scheme in self.local_schemes.values()]
        if self.chosen.note is not None:
            lines.insert(0, self.chosen.note)
        if self.name == tiny.EMBEDDED:
            told = f"the embedded model, trained for this very task; its card: {tiny.CARD}"
            lines.insert(0, told)
        return lines

    def notes(self) -> list[str]:
        obstacle = sharing_obstacle(self.model_config)
        if self.options.prefix_sharing and obstacle is not None:
            told = f"every prompt is computed from its first token: {obstacle}"
            return [*self.engine_notes, told]
        return list(self.engine_notes)

    def session_record(self) -> dict[str, Any]:
        return {
            "device_map": self.options.device_map,
            "dtype_note": self.chosen.note,
            "prefill_chunk": self.options.prefill_chunk,
            "prefix_sharing": self.prefix_sharing,
        }

    def rough_rate(self) -> float | None:
        # A whole model reaches about a third of what its largest products reach.
        return 3 * matmul_rate(self.chosen.dtype, self.device)

    def temperature_at(self, method: str, length: int) -> int:
        return temperature_at(self.local_schemes[method], length)

    def sessions(self, loaded: Loaded | None = None) -> dict[str, Session]:
        options, loaded = self.options, {} if loaded is None else loaded
        if self.name not in loaded:
            loaded[self.name] = load_model(
                self.source, self.model_config, self.chosen.dtype, self.device_map
            )
        asking = Asking(
            options.kernel,
            max(options.config.lengths),
            options.prefill_chunk,
            options.prefix_sharing,
        )
        sessions, notes = sessions_for(
            loaded[self.name], self.tokenizer, self.local_schemes.values(), asking
        )
        self.engine_notes[:] = notes
        return sessions

    def probe(self, sessions: Mapping[str, Session]) -> float | None:
        length = min(1024, max(self.options.config.lengths))
        try:
            with next(iter(sessions.values())) as session:
                answer = session.generate(Request([1] * (length - 1), 1, length))
        except Exception:  # the cells will meet it too, and tell
            return None
        return answer.total_s / estimate.work(self.shape, length, 0)


def local_model(options: NeedleOptions) -> LocalModel:
    """Check what concerns the model: files, methods, dtype, kernel. No weights are loaded."""
    source = locate(options.model, weights=not options.dry_run)
    model_config = load_config(source)
    schemes = settle_schemes(options, model_config, max(options.config.lengths))
    tokenizer = load_tokenizer(source)
    device_map = settle_device_map(options.device_map)
    device = device_of(device_map)
    chosen = dtypes.choose(options.dtype, source, model_config, device, options.output)
    check_kernel(options.kernel, list(schemes), device, chosen.dtype)
    return LocalModel(
        name=options.model,
        kind=model_config.model_type,
        fingerprint=fingerprint(source),
        dtype=chosen.name,
        kernel=options.kernel,
        tokenizer=tokenizer,
        schemes={
            method: {**without_length(scheme), "sources": scheme.sources}
            for method, scheme in schemes.items()
        },
        trained_length=trained_length(model_config, options.original_length, schemes),
        shape=shape_of(model_config),
        bytes_per_value=chosen.dtype.itemsize,
        options=options,
        source=source,
        model_config=model_config,
        chosen=chosen,
        device=device,
        device_map=device_map,
        local_schemes=schemes,
    )
