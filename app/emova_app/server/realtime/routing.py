"""The route of realtime talk."""

from __future__ import annotations

import contextlib
import time

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from emova_app.server.errors import ApiError
from emova_app.server.realtime.connection import Connection
from emova_app.server.service import Service


def router(service: Service) -> APIRouter:
    """The route on ``service``."""
    routes = APIRouter()

    @routes.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        started = time.perf_counter()
        try:
            chosen = service.of(socket.query_params.get("model", service.config.model_name))
        except ApiError as error:
            await socket.send_denial_response(error.response())
            return
        offered = socket.scope.get("subprotocols", ())
        async with chosen.session(chosen.assistant.styles.voices[0]) as session:
            await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
            with contextlib.suppress(WebSocketDisconnect):
                await Connection(socket, chosen, session).serve()
        service.metrics.seconds.labels("/v1/realtime").observe(time.perf_counter() - started)

    return routes
