"""Several copies of the server behind one address, on Ray Serve (the extra ``replicas``).

Ray places the copies, watches their health, starts lost ones again and, if it may, more of them under load. Requests
with the same ``x-session-id`` go to the same copy; a realtime session stays in the one in which it was opened.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import ASGIApp

from emova.core.errors import InputError
from emova.engine.engine import EngineConfig
from emova_app.server.config import ServerConfig

NAME = "emova"
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"

DEFAULT_ENGINE = EngineConfig()


@dataclass(frozen=True)
class ReplicaConfig:
    """How many copies there are.

    Attributes:
        least, most: Ray keeps their number between these, by how many requests each works on.
    """

    least: int = 2
    most: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= 1000:
            raise InputError("--replicas: at least 1, at most 1000, and not above --max-replicas")


class Replica:
    """One copy, in a process of its own; loads the model when it is made."""

    def __init__(self, config: ServerConfig, model: str, engine: EngineConfig) -> None:
        from emova.assistant import Assistant, AssistantConfig
        from emova_app.server.app import create_app

        self._app = create_app(config, Assistant.from_pretrained(model, config=AssistantConfig(engine=engine)))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def check_health(self) -> None:
        """Ray replaces the copy if this fails or hangs: sessions are moved on under a lock, which must come free."""
        service = self._app.state.service
        await service.run(service.scheduler.pump)

    def figures(self) -> tuple[str, str]:
        """Its id, and what it measured in Prometheus' text format."""
        from ray import serve

        context = serve.get_replica_context()
        return context.replica_id.unique_id, self._app.state.service.metrics.page().decode()


def application(config: ServerConfig, model: str, replicas: ReplicaConfig, engine: EngineConfig) -> Any:
    """The Ray Serve application. ``config`` holds the limits of one copy."""
    from ray import serve

    # More than a copy takes by itself, so that its own refusal is what clients see.
    ongoing = config.max_active + config.max_waiting + config.max_realtime + 16
    ingress: Any = serve.ingress()(Replica)
    deployment = serve.deployment(
        name=NAME,
        max_ongoing_requests=ongoing,
        autoscaling_config={
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": config.max_active,
        },
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=config.drain_seconds,
        request_router_config={"request_router_class": ROUTER},
    )(ingress)
    return deployment.bind(config, model, engine)


@dataclass(frozen=True)
class Cluster:
    """Copies that run.

    Attributes:
        address: of the router before them, on this machine.
        key: what they want to see in each request.
    """

    address: str
    key: str
    _handle: Any

    async def figures(self) -> dict[str, str]:
        """The figures of each copy, by its id; one that is just dying is left out."""
        answers = await self._handle.broadcast("figures").results_async(return_exceptions=True)
        return dict(answer for answer in answers if not isinstance(answer, Exception))


@contextmanager
def started(
    config: ServerConfig, model: str, replicas: ReplicaConfig, engine: EngineConfig = DEFAULT_ENGINE
) -> Iterator[Cluster]:
    """Starts Ray on this machine (or joins the cluster of ``RAY_ADDRESS``) and the copies, and ends what it started.

    Args:
        config: limits of one copy.
        model: a shipped checkpoint or its folder.
        engine: how each copy decodes.

    Raises:
        InputError: Ray is not installed, or the copies do not start.
    """
    # Read when Ray is imported. Nothing is reported to anybody; Ray's own ports want its token.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        from ray import serve
    except ModuleNotFoundError:
        raise InputError("--replicas needs Ray Serve; run pip install 'emova[serve,replicas]'") from None
    if os.path.isdir(model):
        model = os.path.abspath(model)
    local: dict[str, int | bool] = {}
    if not os.environ.get("RAY_ADDRESS"):
        # Each copy has a place, however few cores there are.
        local = {"num_cpus": max(os.cpu_count() or 1, replicas.most), "include_dashboard": False}
    ray.init(log_to_driver=False, configure_logging=False, **local)
    try:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        key = secrets.token_hex(24)
        inner = replace(config, host="127.0.0.1", api_key=key)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            handle = serve.run(application(inner, model, replicas, engine), name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError):
            raise InputError(f"{model}: the replicas do not start; see Ray's logs, or try without --replicas") from None
        yield Cluster(f"127.0.0.1:{port}", key, handle)
    finally:
        serve.shutdown()
        ray.shutdown()


def together(config: ServerConfig, replicas: ReplicaConfig) -> ServerConfig:
    """The limits of all copies together, from those of one."""
    most = replicas.most
    return replace(
        config,
        max_active=most * config.max_active,
        max_waiting=most * config.max_waiting,
        max_realtime=most * config.max_realtime,
        max_connections=most * config.max_connections,
        max_connections_per_address=most * config.max_connections_per_address,
    )
