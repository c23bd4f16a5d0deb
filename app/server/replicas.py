"""Several copies of the server behind one address, on Ray Serve (the extra ``replicas``).

Requests with the same ``x-session-id`` go to the same replica; a realtime session stays where it was opened. A replica
that dies takes its own sessions along, and Ray starts another.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.server.config import ServerConfig
from emova.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


@dataclass(frozen=True)
class ReplicaConfig:
    """How many copies there are.

    Attributes:
        least, most: Ray starts and stops replicas between these, by how busy they are.
        cpus: cores that one replica counts as, for Ray's placing.
    """

    least: int = 2
    most: int = 2
    cpus: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InputError("--replicas: at least 1, and not above --max-replicas")


def application(config: ServerConfig, model: str, replicas: ReplicaConfig) -> Any:
    """The Ray Serve application: each replica loads the model by itself. Raises: InputError: Ray is missing."""
    serve = _ray_serve()

    def build() -> FastAPI:
        from app.server.app import create_app
        from emova.assistant import Assistant

        return create_app(config, Assistant.from_pretrained(model))

    # A little more than a replica's own queue takes, so that its 429 is what clients see, and health is still asked.
    ongoing = config.max_active + config.max_waiting + config.max_realtime + 16
    return (
        serve.deployment(serve.ingress(build)())
        .options(
            name="emova",
            max_ongoing_requests=ongoing,
            autoscaling_config={
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": config.max_active,
            },
            ray_actor_options={"num_cpus": replicas.cpus},
            health_check_period_s=5,
            health_check_timeout_s=30,
            graceful_shutdown_timeout_s=config.drain_seconds,
            request_router_config={"request_router_class": ROUTER},
        )
        .bind()
    )


def start(config: ServerConfig, model: str, replicas: ReplicaConfig) -> None:
    """Start Ray on this machine (or join the cluster of ``RAY_ADDRESS``) and all replicas; returns when they answer.

    Raises:
        InputError: Ray is missing.
    """
    serve = _ray_serve()
    import ray

    options: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        # Ray's own ports are for this machine only.
        options = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
    ray.init(log_to_driver=False, configure_logging=False, **options)
    serve.start(
        http_options={
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.deadline_seconds + config.body_seconds + 5,
        }
    )
    serve.run(application(config, model, replicas), name="emova", route_prefix="/")


def stop() -> None:
    """Stop all replicas, and Ray."""
    import ray

    _ray_serve().shutdown()
    ray.shutdown()


def run_replicas(config: ServerConfig, model: str, replicas: ReplicaConfig) -> None:
    """Serve until interrupted. Raises: InputError: Ray is missing."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        start(config, model, replicas)
        print(f"Listening on http://{config.host}:{config.port}/v1 (Ctrl+C ends it)", file=sys.stderr, flush=True)
        ended.wait()
    finally:
        stop()


def _ray_serve() -> Any:
    # Nothing is reported to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import mmh3  # noqa: F401  (the router needs it)
        from ray import serve
    except ModuleNotFoundError:
        raise InputError("--replicas needs Ray; run pip install 'emova[serve,replicas]'") from None
    return serve
