"""From a request's conversation to a session that has read it, and to the events of its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

import numpy as np
from PIL.Image import Image

from emova.core.errors import InputError
from emova.decoding.sampling import Sampling
from emova.events import Cancelled, Event, Failed, SessionEvent
from emova.reply.format import ReplyLimits
from emova.reply.parser import SpokenReply
from emova.reply.tools import Toolbox, ToolResult
from emova.session.input import Question as HeardQuestion
from emova.session.past import PastTurn, positions
from emova.session.session import Session
from emova.speech.audio import load_audio
from emova.speech.style import StyleSet
from emova.vision.image import load_image
from emova_app.server.api.chat_types import ChatRequest, NamedTool, VoiceId
from emova_app.server.api.media import from_base64, read_picture
from emova_app.server.api.turns import Question, read_messages
from emova_app.server.errors import ApiError, about
from emova_app.server.service import Service, check_style, find_voice


def checked(event: SessionEvent, service: Service) -> Event:
    """An event of a reply. Raises: InputError, InternalFault, ApiError: it is the end of one that failed."""
    if isinstance(event, Failed):
        if service.draining.is_set():
            raise ApiError(503, "the server is shutting down", kind="server_error")
        raise event.error
    assert not isinstance(event, Cancelled), "nobody but the reader cancels"
    return event


class Listener(Protocol):
    """Who takes the parts of a question: a session, or a question alone."""

    def tell(self, results: Sequence[ToolResult], /) -> None: ...
    def show(self, image: Image, /) -> None: ...
    def hear(self, samples: np.ndarray, /) -> None: ...


async def hear(service: Service, listener: Listener, sound: bytes) -> None:
    """Play an audio file, a second at a time, so that it does not hold up others. Raises: InputError."""
    rate, limits = service.assistant.speech_tokenizer.sample_rate, service.assistant.config.audio_limits
    samples = await service.run(lambda: load_audio(sound, rate, limits, reject_silence=True))
    for start in range(0, len(samples), rate):
        await service.run(listener.hear, np.ascontiguousarray(samples[start : start + rate]))


async def prepare(service: Service, listener: Listener, question: Question) -> None:
    """Tell, show and play a question. Raises: InputError; ApiError: of a part, which is named."""
    if question.results:
        await service.run(listener.tell, question.results)
    if question.picture is not None:
        with about(question.picture.place):
            data = await read_picture(question.picture.content, service.fetcher)
            image = await service.run(load_image, data, service.assistant.config.image_limits)
            await service.run(listener.show, image)
    for sound in question.sounds:
        with about(sound.place):
            await hear(service, listener, from_base64(sound.content, "the audio"))


async def read_turn(service: Service, asked: Question, reply: SpokenReply) -> PastTurn:
    """An earlier turn, its sounds and pictures decoded. Raises: InputError, ApiError."""
    heard = HeardQuestion(service.assistant)
    try:
        await prepare(service, heard, asked)
        await service.run(heard.end)
        text = None if asked.text is None else service.assistant.check_text(asked.text)
        return PastTurn(heard.picture, heard.units, text, reply, heard.results)
    finally:
        heard.close()


async def remember(
    service: Service, session: Session, turns: Sequence[tuple[Question, SpokenReply]], shown: int = 0
) -> None:
    """Let a session remember turns, the oldest first: as many of the newest as may stand in the model's context.

    How long a turn is only its sounds and pictures tell, so the newest are decoded first, and those that have no room
    not at all. Of pictures there are no more than the model keeps apart; of them ``shown`` are in the question.

    Raises: InputError, ApiError.
    """
    left, past = service.assistant.trained_context, list[PastTurn]()
    most = service.assistant.trained_pictures
    for asked, reply in reversed(turns):
        if asked.picture is not None:
            shown += 1
            if most and shown > most:
                asked = replace(asked, picture=None)
        turn = await read_turn(service, asked, reply)
        left -= await service.run(positions, service.assistant, turn)
        if left < 0 and past:
            break
        past.append(turn)
    if past:
        await service.run(session.restore, past[::-1])


def toolbox_of(request: ChatRequest) -> Toolbox | None:
    """The tools of a request; None without any. Raises: ApiError: one cannot be kept."""
    tools = [tool.model_dump() for tool in request.tools or ()]
    choice = request.tool_choice
    named = choice.model_dump() if isinstance(choice, NamedTool) else choice
    try:
        return Toolbox.from_openai(tools, named, request.parallel_tool_calls is not False)
    except InputError as error:  # it names the part itself
        raise ApiError(400, str(error), param="tools") from None


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
    config = service.assistant.config
    check_style(service.assistant.styles, request.emotion, request.pitch)
    conversation, tools = read_messages(service, request.messages), await service.run(toolbox_of, request)
    instructions = conversation.instructions
    if len(instructions) > config.max_text_characters:
        most = config.max_text_characters
        raise InputError(f"messages: the instructions have {len(instructions)} characters; {most} at most")
    if tools is not None:
        instructions = tools.instructions(instructions)
    async with service.session(voice_of(request, service.assistant.styles), instructions) as session:
        question = conversation.question
        await remember(service, session, conversation.turns, shown=question.picture is not None)
        await prepare(service, session, question)
        if not question.asks:
            message = "messages: no question at their end; give text or sound, a picture alone asks nothing"
            raise ApiError(400, message, param="messages")
        asked = await service.run(
            lambda: session.ask(
                question.text,
                emotion=request.emotion,
                pitch=request.pitch,
                limits=limits_of(request, config.reply_limits),
                sampling=_sampling(request, config.sampling),
                tools=tools,
            )
        )
        async with aclosing(service.each(asked)) as events:
            async for event in events:
                yield checked(event, service), session
