"""What a server is told, each default once. Knows no HTTP and imports nothing heavy."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from longctx.errors import UserError

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

    max_body: int = 64 * 2**20  # bytes; a million tokens of text are about 5 MB
    max_n: int = 16
    max_top_logprobs: int = 20
    max_stop: int = 16  # strings
    max_stop_length: int = 512  # characters each
    max_schema: int = 65536  # characters of JSON
    max_messages: int = 4096


@dataclass(frozen=True)
class ServeSettings:
    """A server's arguments. None stands where a rule decides.

    Attributes:
        context: tokens of prompt and answer; None is the method's own, lowered to what fits.
        kv_budget: bytes for keys and values.
        drain_timeout, keep_alive: seconds.
    """

    model: str
    method: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    context: int | None = None
    chunk_size: int | None = None
    local_size: int | None = None
    original_length: int | None = None
    cap: str | None = None
    factor: float | None = None
    kernel: str = "auto"
    dtype: str = "auto"
    kv_dtype: str = "auto"
    device_map: str = "auto"
    kv_budget: int | None = None
    chunk_budget: int = 512
    max_running: int = 64
    max_waiting: int = 256
    default_max_tokens: int = 2048
    served_name: str | None = None
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    drain_timeout: float = 120.0
    keep_alive: float = 15.0
    log_format: LogFormat = "text"
    limits: Limits = Limits()  # frozen

    def __post_init__(self) -> None:
        for flag, value, low in (
            ("--context", self.context, 1),
            ("--kv-budget", self.kv_budget, 1),
            ("--chunk-budget", self.chunk_budget, 1),
            ("--max-running", self.max_running, 1),
            ("--max-waiting", self.max_waiting, 1),
            ("--default-max-tokens", self.default_max_tokens, 1),
            ("--max-body", self.limits.max_body, 1024),
            ("--drain-timeout", self.drain_timeout, 0),
        ):
            if value is not None and value < low:
                raise UserError(f"{flag} {value}: must be at least {low}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port}: must be 0 to 65535 (0: any free one)")
        if self.log_format not in LOG_FORMATS:
            raise UserError(f"--log-format {self.log_format}: use {' or '.join(LOG_FORMATS)}")
        if self.api_key is not None and not self.api_key.strip():
            raise UserError("--api-key is empty: give one, or leave it out")
        if self.api_key is not None and not _fits_a_header(self.api_key):
            raise UserError(
                "--api-key begins or ends with white space, or holds characters that a header "
                "cannot carry: give plain ASCII, for instance of `openssl rand -hex 32`"
            )

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


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str, flag: str) -> int:
    """`4G`, `512MiB`, `1073741824`; K, M and G are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"{flag} {text}: not an amount of memory: write 4G or 512M")
    return int(float(found[1]) * _UNITS[found[2].upper()])
