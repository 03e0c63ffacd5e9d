"""What `/metrics` shows: counts, times and fill levels in Prometheus' text format.

Labels are routes, status codes and error codes of ours, so the number of series is fixed and nothing of a
request becomes a name. Needs the package ``prometheus-client`` of the extra ``serve``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from infimed.core.errors import missing_extra

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
LATE: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
LOOK_SECONDS: Final = 0.05


class Meters:
    """The server's counters, in a registry of their own."""

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise missing_extra("serve", "prometheus-client") from error
        self._prometheus = prometheus
        self.registry = prometheus.CollectorRegistry(auto_describe=True)
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus.Counter(
            "infimed_requests", "Requests by route and status.", ["route", "status"], **own
        )
        self.refusals = prometheus.Counter(
            "infimed_refusals", "Refused or failed requests by code.", ["code"], **own
        )
        self.seconds = prometheus.Histogram(
            "infimed_request_seconds", "From the request to the end of its answer.", ["route"], buckets=SECONDS, **own
        )  # fmt: skip
        self.first_token = prometheus.Histogram(
            "infimed_first_token_seconds", "From the request to its first token.", buckets=SECONDS, **own
        )  # fmt: skip
        self.queue = prometheus.Histogram(
            "infimed_queue_seconds", "In the engine's queue.", buckets=SECONDS, **own
        )
        self.decoding = prometheus.Histogram(
            "infimed_decode_seconds", "Of one image, waiting for a decoder included.", buckets=SECONDS, **own
        )  # fmt: skip
        self.tokens = prometheus.Counter(
            "infimed_tokens", "Tokens of finished answers, by kind.", ["kind"], **own
        )
        self.abstentions = prometheus.Counter(
            "infimed_abstentions", "Answers flagged as abstentions.", **own
        )

        self.lateness = prometheus.Histogram(
            "infimed_loop_late_seconds", "How late the event loop is; what nobody is answered in.", buckets=LATE, **own
        )  # fmt: skip

    async def watch_loop(self) -> None:
        """Measure until cancelled how late the event loop gets round to a task that is due."""
        while True:
            due = time.perf_counter() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self.lateness.observe(max(0.0, time.perf_counter() - due))

    def show(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Add a level that is read when `/metrics` is asked."""
        self._prometheus.Gauge(name, what, registry=self.registry).set_function(value)

    def page(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return (
            self._prometheus.generate_latest(self.registry),
            str(self._prometheus.CONTENT_TYPE_LATEST),
        )


def engine_levels(engine: Any) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """What an `engine.Engine` shows."""
    counts, features, prefixes = engine.counts, engine.features, engine.prefixes
    yield "infimed_engine_waiting", "Requests in the queue.", lambda: engine.waiting
    yield "infimed_engine_running", "Answers that are being written.", lambda: engine.running
    yield "infimed_engine_cache_bytes", "Keys and values of them.", lambda: engine.cache_bytes
    yield "infimed_engine_steps", "Steps so far.", lambda: counts.steps
    yield "infimed_engine_failures", "Answers that failed so far.", lambda: counts.failures
    yield "infimed_feature_hits", "Images whose features were known.", lambda: features.hits
    yield "infimed_feature_misses", "Images that were encoded.", lambda: features.misses
    yield "infimed_feature_bytes", "Image features kept.", lambda: features.bytes
    yield "infimed_prefix_bytes", "Keys and values kept.", lambda: prefixes.bytes
    yield "infimed_prefix_tokens", "Prompt tokens reused so far.", lambda: prefixes.reused_tokens
