"""What is measured, for Prometheus. Labels have few values: nothing that a client sends becomes one."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120)


class Metrics:
    """One registry a server.

    Args:
        waiting, running, sessions: functions that count now.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int], sessions: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("emova_requests", "Answered requests", ["route", "status"], registry=registry)
        self.errors = Counter("emova_errors", "Errors told to clients", ["kind"], registry=registry)
        self.seconds = Histogram(
            "emova_request_seconds", "Time of a request", ["route"], buckets=SECONDS, registry=registry
        )
        self.first_audio = Histogram(
            "emova_time_to_first_audio_seconds",
            "From the end of the question to the first sound",
            buckets=SECONDS,
            registry=registry,
        )
        self.real_time_factor = Histogram(
            "emova_real_time_factor",
            "Time to make a reply, over its length",
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5),
            registry=registry,
        )
        self.cancelled = Counter("emova_cancelled", "Replies broken off", ["reason"], registry=registry)
        for name, text, count in (
            ("emova_queue_depth", "Requests that wait", waiting),
            ("emova_requests_running", "Requests that are worked on", running),
            ("emova_realtime_sessions", "Realtime sessions that are open", sessions),
        ):
            Gauge(name, text, registry=registry).set_function(count)

    def spoken(self, first_audio: float, total: float, seconds: float) -> None:
        """A reply of ``seconds`` of sound was made."""
        self.first_audio.observe(first_audio)
        if seconds > 0:
            self.real_time_factor.observe(total / seconds)

    def page(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
