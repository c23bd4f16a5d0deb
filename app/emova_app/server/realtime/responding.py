"""Answers of a realtime talk: what is asked, of whom, and how the answer is to be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from emova.core.errors import InputError
from emova.events import SessionEvent
from emova.session.session import Session
from emova_app.server.errors import ApiError
from emova_app.server.json_types import is_message, message_item
from emova_app.server.realtime import types
from emova_app.server.realtime.answering import Answering
from emova_app.server.realtime.conversation import GREETING, Conversation, Entry, past_of, question_text
from emova_app.server.realtime.floor import Answer, Floor
from emova_app.server.realtime.hearing import Hearing
from emova_app.server.realtime.line import Line
from emova_app.server.realtime.settings import Settings


class Responding:
    """Answers ``response.create``, and turns that ended by themselves."""

    def __init__(self, line: Line, conversation: Conversation, floor: Floor, hearing: Hearing) -> None:
        self._line, self._conversation, self._floor, self._hearing = line, conversation, floor, hearing

    async def create(self, options: types.ResponseOptions) -> None:
        """Answer now, or after what waits. Raises: ApiError: an answer is being given, or there is no question."""
        if self._floor.answering and not len(self._floor.deferred):
            raise ApiError(
                400,
                "an answer is being given; cancel it or wait for its end",
                code="conversation_already_has_active_response",
            )
        await self._floor.when_free(lambda: self.respond(options))

    async def respond(self, options: types.ResponseOptions) -> None:
        """Begin an answer. Raises: InputError, ApiError: it is refused; another question replaces this one."""
        try:
            settings = self._line.settings.for_answer(options)
            if len(settings.instructions) > self._line.service.assistant.config.max_text_characters:
                raise InputError("response.instructions: too long; shorten them")
            if options.input is not None or options.conversation == "none":
                await self._beside(options, settings)
            else:
                await self._here(options, settings)
        except (ApiError, InputError):
            self._conversation.refuse()
            raise

    def _telling(
        self, options: types.ResponseOptions, settings: Settings, asked: Sequence[Entry], kept: bool
    ) -> Answering:
        line = self._line
        heard = [(entry.item, entry.told) for entry in asked if entry.spoken and is_message(entry.item)]
        return Answering(
            line.service,
            line.sender.emit,
            settings,
            line.conversation_id if kept else None,
            options.metadata,
            heard if settings.transcription else [],
            self._conversation.last,
        )

    def _kept(self, telling: Answering) -> Entry:
        entry = Entry(message_item(telling.item_id, "assistant", [], "in_progress"), answering=True)
        self._conversation.put(entry)
        return entry

    # --- by the talk's own session ------------------------------------------------------------------------------------
    async def _here(self, options: types.ResponseOptions, settings: Settings) -> None:
        line, conversation = self._line, self._conversation
        question = conversation.question
        text = question_text(question)
        instead = text is None and not any(entry.spoken or entry.result for entry in question)
        if instead:
            # Nothing was asked: what is to be answered are the instructions.
            text = settings.instructions.strip() or None
            if text is None:
                message = "there is no question; add an item or commit sound first"
                raise ApiError(400, message, code="empty_conversation")
        await self._hearing.set_aside()
        await conversation.settle()
        telling = self._telling(options, settings, question, kept=True)
        entry = self._kept(telling)
        told = settings.told(conversation.with_items(settings.instructions))
        own = not instead and told != conversation.instructions

        def ask() -> Iterator[SessionEvent]:
            if own:
                line.session.instruct(told)
            line.session.voice = settings.voice
            events = _ask(line, line.session, text, settings)
            telling.heard = bool(line.session.asked_units)
            conversation.asked(question, line.session.asked_units)
            return events

        @asynccontextmanager
        async def asking() -> AsyncIterator[Iterator[SessionEvent]]:
            try:
                yield await line.service.run(ask)
            finally:
                line.session.voice = line.settings.voice
                conversation.stale = conversation.stale or own or instead

        self._floor.begin(Answer(telling, entry, ours=True), asking)

    # --- by another session -------------------------------------------------------------------------------------------
    async def _beside(self, options: types.ResponseOptions, settings: Settings) -> None:
        line, conversation, kept = self._line, self._conversation, options.conversation != "none"
        telling = self._telling(options, settings, (), kept)
        known = [conversation.find(item.id) for item in options.input or () if isinstance(item, types.ItemReference)]
        if None in known:
            message = "response.input: refers to an item that does not exist"
            raise ApiError(400, message, param="response.input", code="item_not_found")
        here = list(conversation.entries)

        @asynccontextmanager
        async def asking() -> AsyncIterator[Iterator[SessionEvent]]:
            async with line.service.session(settings.voice, settings.instructions) as session:
                entries = here if options.input is None else await self._given(options.input, session)
                yield await line.service.run(self._asked_beside, session, entries, settings, options)

        entry = self._kept(telling) if kept else None
        self._floor.begin(Answer(telling, entry, ours=False), asking)

    async def _given(self, items: Sequence[types.InputItem], session: Session) -> list[Entry]:
        entries: list[Entry] = []
        for item in items:
            self._conversation.check_room(entries)
            if isinstance(item, types.ItemReference):
                found = self._conversation.find(item.id)
                entries += [] if found is None else [found]
            else:
                entries.append(await self._conversation.read(item, session))
        return entries

    def _asked_beside(
        self, session: Session, entries: Sequence[Entry], settings: Settings, options: types.ResponseOptions
    ) -> Iterator[SessionEvent]:
        own = (settings.instructions, *(entry.instructs for entry in entries))
        system = settings.told("\n".join(filter(None, own)))
        if system != session.instructions:
            session.instruct(system)
        past, asked = past_of(entries)
        session.restore(past, asked)
        last = max((index + 1 for index, entry in enumerate(entries) if entry.reply is not None), default=0)
        for entry in entries[last:]:
            for samples in entry.samples:
                session.hear(samples)
        text = asked.text
        if text is None and not session.question.spoken and not asked.results:
            text = settings.instructions.strip() or GREETING
        return _ask(self._line, session, text, settings)

    # --- cancelling ---------------------------------------------------------------------------------------------------
    async def cancel(self, event: types.ResponseCancel) -> None:
        """Break off the answer. Raises: ApiError: there is none."""
        answer = self._floor.answer
        wrong = event.response_id is not None and (answer is None or event.response_id != answer.telling.id)
        if not self._floor.answering or wrong:
            message = "Cancellation failed: no such answer is being given"
            raise ApiError(400, message, code="response_cancel_not_active")
        await self._floor.interrupt("client_cancelled")


def _ask(line: Line, session: Session, text: str | None, settings: Settings) -> Iterator[SessionEvent]:
    assistant = line.service.assistant
    return session.ask(
        text,
        emotion=settings.emotion,
        pitch=settings.pitch,
        limits=settings.limits(assistant.config.reply_limits, assistant.reply_format.words_end),
        tools=settings.toolbox,
    )
