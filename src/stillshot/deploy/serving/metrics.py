"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; their labels come from closed sets, so they never grow.

    ``accepted`` are requests whose inputs were taken into a queue, ``answered`` those of them that got a response,
    whichever: the two are the same when nothing is under way.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "stillshot_requests",
            "Requests by endpoint and status.",
            ["endpoint", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "stillshot_request_seconds",
            "From a request's head to the end of its response.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "stillshot_batch_seconds", "Of one batch.", ["model"], buckets=_SECONDS, registry=registry
        )
        self._batch_rows = Histogram(
            "stillshot_batch_rows", "Inputs in one batch.", ["model"], buckets=_ROWS, registry=registry
        )
        self._tokens = Counter("stillshot_tokens", "Tokens read.", ["model"], registry=registry)
        self._waiting = Gauge(
            "stillshot_waiting_rows", "Inputs that wait for a batch.", ["model"], registry=registry
        )
        self.accepted = 0
        self.answered = 0

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._requests.labels(endpoint, str(status)).inc()
        self._request_seconds.labels(endpoint).observe(seconds)

    def batch_observer(self, model: str) -> Callable[[int, int, float], None]:
        """What a model's batcher tells of each batch: rows, tokens, seconds."""
        seconds_of, rows_of = self._batch_seconds.labels(model), self._batch_rows.labels(model)
        tokens_of = self._tokens.labels(model)

        def observe(rows: int, tokens: int, seconds: float) -> None:
            seconds_of.observe(seconds)
            rows_of.observe(rows)
            tokens_of.inc(tokens)

        return observe

    def watch_queue(self, model: str, rows: Callable[[], int]) -> None:
        """Read a queue's length whenever the metrics are asked for."""
        self._waiting.labels(model).set_function(rows)

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self._registry)
