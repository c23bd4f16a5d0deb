"""Errors as OpenAI's clients expect them. A message says what the client can change, and nothing about the inside."""

from __future__ import annotations

import http
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from emova.core.errors import BusyError, ClosedError, InputError, disk_full
from emova_app.server.http.invalid import explain

log = logging.getLogger(__name__)
INTERNAL = "a fault inside of the server; try again"
DISK = "the server has no room on its disk for the upload; try again later, or send less"


class ErrorFields(TypedDict):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    """OpenAI's error object."""

    error: ErrorFields


class ApiError(Exception):
    """An answer other than success.

    Args:
        status: of HTTP.
        message: one line for the client.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``.
        param: the field that is meant.
        headers: to send with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.code, self.param, self.headers = code, param, headers or {}

    @property
    def body(self) -> ErrorAnswer:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, self.headers)


class ErrorDetails(BaseModel):
    """OpenAI's error, for the OpenAPI document."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object, for the OpenAPI document."""

    error: ErrorDetails


@contextmanager
def about(place: str) -> Iterator[None]:
    """Errors of the client's doing name the part of its request that they are about. Raises: ApiError."""
    try:
        yield
    except (BusyError, ClosedError):
        raise
    except InputError as error:
        raise ApiError(400, f"{place}: {error}", param=place) from None


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told about ``error``; what is not its own doing is logged and told as a fault inside."""
    if isinstance(error, ApiError):
        return error
    if disk_full(error):
        log.error("the disk for temporary files is full")
        return ApiError(507, DISK, kind="server_error", code="insufficient_storage", headers={"retry-after": "30"})
    if isinstance(error, BusyError):
        return busy(str(error))
    if isinstance(error, ClosedError):
        return ApiError(503, str(error), kind="server_error", headers={"retry-after": "1"})
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    log.error("a request failed", exc_info=error)
    return ApiError(500, INTERNAL, kind="server_error", code="internal_error")


def busy(message: str, seconds: int = 1) -> ApiError:
    """429, with the time to wait."""
    return ApiError(
        429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers={"retry-after": str(seconds)}
    )


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, param = explain(error.errors(), error.body)
    return ApiError(400, message, param=param).response()


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if disk_full(error.__cause__):  # while an upload was put on the disk, not what the client sent
        return as_api_error(error).response()
    reason = "the body: it cannot be parsed" if error.status_code == 400 else http.HTTPStatus(error.status_code).phrase
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(error.status_code, reason, code=code, headers=dict(error.headers or {})).response()


def _any(request: Request, error: Exception) -> JSONResponse:
    return as_api_error(error).response()


def handle_errors(app: Starlette) -> None:
    """Answer every error in OpenAI's shape."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ApiError, _any)
    app.add_exception_handler(InputError, _any)
    app.add_exception_handler(Exception, _any)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for the OpenAPI document."""
    always = (400, 401, 403, 408, 413, 429, 500, 503, 504, 507)
    return {status: {"model": ErrorBody, "description": http.HTTPStatus(status).phrase} for status in always + statuses}
