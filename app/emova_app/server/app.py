"""The application: routes for chat, speech, transcription and realtime talk on one assistant or several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Response
from pydantic import BaseModel

from emova import __version__
from emova_app.server.api import audio, chat
from emova_app.server.api.styles import show_styles
from emova_app.server.config import ServerConfig
from emova_app.server.errors import ApiError, described, handle_errors
from emova_app.server.http.fetch import Fetcher
from emova_app.server.http.middleware import RequestMiddleware, let_pages_ask
from emova_app.server.realtime import routing as realtime
from emova_app.server.service import Service

if TYPE_CHECKING:
    from emova.assistant import Assistant


class Health(BaseModel):
    """Whether the server takes requests."""

    status: str


class Model(BaseModel):
    """One model, as OpenAI lists it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "emova"


class Models(BaseModel):
    """All models."""

    object: str = "list"
    data: list[Model]


def create_app(
    config: ServerConfig,
    assistant: Assistant,
    fetcher: Fetcher | None = None,
    others: Mapping[str, Assistant] | None = None,
) -> FastAPI:
    """The ASGI application; ``app.state.service`` is its Service.

    Args:
        assistant: runs on the streaming engine.
        fetcher: fetches pictures; made from the configuration if None.
        others: more assistants, by the names that clients give.

    Raises:
        InputError: the streaming engine cannot run an assistant's model.
    """
    service = Service(config, assistant, fetcher, others)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        service.close()

    # The pages of documentation would load scripts from elsewhere: only the document itself is served.
    app = FastAPI(title="emova", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    handle_errors(app)

    @app.get("/healthz", responses=described())
    async def healthz() -> Health:
        """Whether the server takes requests."""
        if service.draining.is_set():
            raise ApiError(503, "the server is shutting down", kind="server_error")
        return Health(status="ok")

    @app.get("/v1/models", responses=described())
    async def models() -> Models:
        """The models of this server."""
        return Models(data=[Model(id=name, created=service.created) for name in service.models])

    @app.get("/v1/models/{model}", responses=described(404))
    async def model(model: str) -> Model:
        """One model."""
        return Model(id=service.of(model).config.model_name, created=service.created)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **described()})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.include_router(chat.router(service))
    app.include_router(audio.router(service))
    app.include_router(realtime.router(service))
    show_styles(app, [each.assistant.styles for each in service.models.values()])
    app.add_middleware(RequestMiddleware, service=service)
    let_pages_ask(app, config)
    return app
