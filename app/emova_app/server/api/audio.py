"""``POST /v1/audio/speech`` and ``POST /v1/audio/transcriptions``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from emova.assistant import Assistant
from emova.session.scheduler import Scheduler
from emova.speech.audio import load_audio
from emova.speech.style import Style
from emova_app.reading import read_aloud
from emova_app.server.api.chat_types import Emotion, Pitch, Short, Text, VoiceId
from emova_app.server.api.encode import MEDIA_TYPES, Encoder, Format
from emova_app.server.api.media import to_base64
from emova_app.server.errors import as_api_error, described
from emova_app.server.http.json_body import JsonLimits, UploadRoute, json_route
from emova_app.server.http.streams import Stream, event, event_stream
from emova_app.server.json_types import JsonObject
from emova_app.server.service import Service, check_style, find_voice
from emova_app.transcribing import write_units_down


class SpeechRequest(BaseModel):
    """A text to read aloud."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Short
    input: Text
    voice: Short | VoiceId | None = None
    response_format: Format = "mp3"
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    speed: Annotated[float, Field(ge=1, le=1)] | None = None  # the only one
    stream_format: Literal["audio", "sse"] = "audio"


class Transcription(BaseModel):
    """What was said."""

    text: str


class LongTranscription(Transcription):
    """What was said, and for how long (s)."""

    task: str = "transcribe"
    language: str = "english"
    duration: float
    segments: Annotated[list[object], Field(max_length=0)] = []


def write_down(scheduler: Scheduler[Assistant], samples: np.ndarray) -> Iterator[str]:
    """Pieces of what is said in ``samples`` ``[T]``. Raises: InputError."""
    yield from write_units_down(scheduler, scheduler.assistant.listen(samples))


def router(service: Service) -> APIRouter:
    """The routes on ``service``."""
    routes = APIRouter()
    spoken = APIRouter(route_class=json_route(JsonLimits(service.config.max_json_bytes)))
    heard = APIRouter(route_class=UploadRoute)
    sounds: dict[str, JsonObject] = {kind: {} for kind in sorted({*MEDIA_TYPES.values(), "text/event-stream"})}

    @spoken.post(
        "/v1/audio/speech",
        response_class=Response,
        responses={200: {"content": sounds, "description": "The sound"}, **described(404)},
    )
    async def speech(request: Request, wish: SpeechRequest) -> Response:
        """Read a text aloud; the sound comes while it is made."""
        chosen = service.of(wish.model)
        styles = chosen.assistant.styles
        voice = find_voice(styles, wish.voice.id if isinstance(wish.voice, VoiceId) else wish.voice)
        check_style(styles, wish.emotion, wish.pitch)
        return await _speech(chosen, wish, styles.parse(voice, wish.emotion, wish.pitch), request.state.deadline)

    @heard.post(
        "/v1/audio/transcriptions",
        response_model=Transcription | LongTranscription,
        responses={
            200: {"content": {"text/plain": {}, "text/event-stream": {}}, "description": "What was said"},
            **described(404),
        },
    )
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form(max_length=200)],
        response_format: Annotated[Literal["json", "text", "verbose_json"], Form()] = "json",
        stream: Annotated[Literal["true", "false"], Form()] = "false",
    ) -> Transcription | Response:
        """Write down what is said in an audio file."""
        chosen = service.of(model)
        data = await file.read()
        rate, limits = chosen.assistant.speech_tokenizer.sample_rate, chosen.assistant.config.audio_limits
        samples = await chosen.run(lambda: load_audio(data, rate, limits, reject_silence=True))
        if stream == "true":
            return event_stream(_transcript_events(chosen, samples, request.state.deadline))
        pieces = []
        async with aclosing(chosen.each(write_down(chosen.scheduler, samples))) as written:
            async for piece in written:
                pieces.append(piece)
        text = "".join(pieces).strip()
        if response_format == "text":
            return PlainTextResponse(text + "\n")
        if response_format == "json":
            return Transcription(text=text)
        return LongTranscription(text=text, duration=len(samples) / rate)

    routes.include_router(spoken)
    routes.include_router(heard)
    return routes


async def _speech(service: Service, wish: SpeechRequest, style: Style, deadline: float) -> Response:
    loop, started = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    rate = service.assistant.voice.sample_rate
    chunks = service.each(read_aloud(service.scheduler, wish.input, style))
    try:
        first = await anext(chunks)
    except BaseException:
        await chunks.aclose()
        raise
    first_audio = loop.time() - started

    async def sound() -> AsyncGenerator[bytes, None]:
        encoder = Encoder(wish.response_format, rate)
        count = len(first)
        async with aclosing(chunks), asyncio.timeout_at(deadline):
            yield await service.run(encoder.add, first)
            async for samples in chunks:
                count += len(samples)
                yield await service.run(encoder.add, samples)
            yield await service.run(encoder.finish)
        service.metrics.spoken(first_audio, loop.time() - started, count / rate)

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(sound()) as pieces:
                async for data in pieces:
                    if data:
                        yield event({"type": "speech.audio.delta", "audio": to_base64(data)})
            yield event({"type": "speech.audio.done"})
        except Exception as error:
            yield event(as_api_error(error).body)

    if wish.stream_format == "sse":
        return event_stream(events())
    return Stream(sound(), MEDIA_TYPES[wish.response_format])


async def _transcript_events(service: Service, samples: np.ndarray, deadline: float) -> AsyncGenerator[bytes, None]:
    text = ""
    try:
        async with (
            aclosing(service.each(write_down(service.scheduler, samples))) as pieces,
            asyncio.timeout_at(deadline),
        ):
            async for piece in pieces:
                piece = piece if text else piece.lstrip()
                text += piece
                if piece:
                    yield event({"type": "transcript.text.delta", "delta": piece})
        yield event({"type": "transcript.text.done", "text": text.strip()})
    except Exception as error:
        yield event(as_api_error(error).body)
