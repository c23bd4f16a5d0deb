"""How a function is offered to the page's scripts: bad input and faults become one line, never a traceback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypedDict, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from emova.core.errors import InputError

log = logging.getLogger(__name__)
FAULT = "something went wrong inside; try again. The terminal says more"
Given = Mapping[str, object]
"""What a page sent, of which only this is known: it is an object of JSON."""
Answer = TypeVar("Answer")
ServerFunction = Callable[[object], Awaitable[object]]
"""As ``gr.HTML(server_functions=...)`` wants it: a plain function with a name."""


class Refusal(TypedDict):
    """Why there is no answer, in one line."""

    error: str


def refused(error: Exception | None = None) -> Refusal:
    """The line for an error; what is no user's doing is not told."""
    line = str(error) if isinstance(error, InputError) else FAULT
    return {"error": line[:1].upper() + line[1:]}


def answered(function: Callable[[Given], Answer], limiter: CapacityLimiter | None = None) -> ServerFunction:
    """``function`` in a thread, under its own name, with its errors as a ``Refusal``.

    Args:
        limiter: how many threads such functions may take, of all; so what takes long holds up nothing else.
    """

    def safe(given: object) -> Answer | Refusal:
        try:
            return function(given if isinstance(given, dict) else {})
        except InputError as error:
            return refused(error)
        except Exception as error:
            log.exception("a request of the page failed")
            return refused(error)

    @functools.wraps(function)
    async def call(given: object) -> Answer | Refusal:
        return await anyio.to_thread.run_sync(safe, given, limiter=limiter)

    # Gradio looks at the signature, and at nothing that this is made of.
    del call.__wrapped__  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def text_of(given: Given, name: str, longest: int, what: str) -> str:
    """A text that a page sent. Raises: InputError: there is none, or it is too long."""
    value = given.get(name)
    if not isinstance(value, str):
        raise InputError(f"{what}: none came; load the page again")
    if len(value) > longest:
        raise InputError(f"{what} is longer than {longest} characters; make it shorter")
    return value
