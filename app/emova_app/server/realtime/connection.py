"""One realtime connection: what the client sends, and who of its rooms takes it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from emova.core.errors import InputError
from emova.session.session import Session
from emova_app.server.errors import ApiError, as_api_error
from emova_app.server.http.front import new_id
from emova_app.server.http.json_body import JsonLimits, read_json
from emova_app.server.json_types import JsonObject, is_message
from emova_app.server.realtime import types
from emova_app.server.realtime.backlog import Action, Flooded
from emova_app.server.realtime.conversation import Conversation
from emova_app.server.realtime.flat import Path, nested, told_name
from emova_app.server.realtime.floor import Floor
from emova_app.server.realtime.hearing import Hearing
from emova_app.server.realtime.line import Line
from emova_app.server.realtime.responding import Responding
from emova_app.server.realtime.sending import Sender
from emova_app.server.service import Service

BINARY = "binary frames are not taken; send events as JSON in text frames, sound as base64 in them"


class _Binary(Exception):
    """The client sent a binary frame."""


class Connection:
    """Talks with one client on one session.

    Its own memory is bounded: sound (as long as one question may be), items (the last 256), and what waits for an
    answer's end (a Backlog). All of it is let go when the talk ends, without waiting for the garbage collector.
    """

    def __init__(self, socket: WebSocket, service: Service, session: Session) -> None:
        self.socket, self.service = socket, service
        self.id = new_id("sess")
        self.sender = Sender(socket, service.metrics)
        self.line = Line(service, session, self.sender)
        self.conversation = Conversation(self.line)
        self.floor = Floor(self.line, self.conversation)
        self.hearing = Hearing(self.line, self.conversation, self.floor, self._turn_ended)
        self.responding = Responding(self.line, self.conversation, self.floor, self.hearing)

    async def _turn_ended(self) -> None:
        await self.responding.respond(types.ResponseOptions())

    # --- the loop -----------------------------------------------------------------------------------------------------
    async def serve(self) -> None:
        """Until the client leaves, is idle for too long, or the server ends."""
        await self.sender.emit("session.created", session=self._session())
        draining = asyncio.create_task(self.service.draining.wait())
        reading: asyncio.Task[str] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(self._read())
                done, _ = await asyncio.wait(
                    [reading, draining], timeout=self.service.config.idle_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if reading in done:
                    # Raised here, the task's error would hold this frame, and with it the task.
                    error = reading.exception()
                    if isinstance(error, WebSocketDisconnect):
                        return
                    if isinstance(error, _Binary):
                        await self._refuse(ApiError(400, BINARY, code="invalid_frame"), 1003)
                        return
                    text, reading = reading.result(), None
                    done.clear()
                    await self._take(text)
                    del text  # it may be large, and the next one may be long in coming
                elif draining in done:
                    await self._end("the server is shutting down", 1001)
                    return
                elif not self.floor.busy:
                    await self._end("the session was idle for too long", 1000)
                    return
        except WebSocketDisconnect:
            pass
        except Flooded:
            message = "too much was sent during an answer, and more after the refusals; wait for response.done"
            await self._refuse(ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded"), 1008)
        finally:
            await _ended([task for task in (draining, reading, self.floor.task) if task is not None])
            self.floor.let_go()
            self.hearing.let_go()
            self.conversation.entries.clear()

    async def _read(self) -> str:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        if not isinstance(text, str):
            raise _Binary
        return text

    async def _refuse(self, refusal: ApiError, code: int) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await self.sender.error(refusal, None)
            await self.socket.close(code, refusal.message)

    async def _end(self, message: str, code: int) -> None:
        await self.floor.ended()
        await self.sender.error(ApiError(503, message, kind="server_error", code="session_ended"), None)
        await self.socket.close(code)

    async def _take(self, text: str) -> None:
        event_id: str | None = None
        called: dict[Path, str] = {}
        try:
            data = text.encode()
            self.floor.event_bytes = len(data)
            content = await read_json(data, JsonLimits(self.service.config.max_json_bytes))
            del data
            if isinstance(content, dict):
                given = content.get("event_id")
                event_id = given if isinstance(given, str) and len(given) <= 200 and given.isprintable() else None
                called = _without_flat_fields(content)
            await self._handle(types.CLIENT_EVENT.validate_python(content), event_id)
        except (WebSocketDisconnect, Flooded):
            raise
        except ValidationError as error:
            await self.sender.error(_told(error, called), event_id)
        except Exception as error:
            await self.sender.error(as_api_error(error), event_id)

    async def _handle(self, event: types.ClientEvent, event_id: str | None) -> None:
        conversation = self.conversation
        match event:
            case types.SessionUpdate():
                await self._update(event)
            case types.Append():
                await self.hearing.append(event.audio)
            case types.Commit():
                await self._when_free(self.hearing.commit, event_id)
            case types.Clear():
                await self.hearing.clear()
            case types.ItemCreate():
                create = functools.partial(conversation.create, event.item, event.previous_item_id)
                await self._when_free(create, event_id)
            case types.ItemDelete():
                await self._when_free(functools.partial(conversation.delete, event.item_id), event_id)
            case types.ItemTruncate():
                await self._truncate(event)
            case types.ItemRetrieve():
                await conversation.retrieve(event.item_id)
            case types.ResponseCreate():
                await self.responding.create(event.response or types.ResponseOptions())
            case types.ResponseCancel():
                await self.responding.cancel(event)

    async def _when_free(self, action: Action, event_id: str | None) -> None:
        """Now, or when the answer that is being given has ended; an error names the event then too."""

        async def late() -> None:
            try:
                await action()
            except (ApiError, InputError) as error:
                await self.sender.error(as_api_error(error), event_id)

        await (self.floor.when_free(late) if self.floor.busy else action())

    # --- settings -----------------------------------------------------------------------------------------------------
    def _session(self) -> JsonObject:
        return {"id": self.id, **self.line.settings.shown(self.service.config.model_name)}

    async def _update(self, event: types.SessionUpdate) -> None:
        line, before = self.line, self.line.settings
        chosen, notices = before.changed(event.session, self.service.config.model_name)
        if (chosen.instructions, chosen.tools) != (before.instructions, before.tools):
            if len(chosen.instructions) > self.service.assistant.config.max_text_characters:
                raise InputError("session.instructions: too long; shorten them")
            self.conversation.stale = True
        line.settings = chosen
        if not self.floor.busy:
            line.session.voice = chosen.voice
        if (chosen.turns, chosen.hears) != (before.turns, before.hears):
            self.hearing.listen_anew()
        # Many clients give up on any error event, so what was replaced is told beside what holds.
        told = {"notices": notices} if notices else {}
        await self.sender.emit("session.updated", session=self._session(), **told)

    # --- answers ------------------------------------------------------------------------------------------------------
    async def _truncate(self, event: types.ItemTruncate) -> None:
        entry = self.conversation.find(event.item_id)
        if entry is None or not is_message(entry.item) or entry.item["role"] != "assistant":
            raise ApiError(400, "item_id: not an answer of this session", param="item_id", code="item_not_found")
        answer = self.floor.answer
        sent = answer.telling.sent_seconds if answer is not None and answer.entry is entry else entry.seconds
        if event.audio_end_ms > sent * 1000 + 1:
            raise ApiError(400, "audio_end_ms: longer than the answer's sound", param="audio_end_ms")
        await self.floor.truncate(entry, event.audio_end_ms / 1000)
        place = {"content_index": event.content_index, "audio_end_ms": event.audio_end_ms}
        await self.sender.emit("conversation.item.truncated", item_id=event.item_id, **place)


def _without_flat_fields(content: dict[str, object]) -> dict[Path, str]:
    """Put the beta protocol's flat fields where they are today; what each place was called. Raises: ApiError."""
    for what in ("session", "response"):
        fields = content.get(what)
        if isinstance(fields, dict):
            content[what], called = nested(fields, what)
            return called
    return {}


def _told(error: ValidationError, called: dict[Path, str]) -> ApiError:
    first = error.errors(include_input=False, include_url=False)[0]
    # The first is the event's type; those in capitals and the like are names of our own classes and tags.
    place = [str(part) for part in first["loc"][1:] if len(str(part)) < 40 and str(part).isidentifier()]
    holder = place[:1] if place[:1] in (["session"], ["response"]) else []
    what = ".".join([*holder, told_name(place[len(holder) :], called)] if called else place) or "type"
    return ApiError(400, f"{what}: missing, unknown, or not a value that it can have", param=what, code="invalid_event")


async def _ended(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Cancel tasks and wait for their ends; what they raise has been told, or is of the client's leaving."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
