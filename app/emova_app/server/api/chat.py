"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from emova.events import AudioChunk, Done, Event
from emova.reply.calls import Call, CallDelta, CallStarted
from emova.reply.format import WordsEnd
from emova.reply.parser import SpokenReply, StyleChosen, TextDelta, TranscriptDelta
from emova_app.server.api.chat_types import (
    AnswerChoice,
    AnswerMessage,
    CalledFunction,
    ChatAnswer,
    ChatRequest,
    FinishReason,
    SpokenAudio,
    ToolCall,
    Usage,
)
from emova_app.server.api.encode import Encoder, encode
from emova_app.server.api.media import to_base64
from emova_app.server.api.request_mapping import answer, limits_of
from emova_app.server.errors import ApiError, as_api_error, described
from emova_app.server.http.front import new_id
from emova_app.server.http.json_body import JsonLimits, json_route
from emova_app.server.http.streams import event as sse
from emova_app.server.http.streams import event_stream
from emova_app.server.json_types import JsonObject
from emova_app.server.service import Service


@dataclass
class ReplySoFar:
    """What was sent of an answer."""

    transcript: str = ""
    text: str = ""
    emotion: str = ""
    pitch: str = ""
    units: tuple[int, ...] = ()
    audio: np.ndarray | None = None
    calls: list[ToolCall] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Remember an event."""
        if isinstance(event, TranscriptDelta):
            self.transcript += event.text
        elif isinstance(event, TextDelta):
            self.text += event.text
        elif isinstance(event, StyleChosen):
            self.emotion, self.pitch = event.style.emotion, event.style.pitch
        elif isinstance(event, CallStarted):
            called = CalledFunction(name=event.name, arguments="")
            self.calls.append(ToolCall(id=new_id("call"), function=called))
        elif isinstance(event, CallDelta):
            self.calls[-1].function.arguments += event.arguments
        elif isinstance(event, Done) and not event.reply.calls:
            self.units, self.audio = event.reply.units, event.reply.audio

    @property
    def reply(self) -> SpokenReply:
        """The reply as it can be recalled."""
        calls = tuple(Call(call.function.name, call.function.arguments) for call in self.calls)
        return SpokenReply(self.transcript, self.text, self.emotion, self.pitch, self.units, calls)


def router(service: Service) -> APIRouter:
    """The route on ``service``."""
    routes = APIRouter(route_class=json_route(JsonLimits(service.config.max_json_bytes)))
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    streamed: dict[int | str, dict[str, Any]] = {200: {"content": content, "description": "The answer"}}

    @routes.post("/v1/chat/completions", response_model=ChatAnswer, responses={**streamed, **described(404)})
    async def chat_completions(request: Request, asked: ChatRequest) -> ChatAnswer | Response:
        """Answer a conversation of words, pictures and sound, in words and, if wished, in a voice."""
        answering = Answering(service.of(asked.model), asked)
        if not asked.stream:
            return await answering.whole()
        return await answering.stream(request.state.deadline)

    return routes


class Answering:
    """One request's answer, whole or as a stream."""

    def __init__(self, service: Service, asked: ChatRequest) -> None:
        self.service, self.asked = service, asked
        self.spoken = "audio" in (asked.modalities or ())
        self.id, self.created = new_id("chatcmpl"), int(time.time())
        self.rate = service.assistant.voice.sample_rate
        self.format = asked.audio.format if asked.audio else "wav"
        self.sent = ReplySoFar()
        self.prompt_tokens = 0

    async def _events(self) -> AsyncGenerator[Event, None]:
        async with aclosing(answer(self.service, self.asked)) as events:
            async for event, session in events:
                self.prompt_tokens = session.asked_tokens
                self.sent.take(event)
                if self.spoken and isinstance(event, Done) and not event.reply.calls:
                    reply = event.reply
                    seconds = len(reply.audio) / reply.sample_rate
                    self.service.metrics.spoken(reply.timings.first_audio, reply.timings.total, seconds)
                yield event
                if not self.spoken and self._words_end(event):  # without a voice, the rest need not be made
                    return

    def _words_end(self, event: Event) -> bool:
        """Whether no words come after ``event``."""
        ends: dict[WordsEnd, type[Event]] = {"style": StyleChosen, "voice": AudioChunk, "reply": Done}
        return isinstance(event, ends[self.service.assistant.reply_format.words_end]) and bool(self.sent.text)

    def _usage(self) -> Usage:
        assistant = self.service.assistant
        completion = len(assistant.reply_format.encode(self.sent.reply, assistant.table))
        total = self.prompt_tokens + completion
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=completion, total_tokens=total)

    def _finish_reason(self) -> FinishReason:
        if self.sent.calls:
            return "tool_calls"
        assistant = self.service.assistant
        most = limits_of(self.asked, assistant.config.reply_limits).max_text_tokens
        return "length" if len(assistant.table.encode(self.sent.text)) >= most else "stop"

    async def whole(self) -> ChatAnswer:
        """The answer in one piece."""
        async with aclosing(self._events()) as events:
            async for _ in events:
                pass
        audio = None
        if self.spoken and self.sent.audio is not None:
            name, expires = self.service.replies.keep(self.sent.reply)
            data = await self.service.run(encode, self.format, self.sent.audio, self.rate)
            audio = SpokenAudio(id=name, data=to_base64(data), expires_at=expires, transcript=self.sent.text)
        message = AnswerMessage(
            content=None if audio or self.sent.calls else self.sent.text,
            audio=audio,
            tool_calls=self.sent.calls or None,
            emotion=self.sent.emotion or None,
            pitch=self.sent.pitch or None,
            input_transcript=self.sent.transcript,
        )
        choice = AnswerChoice(message=message, finish_reason=self._finish_reason())
        model = self.asked.model
        return ChatAnswer(id=self.id, created=self.created, model=model, choices=[choice], usage=self._usage())

    # --- stream -------------------------------------------------------------------------------------------------------
    async def stream(self, deadline: float) -> Response:
        """The answer as server-sent events. What goes wrong before the first is an ordinary error."""
        events = self._events()
        try:
            async with asyncio.timeout_at(deadline):
                first = await anext(events)
        except BaseException:
            await events.aclose()
            raise
        return event_stream(self._lines(first, events, deadline))

    async def _lines(
        self, first: Event, events: AsyncGenerator[Event, None], deadline: float
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            try:
                async with asyncio.timeout_at(deadline):
                    async for delta in self._deltas(first, events):
                        yield self._line(delta)
                yield self._line({}, self._finish_reason())
                if self.asked.stream_options and self.asked.stream_options.include_usage:
                    yield sse({**self._head(), "choices": [], "usage": self._usage().model_dump()})
            except TimeoutError:
                late = ApiError(504, "the answer took too long; ask for less", kind="server_error", code="timeout")
                self.service.metrics.cancelled.labels("deadline").inc()
                yield sse(late.body)
            except Exception as error:
                yield self._refusal(error)
            yield b"data: [DONE]\n\n"

    def _refusal(self, error: Exception) -> bytes:
        refusal = as_api_error(error)
        self.service.metrics.errors.labels(str(refusal.status)).inc()
        return sse(refusal.body)

    async def _deltas(self, first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[JsonObject, None]:
        """What is new, piece by piece: clients join strings, so whatever is no piece of one is sent once."""
        speaking = _Speaking(self.service, Encoder(self.format, self.rate)) if self.spoken else None
        yield {"role": "assistant", "content": None if self.spoken else ""}
        event: Event | None = first
        while event is not None:
            if isinstance(event, TranscriptDelta):
                yield {"input_transcript": event.text}
            elif isinstance(event, TextDelta):
                yield {"content": event.text} if speaking is None else speaking.said(event.text)
            elif isinstance(event, StyleChosen):
                yield {"emotion": event.style.emotion, "pitch": event.style.pitch}
            elif isinstance(event, CallStarted):
                index = len(self.sent.calls) - 1
                yield {"tool_calls": [{"index": index, **self.sent.calls[index].model_dump()}]}
            elif isinstance(event, CallDelta):
                called = {"index": len(self.sent.calls) - 1, "function": {"arguments": event.arguments}}
                yield {"tool_calls": [called]}
            elif speaking is not None and not self.sent.calls and (delta := await speaking.heard(event)):
                yield delta
            event = await anext(events, None)
        if speaking is not None and speaking.name:
            expires = self.service.replies.keep(self.sent.reply, speaking.name)[1]
            yield {"audio": {"expires_at": expires}}

    def _head(self) -> JsonObject:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.asked.model}

    def _line(self, delta: JsonObject, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return sse({**self._head(), "choices": [choice]})


class _Speaking:
    """The ``audio`` of a stream's deltas; joined, its ``data`` is one file's base64.

    Attributes:
        name: of the spoken answer, once anything of it was sent.
    """

    def __init__(self, service: Service, encoder: Encoder) -> None:
        self._service, self._encoder = service, encoder
        self.name = ""
        self._left = b""  # less than a group of base64

    def said(self, text: str) -> JsonObject:
        """The delta of more words; the first has the answer's id, and no other."""
        named = {} if self.name else {"id": new_id("audio")}
        self.name = self.name or named["id"]
        return {"audio": {**named, "transcript": text}}

    async def heard(self, event: Event) -> JsonObject | None:
        """The delta of more sound, or of its end; None where there is nothing to send yet."""
        if isinstance(event, AudioChunk):
            data = self._left + await self._service.run(self._encoder.add, event.samples)
            whole = len(data) // 3 * 3
        else:
            data = self._left + await self._service.run(self._encoder.finish)
            whole = len(data)
        self._left = data[whole:]
        return {"audio": {"data": to_base64(data[:whole])}} if whole else None
