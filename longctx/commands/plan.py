"""`longctx plan` and `longctx models`: what a model needs, and which models there are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from longctx.commands.command import command
from longctx.options import shared
from longctx.options.declare import Argument, Option

# From a card that people have to the machines that large models are served on.
_USUAL_GPUS = "1x24GB,1x48GB,1x80GB,2x80GB,4x80GB,8x80GB"


@dataclass(frozen=True)
class PlanOptions:
    model: Annotated[
        str,
        Argument(
            "A model of `longctx models`, a directory with config.json, or a hub id "
            "(its config alone is fetched)."
        ),
    ]
    context: Annotated[
        int | None,
        Option(
            "Tokens of one context, as 128K. Default: what the model is made for.",
            read=shared.tokens,
        ),
    ] = None
    gpus: Annotated[str, Option("Count and size, as 4x80GB; several with commas.")] = _USUAL_GPUS
    weights: Annotated[str, Option("bf16, int8 or int4.")] = "bf16"
    kv_dtype: Annotated[
        str,
        Option(
            "Of keys and values on this machine's CPU: auto or int8. GPUs keep them in bfloat16."
        ),
    ] = shared.AUTO
    json: shared.Json = False


@command
def plan(options: PlanOptions) -> None:
    """Say what memory a model needs at a length and which GPUs hold it, before any download."""
    from longctx.runs.plan import make_plan
    from longctx.runs.plan_table import print_plan

    wanted = options.model, options.context, options.gpus
    made = make_plan(*wanted, options.weights, options.kv_dtype)
    if options.json:
        print(json.dumps(made.to_dict()))
    else:
        print_plan(made)


@command
def models(options: shared.JsonOption) -> None:
    """List the Qwen2 family: window, context, method, keys and values per token, licence."""
    from longctx.runs.plan_table import models_as_rows, print_models

    if options.json:
        print(json.dumps(models_as_rows()))
    else:
        print_models()
