"""The route by which the page's scripts call functions, in the place of gradio's own.

Gradio's keeps the name that each caller gives itself, however long, reads forms with files, and lets one caller take
all threads that there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request
from fastapi.params import Depends
from starlette.responses import JSONResponse, PlainTextResponse, Response

from emova.core.errors import BusyError
from emova_app.demo.calls import ServerFunction, refused
from emova_app.demo.uploads.middleware import CALL
from emova_app.demo.visitors import VISITOR, Share, visitor_of
from emova_app.server.errors import ApiError
from emova_app.server.http.json_body import JsonLimits, read_json

LIMITS = JsonLimits(max_bytes=64 << 10, max_values=5000, max_depth=8)
"""Of what a call says beside its sound; the longest list that a page sends has 2000 units."""


def call_route(
    functions: Mapping[tuple[object, object], ServerFunction], dependencies: Sequence[Depends], share: Share
) -> APIRouter:
    """The route.

    Args:
        functions: by the number of their component and their name.
        dependencies: FastAPI's ``Depends``, of who may ask.
        share: calls that may be under way.
    """
    router = APIRouter(dependencies=list(dependencies))

    @router.post(CALL)
    @router.post(f"{CALL}/")
    async def call(request: Request) -> Response:
        visitor = visitor_of(request)
        with share.taken(visitor) as room:
            if not room:
                return JSONResponse(refused(BusyError("too many requests at once; try again in a moment")))
            try:
                asked = await read_json(await request.body(), LIMITS)
            except ApiError as error:
                return PlainTextResponse(error.message, error.status)
            given = asked if isinstance(asked, dict) else {}
            name, component = given.get("fn_name"), given.get("component_id")
            known = isinstance(name, str) and type(component) is int
            function = functions.get((component, name)) if known else None
            if function is None:
                return PlainTextResponse("there is no such function", 404)
            VISITOR.set(visitor)
            answer = await function(given.get("data"))
        return await asyncio.to_thread(JSONResponse, answer)

    return router
