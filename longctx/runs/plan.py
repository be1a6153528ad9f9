"""A model by its name, and its plan for each set of GPUs. Weights are never read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from longctx.attention.config import resolve
from longctx.errors import UserError
from longctx.models import plan as planning
from longctx.models import qwen2
from longctx.models import source as loading
from longctx.models.parameters import WEIGHTS
from longctx.models.plan import Placement, PlannedModel
from longctx.options.engine import EngineSettings


@dataclass(frozen=True)
class MemoryPlan:
    """A model at a length; the ways to hold it, for each set of GPUs, and the best of each."""

    model: PlannedModel
    made_for: int  # tokens
    by_set: Sequence[Sequence[Placement]]
    chosen: Sequence[Placement]

    def to_dict(self) -> dict[str, Any]:
        every = [option for found in self.by_set for option in found]
        return planning.to_dict(self.model, every, list(self.chosen))


def make_plan(
    model: str, context: int | None, gpus: str, weights: str, kv_dtype: str = "auto"
) -> MemoryPlan:
    """
    Raises:
        UserError: no such model, or arguments that make no sense.
    """
    sets = planning.parse_gpus(gpus)
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights}: use one of {', '.join(WEIGHTS)}")
    if kv_dtype not in ("auto", "int8"):
        raise UserError(f"--kv-dtype {kv_dtype}: use auto or int8")
    name, config, made_for = _config(model)
    measured = planning.model_of(
        name,
        config,
        context=context or made_for,
        weights=weights,
        step_tokens=EngineSettings.chunk_budget,
        logit_rows=planning.logit_rows(EngineSettings.max_running),
        kv_dtype=kv_dtype,
    )
    by_set = [planning.options_for(measured, each) for each in sets]
    return MemoryPlan(measured, made_for, by_set, [planning.best(found) for found in by_set])


def _config(model: str) -> tuple[str, Any, int]:
    """Name, transformers config, and the tokens that the model is made for."""
    member = None if Path(model).expanduser().exists() else qwen2.find(model)
    if member is not None:
        made = member.config()
        return model, AutoConfig.for_model(made.pop("model_type"), **made), member.context
    if "/" not in model and not Path(model).exists() and model.lower().startswith("qwen"):
        names = [id.removeprefix("Qwen/") for each in qwen2.MEMBERS for id in each.ids]
        near = difflib.get_close_matches(model, names, n=1, cutoff=0.0)
        raise UserError(
            f"MODEL {model}: neither a directory nor a model of `longctx models`: did you mean "
            f"{near[0]}?"
        )
    source = loading.locate(model, weights=False)
    config = loading.load_config(source)
    try:
        window = resolve(config, "none").original_length
    except ValueError as error:
        raise UserError(f"MODEL {model}: {error}: pass --context") from error
    return model, config, window
