"""From a request's conversation to a session that has read it, and to the events of its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np

from emova.core.errors import InputError
from emova.decoding.sampling import Sampling
from emova.events import Cancelled, Event, Failed, SessionEvent
from emova.reply.format import ReplyLimits
from emova.reply.parser import SpokenReply
from emova.session.session import Session
from emova.speech.audio import load_audio
from emova.speech.style import StyleSet
from emova_app.server.api.chat_types import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    SystemMessage,
    TextPart,
    UserMessage,
    VoiceId,
)
from emova_app.server.api.media import from_base64, read_picture
from emova_app.server.errors import ApiError
from emova_app.server.service import Service, check_style, find_voice


@dataclass
class Question:
    """One user's turn: at most one picture, sound, and words."""

    picture: str | None = None
    sounds: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str | None:
        """All words."""
        return "\n".join(self.words) or None

    def add(self, message: UserMessage) -> None:
        """Take a message; several in a row are one turn. Raises: InputError."""
        for part in [message.content] if isinstance(message.content, str) else message.content:
            if isinstance(part, str | TextPart):
                text = part if isinstance(part, str) else part.text
                if text.strip():
                    self.words.append(text)
            elif isinstance(part, ImagePart):
                if self.picture is not None:
                    raise InputError("messages: a turn holds one picture; show the others in turns of their own")
                self.picture = part.image_url.url
            else:
                self.sounds.append(part.input_audio.data)


def checked(event: SessionEvent, service: Service) -> Event:
    """An event of a reply. Raises: InputError, InternalFault, ApiError: it is the end of one that failed."""
    if isinstance(event, Failed):
        if service.draining.is_set():
            raise ApiError(503, "the server is shutting down", kind="server_error")
        raise event.error
    assert not isinstance(event, Cancelled), "nobody but the reader cancels"
    return event


async def hear(service: Service, session: Session, sound: bytes) -> None:
    """Let a session hear an audio file, a second at a time, so that it does not hold up others. Raises: InputError."""
    rate, limits = service.assistant.speech_tokenizer.sample_rate, service.assistant.config.audio_limits
    samples = await service.run(lambda: load_audio(sound, rate, limits, reject_silence=True))
    for start in range(0, len(samples), rate):
        await service.run(session.hear, np.ascontiguousarray(samples[start : start + rate]))


async def prepare(service: Service, session: Session, question: Question) -> None:
    """Show and play a question to a session. Raises: InputError."""
    if question.picture is not None:
        await service.run(session.show, await read_picture(question.picture, service.fetcher))
    for sound in question.sounds:
        await hear(service, session, from_base64(sound, "the audio"))


def _system(request: ChatRequest) -> str:
    texts = []
    for message in request.messages:
        if isinstance(message, SystemMessage):
            parts = [message.content] if isinstance(message.content, str) else [part.text for part in message.content]
            texts += parts
    return "\n".join(texts)


def _recalled(service: Service, message: AssistantMessage, question: Question) -> SpokenReply:
    if message.audio is not None:
        return service.replies.find(message.audio.id)
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    if not text.strip():
        raise InputError("messages: an earlier answer is empty; send its text or the id of its audio")
    styles = service.assistant.styles
    check_style(styles, message.emotion, message.pitch)
    style = styles.parse(None, message.emotion, message.pitch)
    return SpokenReply(question.text or "", service.assistant.check_text(text), style.emotion, style.pitch, ())


def _turns(service: Service, request: ChatRequest) -> tuple[list[tuple[Question, SpokenReply]], Question]:
    """The earlier turns that may still have room in the model's context, and the question.

    What cannot fit is dropped here, before its sounds and pictures are decoded. Raises: InputError.
    """
    turns: list[tuple[Question, SpokenReply]] = []
    question = Question()
    for message in request.messages:
        if isinstance(message, UserMessage):
            question.add(message)
        elif isinstance(message, AssistantMessage):
            turns.append((question, _recalled(service, message, question)))
            question = Question()
    assistant = service.assistant
    first, left = len(turns), assistant.trained_context
    while first > 0 and left > 0:
        first -= 1
        asked, reply = turns[first]
        # At least so long: a picture and a sound have some positions too.
        left -= len(assistant.reply_format.encode(reply, assistant.table)) + len(asked.text or "") // 16
    return turns[first:], question


def _sampling(request: ChatRequest, usual: Sampling) -> Sampling:
    return replace(
        usual,
        text_temperature=usual.text_temperature if request.temperature is None else request.temperature,
        top_p=usual.top_p if request.top_p is None else request.top_p,
        seed=usual.seed if request.seed is None else request.seed % (1 << 63),
    )


def limits_of(request: ChatRequest, usual: ReplyLimits) -> ReplyLimits:
    """The reply's limits with the request's own on its text."""
    most = request.max_completion_tokens or request.max_tokens
    return usual if most is None else replace(usual, max_text_tokens=min(most, usual.max_text_tokens))


def voice_of(request: ChatRequest, styles: StyleSet) -> str:
    """Raises: ApiError: there is no such voice."""
    voice = None if request.audio is None else request.audio.voice
    return find_voice(styles, voice.id if isinstance(voice, VoiceId) else voice, "audio.voice")


async def answer(service: Service, request: ChatRequest) -> AsyncGenerator[tuple[Event, Session], None]:
    """The events of the answer to a request's conversation. Raises: InputError, ApiError."""
    check_style(service.assistant.styles, request.emotion, request.pitch)
    instructions = _system(request)
    if len(instructions) > service.assistant.config.max_text_characters:
        raise InputError("messages: the instructions are too long; shorten them")
    async with service.session(voice_of(request, service.assistant.styles), instructions) as session:
        earlier, question = _turns(service, request)
        for asked_before, reply in earlier:
            await prepare(service, session, asked_before)
            await service.run(session.recall, reply, asked_before.text)
        await prepare(service, session, question)
        config = service.assistant.config
        asked = await service.run(
            lambda: session.ask(
                question.text,
                emotion=request.emotion,
                pitch=request.pitch,
                limits=limits_of(request, config.reply_limits),
                sampling=_sampling(request, config.sampling),
            )
        )
        async with aclosing(service.each(asked)) as events:
            async for event in events:
                yield checked(event, service), session
