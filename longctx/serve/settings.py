"""What a server is told: flags, environment and TOML file. Knows no HTTP, imports nothing heavy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from longctx.chat.process import LIMITS, TemplateLimits
from longctx.chat.tokens_process import LIMITS as TOKEN_LIMITS
from longctx.chat.tokens_process import TokenLimits
from longctx.errors import UserError
from longctx.options import shared
from longctx.options.declare import Argument, Option
from longctx.options.engine import EngineSettings, most_guesses
from longctx.options.shared import SCHEME, DocumentBudget, DocumentDirectory, parse_bytes, tokens
from longctx.tiny import EMBEDDED

_SERVER, _LOAD, _VLLM = "Server", "Load and memory", "vLLM"
LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")


def is_loopback(host: str) -> bool:
    """Whether a name or address can only mean this machine; `127.0.0.1.example` cannot."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, whatever fits the model."""

    max_n: int = 16  # answers to one prompt
    max_prompts: int = 2048  # of one body
    max_top_logprobs: int = 20
    max_stop: int = 64  # strings, and as many ids
    max_stop_length: int = 512  # characters each
    max_schema: int = 65536  # characters of JSON
    max_schemas_waiting: int = 16  # to be compiled
    schema_memory: int = 256 << 20
    max_messages: int = 4096
    max_tokenized: int = 16 << 20  # characters, where no context bounds them: a second a million
    max_responses: int = 1000  # kept, to be gone on from
    responses_size: int = 64 << 20  # characters of all of them and their conversations


class BodyLimits(NamedTuple):
    """What parsing one large body may cost, in the process where that is tried first."""

    seconds: float = 5.0
    speed: float = 2e6  # bytes that give a second more
    memory: int = 512 << 20
    copies: int = 24  # of the body, in bytes


BODY_LIMITS = BodyLimits()


@dataclass(frozen=True)
class Deadlines:
    """Seconds that a connection may wait. A body has longer the more of it has come."""

    head: float = 20.0
    silence: float = 30.0  # in the middle of a body
    slowest: float = 1000.0  # bytes of a body a second, from then on
    taking: float = 60.0  # of an answer's next byte


@dataclass(frozen=True)
class ServeSettings:
    """A server's options, and what is not asked. None stands where a rule decides."""

    model: Annotated[
        str,
        Argument(
            "A directory, hub id or GGUF file. Default: the small model in the package.",
            metavar="MODEL",
            environment="LONGCTX_MODEL",  # arguments get none by themselves
        ),
    ] = EMBEDDED
    vllm_arguments: Annotated[
        tuple[str, ...],
        Argument("Behind `--`: vLLM's own, with --engine vllm.", metavar="[-- VLLM...]"),
    ] = ()
    host: Annotated[str, Option("Address to listen on.", _SERVER)] = "127.0.0.1"
    port: Annotated[int, Option("Port; 0 takes a free one.", _SERVER)] = 8000
    api_key: Annotated[
        str | None,
        Option(
            "Key that clients must send. Better in the environment than on a command line.",
            _SERVER,
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        Option(
            "Another name that this loopback server answers to. Repeatable.",
            _SERVER,
            name="allowed_host",
        ),
    ] = ()
    served_name: Annotated[
        str | None,
        Option("The model's name for clients. Default: the last part of MODEL.", _SERVER),
    ] = None
    log_format: Annotated[
        LogFormat, Option(f"{' or '.join(LOG_FORMATS)}; never with prompts.", _SERVER)
    ] = "text"
    drain_timeout: Annotated[
        float, Option("Seconds that running requests get after SIGTERM.", _SERVER)
    ] = 120.0
    step_timeout: Annotated[
        float,
        Option(
            "Seconds that one step of the model may take. Then the process ends with exit code 75, "
            "for a supervisor to start it again; half of them, at most 600, make it not ready.",
            _SERVER,
        ),
    ] = 1800.0
    config: Annotated[
        Path | None,
        Option("TOML file with these options; flags and environment win.", _SERVER, is_file=True),
    ] = None
    method: Annotated[
        str | None,
        Option("Position scheme, as in `longctx needle --methods`. Default: the family's.", SCHEME),
    ] = None
    context: Annotated[
        int | None,
        Option(
            "Tokens of prompt and answer, as 128K. Default: the method's, or what fits.",
            SCHEME,
            tokens,
        ),
    ] = None
    chunk_size: shared.ChunkSize = None
    local_size: shared.LocalSize = None
    original_length: shared.OriginalLength = None
    cap: shared.Cap = None
    factor: shared.Factor = None
    kernel: shared.Kernel = EngineSettings.kernel
    dtype: shared.Dtype = shared.AUTO
    quantize: shared.Quantize = shared.PLAIN
    device_map: shared.DeviceMap = shared.AUTO
    kv_dtype: Annotated[
        str,
        Option(
            "Of keys and values: auto, float32, bfloat16, float16, or int8: a byte for each "
            "number, on a CPU. auto: the model's, or half of a widened float32 where the context "
            "fits only so.",
            _LOAD,
        ),
    ] = shared.AUTO
    kv_budget: Annotated[
        int | None,
        Option(
            "Memory for keys and values, as 4G. Default: from what is free.", _LOAD, parse_bytes
        ),
    ] = EngineSettings.kv_budget_bytes
    chunk_budget: Annotated[
        int, Option("Tokens of one step: lower is fairer, higher is faster.", _LOAD)
    ] = EngineSettings.chunk_budget
    speculate: Annotated[
        str,
        Option(
            "auto, off or N: tokens at most that are guessed from the text before and checked in "
            "one step; the answers are the same. auto pauses where guesses are wrong, and while "
            "more than 8 answers grow.",
            _LOAD,
        ),
    ] = EngineSettings.speculate
    max_running: Annotated[int, Option("Requests in one step.", _LOAD)] = EngineSettings.max_running
    max_waiting: Annotated[int, Option("Requests that may wait; more are answered 429.", _LOAD)] = (
        EngineSettings.max_waiting
    )
    default_max_tokens: Annotated[
        int, Option("Length of a chat answer where the client names none.", _LOAD)
    ] = 2048
    max_body: Annotated[  # a million tokens of text are about 5 MB
        int,
        Option("Largest body, as 64M.", _LOAD, parse_bytes, lambda size: f"{size >> 20}M"),
    ] = 64 << 20
    document_store: DocumentDirectory = None
    document_budget: DocumentBudget = 20 << 30
    schema_timeout: Annotated[
        float,
        Option(
            "Seconds that compiling a JSON schema may take; those that take longer are refused.",
            _LOAD,
        ),
    ] = 5.0

    engine: Annotated[
        shared.EngineName,
        Option(
            f"{' or '.join(shared.ENGINES)}: what computes, longctx's attention in both.", _VLLM
        ),
    ] = "longctx"
    tensor_parallel: Annotated[int, Option("Devices that share each layer.", _VLLM)] = 1
    pipeline_parallel: Annotated[int, Option("Devices that share the layers.", _VLLM)] = 1
    distributed_executor_backend: Annotated[
        str | None, Option("mp or ray. Default: vLLM's.", _VLLM)
    ] = None

    keep_alive: float = 15.0  # seconds
    stalled_after: float = 600.0  # seconds without the end of a step; the slowest take 100
    limits: Limits = Limits()  # frozen
    deadlines: Deadlines = Deadlines()  # frozen
    templates: TemplateLimits = LIMITS
    tokens: TokenLimits = TOKEN_LIMITS
    bodies: BodyLimits = BODY_LIMITS

    def __post_init__(self) -> None:
        lower = tuple(name.lower() for name in self.allowed_hosts)
        object.__setattr__(self, "allowed_hosts", lower)  # frozen
        for flag, value, low in (
            ("--context", self.context, 1),
            ("--kv-budget", self.kv_budget, 1),
            ("--chunk-budget", self.chunk_budget, 1),
            ("--max-running", self.max_running, 1),
            ("--max-waiting", self.max_waiting, 1),
            ("--default-max-tokens", self.default_max_tokens, 1),
            ("--max-body", self.max_body, 1024),
            ("--document-budget", self.document_budget, 1),
            ("--tensor-parallel", self.tensor_parallel, 1),
            ("--pipeline-parallel", self.pipeline_parallel, 1),
            ("--drain-timeout", self.drain_timeout, 0),
            ("--step-timeout", self.step_timeout, 1),
            ("--schema-timeout", self.schema_timeout, 0.1),
        ):
            if value is not None and value < low:
                raise UserError(f"{flag} {value}: must be at least {low}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port}: must be 0 to 65535 (0: any free one)")
        if self.log_format not in LOG_FORMATS:
            raise UserError(f"--log-format {self.log_format}: use {' or '.join(LOG_FORMATS)}")
        try:
            most_guesses(self.speculate)
        except ValueError as error:
            raise UserError(f"--speculate {self.speculate}: {error}") from error
        self._check_engine()
        if self.api_key is not None and not self.api_key.strip():
            raise UserError("--api-key is empty: give one, or leave it out")
        if self.api_key is not None and not _fits_a_header(self.api_key):
            raise UserError(
                "--api-key begins or ends with white space, or holds characters that a header "
                "cannot carry: give plain ASCII, for instance of `openssl rand -hex 32`"
            )

    def _check_engine(self) -> None:
        if self.model.startswith("-"):
            raise UserError(
                f"MODEL {self.model}: what stands behind `--` is vLLM's own, and MODEL comes "
                f"before it: longctx serve embedded --engine vllm -- {self.model}"
            )
        shared.check_engine(self.engine)
        shared.check_quantize(self.quantize, self.engine)
        shared.check_kv_dtype(self.kv_dtype, self.engine)
        if self.engine == "vllm":
            if self.speculate not in (EngineSettings.speculate, "off"):
                raise UserError(
                    f"--speculate {self.speculate}: not with --engine vllm, whose own argument is "
                    "--speculative-config, behind --"
                )
            return
        for flag, value, default in (
            ("--tensor-parallel", self.tensor_parallel, 1),
            ("--pipeline-parallel", self.pipeline_parallel, 1),
            ("--distributed-executor-backend", self.distributed_executor_backend, None),
            ("--", " ".join(self.vllm_arguments), ""),
        ):
            if value != default:
                raise UserError(f"{flag} {value}: only with --engine vllm")

    @property
    def methods(self) -> tuple[str, ...] | None:
        return None if self.method is None else (self.method,)

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def _fits_a_header(key: str) -> bool:
    """Otherwise no client could ever send it: white space around a header's value is dropped."""
    return key.isascii() and key.isprintable() and key == key.strip()
