"""One answer of a realtime session: from a reply's events to OpenAI's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing

import numpy as np

from emova.core.errors import InternalFault
from emova.events import AudioChunk, Cancelled, Done, Failed, SessionEvent
from emova.reply.calls import CallDelta, CallStarted
from emova.reply.parser import SpokenReply, StyleChosen, TextDelta, TranscriptDelta
from emova_app.server.api.media import to_base64
from emova_app.server.errors import INTERNAL, ApiError
from emova_app.server.http.front import new_id
from emova_app.server.json_types import (
    AnyItem,
    ContentPart,
    JsonObject,
    RealtimeCall,
    RealtimeItem,
    call_item,
    message_item,
)
from emova_app.server.realtime.settings import Settings, shown_format
from emova_app.server.realtime.sound import Outgoing
from emova_app.server.service import Service

Emit = Callable[..., Awaitable[None]]
HEARD = "conversation.item.input_audio_transcription."


class Answering:
    """Tells one reply, and remembers what of it the client can have heard.

    Args:
        emit: sends an event: its type, then its fields.
        settings: as this answer is wished for.
        conversation: its id; None keeps the answer out of it.
        metadata: goes back with the answer.
        asked: the items of the spoken question, if its transcript is wanted, and what was told of that already; it is
            written into them too.
        previous_item: the item before the answer.

    Attributes:
        heard: whether there was more than silence in the spoken question.
        status: OpenAI's, of the response.
        reply: all that was answered, once it is complete.
    """

    def __init__(
        self,
        service: Service,
        emit: Emit,
        settings: Settings,
        conversation: str | None,
        metadata: dict[str, str] | None,
        asked: Sequence[tuple[RealtimeItem, str]] = (),
        previous_item: str | None = None,
    ) -> None:
        self.service, self._emit, self._settings, self._conversation = service, emit, settings, conversation
        self.spoken, self._metadata, self._asked = settings.spoken, metadata, asked
        self._previous_item = previous_item
        self.id, self.item_id = new_id("resp"), new_id("item")
        self.text = self.transcript = ""
        self.emotion: str | None = None
        self.pitch: str | None = None
        self.sent_seconds = 0.0
        self.reason = "turn_detected"
        self.heard = True
        self.status = "in_progress"
        self.reply: SpokenReply | None = None
        self.stopped = self.done = False
        self._first_sent = 0.0
        self._begun = False
        self._opened = False  # whether the client knows of the message
        self._calls: list[RealtimeCall] = []
        self._outgoing = Outgoing(settings.speaks, service.assistant.voice.sample_rate)

    # --- what the client hears ----------------------------------------------------------------------------------------
    def stop(self, reason: str) -> None:
        """From now on no more of it is sent."""
        self.stopped, self.reason = True, reason

    def heard_seconds(self) -> float:
        """How much a client that plays at once can have heard by now."""
        if not self._first_sent:
            return 0.0
        return min(self.sent_seconds, time.monotonic() - self._first_sent)

    @property
    def playing(self) -> bool:
        """Whether its sound can still be playing."""
        return bool(self._first_sent) and self.heard_seconds() < self.sent_seconds

    # --- telling ------------------------------------------------------------------------------------------------------
    @property
    def items(self) -> list[AnyItem]:
        """The answer as items of the conversation: a message, or calls of tools in its place, or nothing yet."""
        if self._calls:
            return [*self._calls]
        return [self._item("completed" if self.status == "completed" else "incomplete")] if self._opened else []

    def _part(self) -> ContentPart:
        return {"type": "audio", "transcript": self.text} if self.spoken else {"type": "text", "text": self.text}

    def _item(self, status: str) -> RealtimeItem:
        whole: ContentPart = {"type": "output_text", "text": self.text}
        if self.spoken:
            whole = {"type": "output_audio", "transcript": self.text}
        return message_item(self.item_id, "assistant", [] if status == "in_progress" else [whole], status)

    def _response(self, status: str, details: JsonObject | None = None) -> JsonObject:
        output = [] if status == "in_progress" else self.items
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": self._conversation,
            "output_modalities": ["audio" if self.spoken else "text"],
            "audio": {"output": {"format": shown_format(self._settings.speaks), "voice": self._settings.voice}},
            "metadata": self._metadata,
            "usage": None,
            "emotion": self.emotion,
            "pitch": self.pitch,
        }

    @property
    def _place(self) -> JsonObject:
        return {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "content_index": 0}

    async def tell(self, events: Iterator[SessionEvent]) -> None:
        """Send everything from ``response.created`` to ``response.done``."""
        self._begun = True
        await self._emit("response.created", response=self._response("in_progress"))
        toolbox = self._settings.toolbox
        if toolbox is None or not toolbox.may_call:
            await self._open()
        status = "cancelled"
        details: JsonObject = {"type": "cancelled", "reason": self.reason}
        async with aclosing(self.service.each(events)) as told:
            async for event in told:
                if isinstance(event, Done):
                    status, details = "completed", {"type": "completed"}
                    await self._sound(np.zeros(0, dtype=np.float32), last=not self._calls)
                    self._finish(event)
                elif isinstance(event, Failed):
                    status, details = "failed", {"type": "failed", "error": self._fault(event)}
                elif isinstance(event, Cancelled):
                    details = {"type": "cancelled", "reason": self.reason}
                elif not self.stopped:
                    await self._delta(event)
        await self._end(status, details)

    async def fail(self, error: ApiError) -> None:
        """End an answer that something else broke off, if its client knows of it and not of its end."""
        if not self._begun or self.status != "in_progress":
            self.status = "failed"
            return
        fields = error.body["error"]
        fault: JsonObject = {"type": fields["type"], "code": fields["code"], "message": fields["message"]}
        await self._end("failed", {"type": "failed", "error": fault})

    async def _end(self, status: str, details: JsonObject) -> None:
        self.status = status
        if self._calls:
            await self._end_call("completed" if status == "completed" else "incomplete")
        elif self._opened:
            await self._end_message()
        self.done = True
        await self._emit("response.done", response=self._response(status, details))

    # --- the message --------------------------------------------------------------------------------------------------
    async def _open(self) -> None:
        if not self._opened:
            self._opened = True
            await self._tell_item("added", 0, self._item("in_progress"))
            await self._emit("response.content_part.added", **self._place, part=self._part())

    async def _end_message(self) -> None:
        if self.spoken:
            await self._emit("response.output_audio.done", **self._place)
            await self._emit("response.output_audio_transcript.done", **self._place, transcript=self.text)
        else:
            await self._emit("response.output_text.done", **self._place, text=self.text)
        await self._emit("response.content_part.done", **self._place, part=self._part())
        await self._tell_item("done", 0, *self.items)

    async def _tell_item(self, what: str, index: int, item: AnyItem) -> None:
        await self._emit(f"response.output_item.{what}", response_id=self.id, output_index=index, item=item)
        if self._conversation is not None:
            previous = self._calls[index - 1]["id"] if index else self._previous_item
            await self._emit(f"conversation.item.{what}", previous_item_id=previous, item=item)

    # --- calls --------------------------------------------------------------------------------------------------------
    @property
    def _call_place(self) -> JsonObject:
        call, index = self._calls[-1], len(self._calls) - 1
        return {"response_id": self.id, "item_id": call["id"], "output_index": index, "call_id": call["call_id"]}

    async def _begin_call(self, name: str) -> None:
        if self._calls:
            await self._end_call("completed")
        else:
            await self._tell_transcript()
        item_id = new_id("item") if self._calls else self.item_id
        self._calls.append(call_item(item_id, new_id("call"), name, "", "in_progress"))
        await self._tell_item("added", len(self._calls) - 1, self._calls[-1])

    async def _end_call(self, status: str) -> None:
        call = self._calls[-1]
        call["status"] = status
        told = {"name": call["name"], "arguments": call["arguments"]}
        await self._emit("response.function_call_arguments.done", **self._call_place, **told)
        await self._tell_item("done", len(self._calls) - 1, call)

    # --- what comes ---------------------------------------------------------------------------------------------------
    async def _delta(self, event: SessionEvent) -> None:
        if isinstance(event, TranscriptDelta):
            self.transcript += event.text
        elif isinstance(event, TextDelta):
            if not self.text:
                await self._open()
                await self._tell_transcript()
            self.text += event.text
            kind = "response.output_audio_transcript.delta" if self.spoken else "response.output_text.delta"
            await self._emit(kind, **self._place, delta=event.text)
        elif isinstance(event, StyleChosen):
            self.emotion, self.pitch = event.style.emotion, event.style.pitch
        elif isinstance(event, AudioChunk):
            await self._sound(event.samples)
        elif isinstance(event, CallStarted):
            await self._begin_call(event.name)
        elif isinstance(event, CallDelta):
            self._calls[-1]["arguments"] += event.arguments
            await self._emit("response.function_call_arguments.delta", **self._call_place, delta=event.arguments)

    async def _sound(self, samples: np.ndarray, last: bool = False) -> None:
        data = self._outgoing.give(samples, last) if self.spoken and not self.stopped else b""
        if data:
            self._first_sent = self._first_sent or time.monotonic()
            self.sent_seconds += len(data) / self._outgoing.wire.width / self._outgoing.wire.rate
            await self._emit("response.output_audio.delta", **self._place, delta=to_base64(data))

    async def _tell_transcript(self) -> None:
        # A question of several pieces is understood as one.
        for index, (item, told) in enumerate(self._asked):
            transcript = self.transcript if index == 0 and self.heard else ""
            place = next(index for index, part in enumerate(item["content"]) if part["type"] == "input_audio")
            item["content"][place]["transcript"] = transcript
            at = {"item_id": item["id"], "content_index": place}
            if len(transcript) > len(told):
                await self._emit(HEARD + "delta", **at, delta=transcript[len(told) :])
            await self._emit(
                HEARD + "completed",
                **at,
                transcript=transcript,
                usage={"type": "duration", "seconds": 0},
            )

    def _fault(self, event: Failed) -> JsonObject:
        if isinstance(event.error, InternalFault):
            return {"type": "server_error", "code": "internal_error", "message": INTERNAL}
        return {"type": "invalid_request_error", "code": "invalid_question", "message": event.message}

    def _finish(self, event: Done) -> None:
        reply = event.reply
        seconds = len(reply.audio) / reply.sample_rate
        self.reply = SpokenReply(reply.transcript, reply.text, reply.emotion, reply.pitch, reply.units, reply.calls)
        if not reply.calls:
            self.service.metrics.spoken(reply.timings.first_audio, reply.timings.total, seconds)
