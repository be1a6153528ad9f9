"""`longctx serve`: flags, environment and one TOML file become a server.

Imports nothing heavy: `longctx --help` reads this file.
"""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from longctx import tiny
from longctx.commands import options
from longctx.errors import UserError
from longctx.serve.settings import LOG_FORMATS, Limits, ServeSettings, parse_bytes

_defaults = ServeSettings(tiny.EMBEDDED)
_SERVER, _LOAD = "Server", "Load and memory"


def serve(
    context_: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            envvar="LONGCTX_MODEL",  # arguments get none by themselves
            help="A directory, hub id or GGUF file. Default: the small model in the package.",
        ),
    ] = tiny.EMBEDDED,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on.", rich_help_panel=_SERVER),
    ] = _defaults.host,
    port: Annotated[
        int,
        typer.Option(help="Port; 0 takes a free one.", rich_help_panel=_SERVER),
    ] = _defaults.port,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key that clients must send. Better in the environment than on a command line.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name that this loopback server answers to. Repeatable.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    served_name: Annotated[
        str | None,
        typer.Option(
            help="The model's name for clients. Default: the last part of MODEL.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    log_format: Annotated[
        str,
        typer.Option(
            help=f"{' or '.join(LOG_FORMATS)}; never with prompts.",
            rich_help_panel=_SERVER,
        ),
    ] = _defaults.log_format,
    drain_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that running requests get after SIGTERM.", rich_help_panel=_SERVER
        ),
    ] = _defaults.drain_timeout,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these options; flags and environment win.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Position scheme, as in `longctx needle --methods`. Default: the family's.",
            rich_help_panel=options.SCHEME,
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="Tokens of prompt and answer, as 128K. Default: the method's, or what fits.",
            rich_help_panel=options.SCHEME,
        ),
    ] = None,
    chunk_size: options.ChunkSize = None,
    local_size: options.LocalSize = None,
    original_length: options.OriginalLength = None,
    cap: options.Cap = None,
    factor: options.Factor = None,
    kernel: options.Kernel = _defaults.kernel,
    dtype: options.Dtype = _defaults.dtype,
    device_map: options.DeviceMap = _defaults.device_map,
    kv_dtype: Annotated[
        str,
        typer.Option(
            help="Of keys and values: auto, float32, bfloat16 or float16. Default: the model's, "
            "or half of a widened float32 where the context fits only so.",
            rich_help_panel=_LOAD,
        ),
    ] = _defaults.kv_dtype,
    kv_budget: Annotated[
        str | None,
        typer.Option(
            help="Memory for keys and values, as 4G. Default: from what is free.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    chunk_budget: Annotated[
        int,
        typer.Option(
            help="Tokens of one step: lower is fairer, higher is faster.", rich_help_panel=_LOAD
        ),
    ] = _defaults.chunk_budget,
    max_running: Annotated[
        int, typer.Option(help="Requests in one step.", rich_help_panel=_LOAD)
    ] = _defaults.max_running,
    max_waiting: Annotated[
        int,
        typer.Option(help="Requests that may wait; more are answered 429.", rich_help_panel=_LOAD),
    ] = _defaults.max_waiting,
    default_max_tokens: Annotated[
        int,
        typer.Option(
            help="Length of a chat answer where the client names none.", rich_help_panel=_LOAD
        ),
    ] = _defaults.default_max_tokens,
    max_body: Annotated[
        str, typer.Option(help="Largest body, as 64M.", rich_help_panel=_LOAD)
    ] = "64M",
) -> None:
    """Serve a model to OpenAI clients, long prompts included."""
    given = {
        "model": model, "host": host, "port": port, "api_key": api_key,
        "allowed_host": allowed_host, "served_name": served_name, "log_format": log_format,
        "drain_timeout": drain_timeout, "method": method, "context": context,
        "chunk_size": chunk_size, "local_size": local_size, "original_length": original_length,
        "cap": cap, "factor": factor, "kernel": kernel, "dtype": dtype, "device_map": device_map,
        "kv_dtype": kv_dtype, "kv_budget": kv_budget, "chunk_budget": chunk_budget,
        "max_running": max_running, "max_waiting": max_waiting,
        "default_max_tokens": default_max_tokens, "max_body": max_body,
    }  # fmt: skip
    if config is not None:
        chosen = {
            name
            for name in given
            if (source := context_.get_parameter_source(name)) is not None
            and source.name in ("COMMANDLINE", "ENVIRONMENT")
        }
        for name, value in read_config(config, given).items():
            if name not in chosen:
                given[name] = value
    run(settings_of(given))


def read_config(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a TOML file, by their flags' names with - or _.

    Raises:
        UserError: no such file, no TOML, an unknown name or a value of the wrong kind.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not TOML ({error}): correct it") from error
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UserError(
                f"--config {path}: {key} is no option: use one of "
                f"{', '.join(sorted(n.replace('_', '-') for n in known))}"
            )
        values[name] = _of_kind(f"--config {path}: {key}", name, value)
    return values


_NUMBERS = {
    "port": int, "chunk_budget": int, "max_running": int, "max_waiting": int,
    "default_max_tokens": int, "drain_timeout": float, "factor": float,
}  # fmt: skip


def _of_kind(where: str, name: str, value: Any) -> Any:
    """Lengths and amounts may be written as numbers; the rest as the flag takes it."""
    if name == "allowed_host":
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return value
        raise UserError(f"{where} = {value!r}: a list of names is needed")
    if name in _NUMBERS:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole or (_NUMBERS[name] is float and isinstance(value, float)):
            return value
        raise UserError(f"{where} = {value!r}: a number is needed")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where} = {value!r}: a text is needed")
    return str(value)


def settings_of(given: Mapping[str, Any]) -> ServeSettings:
    """Flags as they were typed, as settings."""
    values = dict(given)
    for name in ("context", "chunk_size", "local_size", "original_length"):
        values[name] = options.tokens(values[name], f"--{name.replace('_', '-')}")
    budget = values["kv_budget"]
    values["kv_budget"] = None if budget is None else parse_bytes(budget, "--kv-budget")
    values["limits"] = Limits(max_body=parse_bytes(values.pop("max_body"), "--max-body"))
    values["allowed_hosts"] = tuple(name.lower() for name in values.pop("allowed_host") or ())
    names = {field.name for field in dataclasses.fields(ServeSettings)}
    return ServeSettings(**{name: value for name, value in values.items() if name in names})


def run(settings: ServeSettings) -> None:
    """Serve until a signal; stderr says at once what is loaded, and the banner that it answers."""
    from longctx.serve import loading, logs
    from longctx.serve.run import serve as serve_until_signal
    from longctx.serve.service import Loaded, Service

    prepared = loading.prepare(settings)
    logs.configure(settings.log_format)
    service = Service(settings, prepared.name, prepared.load, about=prepared.about())

    def tell(loaded: Loaded, url: str) -> None:
        for line in loading.banner(prepared, loaded, url):
            print(line, file=sys.stderr, flush=True)

    def tell_loading(url: str) -> None:
        print(f"loading {prepared.name}, for {url}", file=sys.stderr, flush=True)

    serve_until_signal(service, tell, tell_loading)
