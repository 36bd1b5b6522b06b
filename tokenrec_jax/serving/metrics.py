"""What the server counts, in Prometheus' text format. One registry an app, so that tests can have many."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters, named in place."""

    def __init__(self):
        """Starts at zero."""
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tokenrec_requests", "Answered requests.", ("method", "route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "tokenrec_request_seconds", "From head to answer.", ("route",), registry=registry, buckets=_SECONDS
        )
        self.refused = Counter("tokenrec_refused", "Refused, as too many waited.", ("queue",), registry=registry)
        self.batch_size = Histogram(
            "tokenrec_batch_size", "Requests a batch.", ("queue",), registry=registry, buckets=_SIZES
        )
        self.batch_seconds = Histogram(
            "tokenrec_batch_seconds", "Work on a batch.", ("queue",), registry=registry, buckets=_SECONDS
        )
        self.events = Counter("tokenrec_events", "Events written to the log.", ("kind",), registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is read when somebody asks."""
        Gauge(f"tokenrec_{name}", text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Returns all of it."""
        return generate_latest(self._registry)
