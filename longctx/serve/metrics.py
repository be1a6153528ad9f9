"""What Prometheus reads: one registry per server, gauges from the engine at the time of asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from longctx.engine import Stats
from longctx.serve.connections import ENDED, Connections

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_KNOWN_PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize"),
    *("/v1/documents", "/health", "/ready", "/metrics"),
)


class Metrics:
    """Args:
    stats: of the engine; None while there is none.
    """

    def __init__(self, stats: Callable[[], Stats | None]) -> None:
        self._registry = CollectorRegistry()
        self._answered = Counter(
            "longctx_http_requests",
            "Answered HTTP requests.",
            ("path", "status"),
            registry=self._registry,
        )
        self._first = Histogram(
            "longctx_time_to_first_token_seconds",
            "From submission to the first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._whole = Histogram(
            "longctx_request_seconds",
            "From submission to the last token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_EngineFigures(stats))

    def watch(self, connections: Connections) -> None:
        """Tell of these as well."""
        self._registry.register(_ConnectionFigures(connections))

    def answered(self, path: str, status: int, seconds: float) -> None:
        # Only names that are ours: any client can invent paths.
        self._answered.labels(path if path in _KNOWN_PATHS else "other", str(status)).inc()

    def finished(self, first_token_s: float | None, total_s: float) -> None:
        if first_token_s is not None:
            self._first.observe(first_token_s)
        self._whole.observe(total_s)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _ConnectionFigures(Collector):
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        found = self._connections
        yield GaugeMetricFamily("longctx_connections", "Open connections.", len(found.open))
        most = "Connections that may be open."
        yield GaugeMetricFamily("longctx_connections_most", most, found.most)
        ended = CounterMetricFamily(
            "longctx_connections_ended", "Connections that the server ended.", labels=["reason"]
        )
        for reason in ENDED:
            ended.add_metric([reason], found.ended[reason])
        yield ended


class _EngineFigures(Collector):
    def __init__(self, stats: Callable[[], Stats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = self._stats()
        if stats is None:
            return
        for name, about, value in (
            ("requests_running", "Requests in the engine's steps.", stats.running),
            ("requests_waiting", "Requests that wait for memory or a place.", stats.waiting),
            ("kv_used_bytes", "Keys and values held.", stats.kv_used_bytes),
            ("kv_budget_bytes", "Keys and values that may be held.", stats.kv_budget_bytes),
            ("retained_prefixes", "Prompts whose keys are kept.", stats.retained_prefixes),
        ):
            yield GaugeMetricFamily(f"longctx_{name}", about, value)
        for name, about, value in (
            ("prompt_tokens", "Prompt tokens computed.", stats.counts.prompt_tokens),
            ("cached_tokens", "Prompt tokens found in the cache.", stats.counts.cached_tokens),
            ("completion_tokens", "Tokens generated.", stats.counts.completion_tokens),
            ("accepted_tokens", "Tokens guessed and right.", stats.counts.accepted_tokens),
            ("rejected_tokens", "Tokens guessed and wrong.", stats.counts.rejected_tokens),
            ("requests_finished", "Generations that ended.", stats.counts.finished),
            ("requests_failed", "Generations that failed.", stats.counts.failed),
            (
                "requests_preempted",
                "How often a request gave its memory up, to be computed again.",
                stats.counts.preempted,
            ),
        ):
            yield CounterMetricFamily(f"longctx_{name}", about, value)
