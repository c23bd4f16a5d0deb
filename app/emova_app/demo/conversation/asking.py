"""One question and its answer, told as Realtime events while they are made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from time import perf_counter

from emova.core.errors import InputError
from emova.decoding.sampling import Sampling
from emova.events import AudioChunk, Cancelled, Done, Failed, SessionEvent
from emova.reply.parser import StyleChosen, TextDelta, TranscriptDelta
from emova_app.demo.conversation.events import Event, new_id
from emova_app.demo.conversation.page_session import FREE, OWN, Asked, PageSession
from emova_app.demo.conversation.trace import Trace

log = logging.getLogger(__name__)
FAULT = "Something went wrong inside; ask again. The terminal says more."
MOST_TRIES = 4


def ask(page: PageSession, question: Asked, *, heard: bool = False) -> threading.Thread:
    """Ask, and let the answer be told in the page's log by a thread of its own, which is returned.

    Args:
        question: what was said or written; its samples are at the session's rate.
        heard: the session has heard the samples already, while they were spoken.

    Raises:
        InputError: the question is unusable, with one line that says why; nothing was told.
    """
    return _begin(page, question, heard, ())


def ask_again(page: PageSession) -> threading.Thread:
    """The last question once more, whose answer shall have other words.

    Raises:
        InputError: there is none.
    """
    question = page.asked
    if question is None:
        raise InputError("nothing has been asked yet; ask something first")
    before = page.answers.pop(question.answer, None)
    page.interrupt(0.0)  # the turn is forgotten, the picture stays
    page.wait_until_told()
    page.log.remove(question.item, question.answer)
    page.thumbnail_due = page.thumbnail_due or question.thumbnail
    page.seeds += MOST_TRIES
    return _begin(page, question, False, () if before is None else (before.reply.text,))


def _begin(page: PageSession, question: Asked, heard: bool, not_again: tuple[str, ...]) -> threading.Thread:
    page.wait_until_told()
    _choose_speaker(page)
    page.show_picture()
    if question.samples is not None and not heard:
        page.session.hear(question.samples)
    telling = _Telling(page, replace(question, thumbnail=page.take_thumbnail()), not_again)
    page.log.drop_sound()
    telling.begin()
    page.telling = threading.Thread(target=telling.run, name="telling", daemon=True)
    page.telling.start()
    return page.telling


def _choose_speaker(page: PageSession) -> None:
    """Who answers the next question, as the visitor wishes. Raises: InputError: there is no own voice."""
    wish, styles, session = page.wish, page.assistant.styles, page.session
    if wish.voice == OWN and page.own_voice is None:
        raise InputError("my voice: none has been recorded yet; record 5 seconds under My voice")
    session.voice = wish.voice if wish.voice in styles.voices else styles.voices[0]
    session.speaker = page.own_voice if wish.voice == OWN and page.own_voice is not None else page.assistant.voice


class _Telling:
    """Tells one answer.

    Args:
        not_again: what it shall not say, if it can help it.
    """

    def __init__(self, page: PageSession, question: Asked, not_again: tuple[str, ...]) -> None:
        self.page, self.not_again = page, not_again
        self.response, self.user, self.item = new_id("resp"), new_id("item"), new_id("item")
        self.question = page.asked = replace(question, item=self.user, answer=self.item)
        self.own = page.wish.voice == OWN
        self.transcript = self.text = ""
        self.style: dict[str, str] = {}
        self.trace = Trace()
        self._stops = page.stops
        self._first: Iterator[SessionEvent] = iter(())

    # --- what the page is told ----------------------------------------------------------------------------------------
    def begin(self) -> None:
        """The question stands there, and an answer is on its way."""
        told = self.page.log.add
        told("conversation.item.added", item=self._user_item())
        told("response.created", response={"id": self.response, "status": "in_progress"})
        told("conversation.item.added", item=self._item("assistant", "in_progress", []))
        # Now, not in the thread: an interruption from here on finds it.
        self._first = self._ask(self._sampling(1))

    def _item(self, role: str, status: str, content: list[Event], **more: object) -> Event:
        item = self.user if role == "user" else self.item
        return {"id": item, "type": "message", "role": role, "status": status, "content": content, **more}

    def _user_item(self) -> Event:
        question = self.question
        content: list[Event] = []
        if question.thumbnail:
            content.append({"type": "input_image", "image_url": question.thumbnail})
        if question.samples is not None:
            content.append({"type": "input_audio", "transcript": self.transcript})
        if question.text is not None:
            content.append({"type": "input_text", "text": question.text})
        return self._item("user", "completed", content)

    def _finish(self, status: str, error: str = "") -> None:
        page = self.page
        if status != "completed" and not self.text.strip():
            page.log.remove(self.user, self.item)  # nothing came of it, so nothing is left of it
        else:
            part: Event = {"type": "output_audio", "transcript": self.text}
            whole = "completed" if status == "completed" else "incomplete"
            for item in (self._user_item(), self._item("assistant", whole, [part], style=self.style)):
                page.log.finish(str(item["id"]))
                page.log.add("conversation.item.done", item=item)
        page.log.add("response.done", response={"id": self.response, "status": status, "item": self.item}, error=error)

    # --- the answer ---------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Tell it from beginning to end; whatever happens, the page is told the end."""
        status, error = "cancelled", ""
        try:
            for event in self._events():
                if isinstance(event, Done):
                    status = "completed"
                elif isinstance(event, Failed):
                    self.page.shown = False  # a failed turn leaves no trace, so its picture is shown again
                    status, error = "failed", event.message
        except Exception:
            log.exception("an answer could not be told")
            status, error = "failed", FAULT
        self._finish(status, error)

    def _events(self) -> Iterator[SessionEvent]:
        started = before = perf_counter()
        for event in self._different():
            now = perf_counter()
            self.trace.take(event, before - started, now - started)
            before = now
            self._tell(event)
            yield event

    def _tell(self, event: SessionEvent) -> None:
        told = self.page.log.add
        if isinstance(event, TranscriptDelta):
            if self.question.samples is not None and self.question.text is None:
                self.transcript += event.text
                told("conversation.item.input_audio_transcription.delta", item_id=self.user, delta=event.text)
        elif isinstance(event, TextDelta):
            self.text += event.text
            told("response.output_audio_transcript.delta", item_id=self.item, delta=event.text)
        elif isinstance(event, StyleChosen):
            voice = OWN if self.own else event.style.gender
            self.style = {"emotion": event.style.emotion, "pitch": event.style.pitch, "voice": voice}
        elif isinstance(event, AudioChunk):
            self.page.log.add_sound(self.response, self.item, event.samples, event.sample_rate)
        elif isinstance(event, Done):
            self.page.keep(self.item, event.reply, self.trace)

    def _different(self) -> Iterator[SessionEvent]:
        """The reply's events; if words are not wanted again, of a try that has other ones."""
        events = self._first
        for tries in count(2):
            if not self.not_again:
                break
            held, text = list[SessionEvent](), ""
            for event in events:
                held.append(event)
                text += event.text if isinstance(event, TextDelta) else ""
                if not isinstance(event, TranscriptDelta | TextDelta):
                    break
            stopped = self.page.stops != self._stops or isinstance(held[-1], Failed | Cancelled)
            if stopped or text.strip() not in self.not_again or tries > MOST_TRIES:
                yield from held
                break
            self.page.session.cancel(0.0)
            events = self._ask(self._sampling(tries))
        yield from events

    def _sampling(self, tries: int) -> Sampling | None:
        """For a try at other words. The first seed and temperature would give the first ones; each try is bolder."""
        if not self.not_again:
            return None
        return Sampling(text_temperature=0.6 + 0.3 * tries, style_temperature=0.8, seed=self.page.seeds + tries)

    def _ask(self, sampling: Sampling | None) -> Iterator[SessionEvent]:
        session, wish, question = self.page.session, self.page.wish, self.question
        emotion, pitch = (None if word == FREE else word for word in (wish.emotion, wish.pitch))
        if sampling is not None and session.question.sound is None and question.samples is not None:
            session.hear(question.samples)  # a try before this one took the sound with it
        events = session.ask(question.text, emotion=emotion, pitch=pitch, sampling=sampling)
        if self.page.picture is not None and not session.sees:
            # To make room, the session has just forgotten the turn that showed the picture.
            session.cancel(0.0)
            self.page.show_picture()
            self.question = replace(question, thumbnail=self.page.take_thumbnail())
            if question.samples is not None:
                session.hear(question.samples)
            events = session.ask(question.text, emotion=emotion, pitch=pitch, sampling=sampling)
        return events
