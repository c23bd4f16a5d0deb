"""One answer of a realtime session: from a reply's events to OpenAI's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing

import numpy as np
import soxr

from emova.core.errors import InternalFault
from emova.events import AudioChunk, Cancelled, Done, Failed, SessionEvent
from emova.reply.parser import StyleChosen, TextDelta, TranscriptDelta
from emova_app.pcm import to_pcm
from emova_app.server.api.media import to_base64
from emova_app.server.errors import INTERNAL
from emova_app.server.http.front import new_id
from emova_app.server.json_types import ContentPart, JsonObject, RealtimeItem, message_item
from emova_app.server.service import Service

Emit = Callable[..., Awaitable[None]]
RATE = 24_000


class Answering:
    """Tells one reply, and remembers what of it the client can have heard.

    Args:
        emit: sends an event: its type, then its fields.
        conversation: its id.
        spoken: whether the client wants sound; if not, text alone.
        metadata: goes back with the answer.
        asked_item: the item of the spoken question, if its transcript is wanted.
        previous_item: the item before the answer.
    """

    def __init__(
        self,
        service: Service,
        emit: Emit,
        conversation: str,
        spoken: bool,
        metadata: dict[str, str] | None,
        asked_item: str | None,
        previous_item: str | None,
    ) -> None:
        self.service, self._emit, self._conversation = service, emit, conversation
        self.spoken, self._metadata, self._asked_item = spoken, metadata, asked_item
        self._previous_item = previous_item
        self.id, self.item_id = new_id("resp"), new_id("item")
        self.text = self.transcript = ""
        self.emotion: str | None = None
        self.pitch: str | None = None
        self.sent_seconds = 0.0
        self.reason = "turn_detected"
        self.stopped = self.done = False
        self._first_sent = 0.0
        self._to_client: soxr.ResampleStream | None = None
        rate = service.assistant.voice.sample_rate
        if rate != RATE:
            self._to_client = soxr.ResampleStream(rate, RATE, 1, dtype="float32")

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
    def item(self) -> RealtimeItem:
        """The answer as an item of the conversation."""
        return self._item("completed")

    def _part(self) -> ContentPart:
        return {"type": "audio", "transcript": self.text} if self.spoken else {"type": "text", "text": self.text}

    def _item(self, status: str) -> RealtimeItem:
        whole: ContentPart = {"type": "output_text", "text": self.text}
        if self.spoken:
            whole = {"type": "output_audio", "transcript": self.text}
        return message_item(self.item_id, "assistant", [] if status == "in_progress" else [whole], status)

    def _response(self, status: str, details: JsonObject | None = None) -> JsonObject:
        output = [] if status == "in_progress" else [self._item("completed" if status == "completed" else "incomplete")]
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": self._conversation,
            "output_modalities": ["audio" if self.spoken else "text"],
            "metadata": self._metadata,
            "usage": None,
            "emotion": self.emotion,
            "pitch": self.pitch,
        }

    async def tell(self, events: Iterator[SessionEvent]) -> None:
        """Send everything from ``response.created`` to ``response.done``."""
        place: JsonObject = {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "content_index": 0}
        begun = self._item("in_progress")
        await self._emit("response.created", response=self._response("in_progress"))
        await self._emit("response.output_item.added", response_id=self.id, output_index=0, item=begun)
        await self._emit("conversation.item.added", previous_item_id=self._previous_item, item=begun)
        await self._emit("response.content_part.added", **place, part=self._part())
        status = "cancelled"
        details: JsonObject = {"type": "cancelled", "reason": self.reason}
        async with aclosing(self.service.each(events)) as told:
            async for event in told:
                if isinstance(event, Done):
                    status, details = "completed", {"type": "completed"}
                    self._measure(event)
                elif isinstance(event, Failed):
                    status, details = "failed", {"type": "failed", "error": self._fault(event)}
                elif isinstance(event, Cancelled):
                    details = {"type": "cancelled", "reason": self.reason}
                elif not self.stopped:
                    await self._delta(event, place)
        if self.spoken:
            await self._emit("response.output_audio.done", **place)
            await self._emit("response.output_audio_transcript.done", **place, transcript=self.text)
        else:
            await self._emit("response.output_text.done", **place, text=self.text)
        await self._emit("response.content_part.done", **place, part=self._part())
        item = self._item("completed" if status == "completed" else "incomplete")
        await self._emit("response.output_item.done", response_id=self.id, output_index=0, item=item)
        await self._emit("conversation.item.done", previous_item_id=self._previous_item, item=item)
        self.done = True
        await self._emit("response.done", response=self._response(status, details))

    async def _delta(self, event: SessionEvent, place: JsonObject) -> None:
        if isinstance(event, TranscriptDelta):
            self.transcript += event.text
        elif isinstance(event, TextDelta):
            if not self.text:
                await self._tell_transcript()
            self.text += event.text
            kind = "response.output_audio_transcript.delta" if self.spoken else "response.output_text.delta"
            await self._emit(kind, **place, delta=event.text)
        elif isinstance(event, StyleChosen):
            self.emotion, self.pitch = event.style.emotion, event.style.pitch
        elif isinstance(event, AudioChunk) and self.spoken:
            samples = self._resampled(event.samples)
            self._first_sent = self._first_sent or time.monotonic()
            self.sent_seconds += len(samples) / RATE
            await self._emit("response.output_audio.delta", **place, delta=to_base64(to_pcm(samples)))

    async def _tell_transcript(self) -> None:
        if self._asked_item is not None:
            await self._emit(
                "conversation.item.input_audio_transcription.completed",
                item_id=self._asked_item,
                content_index=0,
                transcript=self.transcript,
                usage={"type": "duration", "seconds": 0},
            )

    def _resampled(self, samples: np.ndarray) -> np.ndarray:
        return samples if self._to_client is None else self._to_client.resample_chunk(samples)

    def _fault(self, event: Failed) -> JsonObject:
        if isinstance(event.error, InternalFault):
            return {"type": "server_error", "code": "internal_error", "message": INTERNAL}
        return {"type": "invalid_request_error", "code": "invalid_question", "message": event.message}

    def _measure(self, event: Done) -> None:
        reply = event.reply
        seconds = len(reply.audio) / reply.sample_rate
        self.service.metrics.spoken(reply.timings.first_audio, reply.timings.total, seconds)
