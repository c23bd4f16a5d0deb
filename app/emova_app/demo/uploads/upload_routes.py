"""The routes by which uploads come and are shown, in the place of gradio's own.

Gradio's keep an upload under the hash of what is in it, without a limit on all of them, and show whatever else they are
given: addresses elsewhere, links.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
from collections.abc import AsyncGenerator, Sequence
from pathlib import PurePath

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.params import Depends
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from emova.core.errors import InputError, disk_full
from emova_app.demo.uploads.files import MAX_UPLOAD_BYTES, Store
from emova_app.demo.uploads.middleware import API, UPLOAD
from emova_app.demo.visitors import Share, visitor_of
from emova_app.refusing import UnreadRefusal

log = logging.getLogger(__name__)
ENVELOPE_BYTES = 64 << 10  # of the form around a file
SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, no-store",
}
TOO_LARGE = f"the file: larger than {MAX_UPLOAD_BYTES >> 20} MB; give a smaller file"


class _TooLarge(Exception):
    """More came than an upload may have."""


def upload_routes(store: Store, dependencies: Sequence[Depends], share: Share, *, seconds: float = 120.0) -> APIRouter:
    """The two routes.

    Args:
        store: keeps the uploads.
        dependencies: FastAPI's ``Depends``, of who may ask.
        share: uploads that may come at a time; more are refused.
        seconds: in which one must have come.
    """
    router = APIRouter(dependencies=list(dependencies))

    @router.post(UPLOAD)
    async def upload(request: Request) -> Response:
        with share.taken(visitor_of(request)) as room:
            if not room:
                return _refuse(503, "too many uploads at once; try again in a moment")
            try:
                async with asyncio.timeout(seconds):
                    return await _take(request, store)
            except _TooLarge:
                return UnreadRefusal(413, TOO_LARGE, seconds)
            except TimeoutError:
                return _refuse(408, "the file: it came too slowly; try again")

    @router.api_route(f"{API}/file={{path:path}}", methods=["GET", "HEAD"])
    async def shown(path: str) -> Response:
        try:
            data = await anyio.to_thread.run_sync(store.read, path)
        except OSError:
            return _refuse(404, "there is no such upload")
        kind = mimetypes.guess_type(PurePath(path).name)[0]
        if kind in SHOWN:
            return Response(data, media_type=kind, headers=SAFE)
        return Response(
            data, media_type="application/octet-stream", headers={**SAFE, "content-disposition": "attachment"}
        )

    return router


async def _take(request: Request, store: Store) -> Response:
    """Keep what comes. Raises: _TooLarge: more came, and more is on its way."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return _refuse(400, "the upload: no form with a file came")
    try:
        parser = MultiPartParser(request.headers, _counted(request), max_files=1, max_fields=8)
        form = await parser.parse()
    except (MultiPartException, ClientDisconnect, ValueError):
        return _refuse(400, "the upload: the form is not complete; choose one file and try again")
    except OSError as error:
        return _failed(error)
    try:
        file = form.get("files")
        if not isinstance(file, UploadFile):
            return _refuse(400, "the upload: no file came; choose one")
        path = await anyio.to_thread.run_sync(store.save, file.filename or "", file.file)
        return JSONResponse([path])
    except InputError as error:
        return _refuse(413, str(error))
    except OSError as error:
        return _failed(error)
    finally:
        await form.close()


async def _counted(request: Request) -> AsyncGenerator[bytes, None]:
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > MAX_UPLOAD_BYTES + ENVELOPE_BYTES:
            raise _TooLarge
        yield chunk


def _failed(error: OSError) -> Response:
    log.error("an upload could not be kept: %s", error.strerror)
    if disk_full(error):
        return _refuse(507, "the upload: the disk is full; try again later")
    return _refuse(500, "the upload: it could not be kept; try again")


def _refuse(status: int, reason: str) -> Response:
    return PlainTextResponse(reason, status, headers={"connection": "close"})
