"""One talk with the assistant: it listens while you speak, speaks while it thinks, and can be interrupted."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emova.core.errors import InputError
from emova.decoding.protocol import Context, Prompt
from emova.decoding.sampling import Sampling
from emova.engine.engine import GenerationRequest
from emova.engine.streams import EventStream
from emova.events import AudioChunk, Done
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.parser import SpokenReply, merge_deltas
from emova.session.events import Cancelled, Failed, SessionEvent
from emova.session.history import Turn, newest, not_read, text_heard
from emova.session.input import Question
from emova.session.output import ReplyAssembler
from emova.vision.image import load_image

if TYPE_CHECKING:
    from emova.session.scheduler import Scheduler

log = logging.getLogger(__name__)
FAULT = "the reply broke off by a fault inside; ask again"


class Session:
    """Opened by ``Scheduler.open``. Everything bounded: one cache, a queue of events, the reply's length, the turns
    kept.

    A turn is: ``show`` a picture and ``hear`` samples in any order, then ``ask`` and read the events. A turn that
    fails leaves no trace. Sound of an earlier ``generation`` than the session's is out of date.
    """

    def __init__(self, scheduler: Scheduler, voice: str, instructions: str = "") -> None:
        self.scheduler, self.voice, self.instructions = scheduler, voice, instructions
        # Who speaks: another Voice of the same checkpoint may be put here between two replies.
        self.speaker = scheduler.assistant.voice
        self.generation = 0
        self.closed = False
        self.touched = scheduler.clock()
        self.request: GenerationRequest | None = None
        self.assembler: ReplyAssembler | None = None
        self._queue: deque[SessionEvent] = deque()
        self._turns: list[Turn] = []
        self._context = scheduler.engine.new_context()
        self._question = Question(scheduler.assistant)
        self._asked = Prompt(())
        self._mark = self._context.mark()
        self._read: list[int] = []  # of the question
        # The last reply until the next question begins: its sound may still be playing.
        self._told: ReplyAssembler | None = None
        self._told_mark, self._told_picture = self._mark, self._question.picture
        self._delivered = self._heard_units = 0
        self._answer: list[int] = []
        self._last: SpokenReply | None = None  # what the last turn answered
        self._events = EventStream(scheduler.assistant.table, scheduler.assistant.reply_format.parser(voice))
        self._started = self._listened = 0.0
        self._begin()

    def __len__(self) -> int:
        """How many turns are remembered."""
        return len(self._turns)

    @property
    def sees(self) -> bool:
        """Whether a picture is in the turns that are remembered, or in the question."""
        return self._question.picture is not None or any(turn.question.pixel_values is not None for turn in self._turns)

    # --- listening ----------------------------------------------------------------------------------------------------
    def show(self, image: Any) -> None:
        """A picture for this turn, read at once; a second one replaces the first. Raises: InputError."""
        picture = load_image(image, self.scheduler.assistant.config.image_limits)
        with self.scheduler.lock:
            self._check_listening()
            self._question.show(picture)
            # What was heard stands behind the picture, so it is read again.
            self._forget_question()
            self._read_on()

    def hear(self, samples: Any, sample_rate: int | None = None) -> None:
        """The next samples ``[T]`` of the question, while it is being spoken: units and their place in the cache.

        Raises:
            InputError: the samples are unusable or at another rate (the turn stays as it was), or the question has
                become too long (the turn is dropped).
        """
        with self.scheduler.lock:
            self._check_listening()
            wanted = self.scheduler.assistant.speech_tokenizer.sample_rate
            if sample_rate not in (None, wanted):
                raise InputError(f"the audio: {sample_rate} Hz, and this session hears {wanted} Hz; resample it")
            try:
                self._question.hear(samples)
                self._read_on()
            except InputError as error:
                if "longer" in str(error) or "shorter" in str(error):
                    self._drop_turn()
                raise

    def instruct(self, instructions: str) -> None:
        """Another system message, from the beginning of the conversation on. Raises: InputError."""
        with self.scheduler.lock:
            self._check_listening()
            before, self.instructions = self.instructions, instructions
            most = self.scheduler.engine.llama.max_length - self.scheduler.assistant.config.reply_limits.usual
            left = most - len(self._opening().ids)
            kept = newest(self._turns, left)
            if not kept and left < 0:
                self.instructions = before
                raise InputError("the instructions: longer than the model's context; make them shorter")
            self._rebuild(kept)
            if not self._question.empty:
                self._read_on()

    def unhear(self) -> None:
        """Forget what was heard of this question; its picture stays. Raises: InputError."""
        with self.scheduler.lock:
            self._check_listening()
            picture = self._question.picture
            self._question.close()
            self._question = Question(self.scheduler.assistant)
            self._question.picture = picture
            self._forget_question()
            if picture is not None:
                self._read_on()

    def recall(self, reply: SpokenReply, text: str | None = None) -> None:
        """A turn of an earlier conversation, as if it had happened here.

        Args:
            reply: what was answered to what was shown and heard since the last turn.
            text: what was written then.

        Raises:
            InputError: nothing was asked, or the turn is longer than the model's context.
        """
        with self.scheduler.lock:
            self._check_listening()
            text = None if text is None else self.scheduler.assistant._check_text(text)
            if self._question.empty and text is None:
                raise InputError("the conversation: an answer without a question before it")
            if self._question.ears is not None:
                self._question.ears.finish()
            question = self._question.prompt(text)
            answer = self.scheduler.assistant.reply_format.encode(reply, self.scheduler.assistant.table)
            length = len(question.ids) + len(answer)
            self._make_room(length, length)
            if list(question.ids[: len(self._read)]) != self._read:
                self._forget_question()
            self._append(not_read(question, self._read))
            self._context.waiting = answer
            self._turns.append(Turn(question, tuple(answer)))
            self._last = reply
            self._begin()

    def truncate(self, heard_seconds: float) -> int:
        """Remember less of the last reply: only what was heard of it. The next question may have begun already.

        Returns: the units that stay; 0 forgets the turn.
        """
        with self.scheduler.lock:
            self.touched = self.scheduler.clock()
            if self.request is not None or self._told is not None:
                before = self._told
                self.cancel(heard_seconds)
                return self._heard_units if self._told is not before else len(before.units) if before else 0
            if self._last is None or not self._turns:
                return 0
            kept = self._heard(self._last, heard_seconds * self.scheduler.assistant.voice.detokenizer.unit_rate)
            if len(kept.units) < len(self._last.units):
                turn = self._turns.pop()
                length, waiting = self._mark
                asked = length + len(waiting) - len(turn.answer)
                if kept.units:
                    answer = self.scheduler.assistant.reply_format.encode(kept, self.scheduler.assistant.table)
                    self._turns.append(Turn(turn.question, tuple(answer)))
                    self._context.rewind((asked, ()))
                    self._context.waiting = answer
                else:
                    self._context.rewind((asked - len(turn.question.ids), ()))
                self._last = kept if kept.units else None
                self._mark, self._read = self._context.mark(), []
                if not self._question.empty:
                    self._read_on()
            return len(kept.units)

    def _heard(self, reply: SpokenReply, units: float) -> SpokenReply:
        """The beginning of ``reply`` that was spoken with its first ``units``."""
        count = min(max(0, int(units + 1e-6)), len(reply.units))
        return dataclasses.replace(
            reply, text=text_heard(reply.text, count, len(reply.units)), units=reply.units[:count]
        )

    @property
    def asked_tokens(self) -> int:
        """How many tokens the model had read when it began to answer the last question."""
        length, waiting = self._told_mark
        return length + len(waiting) + len(self._asked.ids)

    def _check_listening(self) -> None:
        self.touched = self.scheduler.clock()
        if self.closed:
            raise InputError("the session is closed; open a new one")
        if self.request is not None:
            raise InputError("a reply is being spoken; cancel it first")
        self._told = None

    def _begin(self) -> None:
        """Ready for a new question: what opens a conversation is read before anybody speaks."""
        self._question.close()
        self._question = Question(self.scheduler.assistant)
        self._read = []
        if not self._context.length:
            self._append(self._opening())
        self._mark = self._context.mark()

    def _opening(self) -> Prompt:
        """What stands before the first turn: the start of the text, the wish for a spoken reply, and instructions."""
        assistant = self.scheduler.assistant
        system = " ".join(filter(None, (assistant.reply_format.system_prompt, self.instructions)))
        rendered = assistant._prompt([{"role": "system", "content": system}])
        return Prompt(rendered.ids[:-1])  # without the generation prompt

    def _append(self, prompt: Prompt) -> None:
        self.scheduler.engine.feed(self._context, prompt)

    def _forget_question(self) -> None:
        self._context.rewind(self._mark)
        self._read = []

    def _read_on(self) -> None:
        """Read what is certain of the question; forget the oldest turns if it and a reply have no room."""
        so_far = self._question.so_far()
        if len(so_far.ids) > len(self._read):  # now, while nobody waits, and not when it is to be answered
            self._make_room_to_answer(len(so_far.ids), ReplyConstraints(), self.scheduler.assistant.config.reply_limits)
        self._append(not_read(so_far, self._read))
        self._read = list(so_far.ids)

    def _make_room_to_answer(self, asked: int, wish: ReplyConstraints, limits: ReplyLimits) -> int:
        """Room for a question of ``asked`` tokens and a usual reply; how many tokens frame the reply's content."""
        assistant, most = self.scheduler.assistant, self.scheduler.engine.llama.max_length
        overhead = assistant.reply_format.overhead(assistant.table, wish)
        self._make_room(asked + min(overhead + limits.usual, most // 2), asked + overhead + limits.least)
        return overhead

    def _make_room(self, wanted: int, least: int) -> None:
        """Forget the oldest turns until ``wanted`` tokens of question and reply have room.

        Raises:
            InputError: there are not even ``least`` without earlier turns.
        """
        most = self.scheduler.engine.llama.max_length
        length, waiting = self._mark
        if length + len(waiting) + wanted <= most or (not self._turns and length + len(waiting) + least <= most):
            return
        opening = self._opening()
        kept = newest(self._turns[1:], most - wanted - len(opening.ids))
        if len(opening.ids) + sum(map(len, kept)) + least > most:
            raise InputError("the question: longer than the model's context; make it shorter")
        self._rebuild(kept)

    def _rebuild(self, kept: list[Turn]) -> None:
        opening = self._opening()
        for turn in kept:
            opening = opening + turn.question + Prompt(turn.answer)
        self._context.rewind((0, ()))
        self._turns, self._read = kept, []
        self._append(opening)
        self._mark = self._context.mark()

    def _drop_turn(self) -> None:
        self._context.rewind(self._mark)
        self.request = self.assembler = self._told = None
        self._begin()

    # --- answering ----------------------------------------------------------------------------------------------------
    def ask(
        self,
        text: str | None = None,
        *,
        emotion: str | None = None,
        pitch: str | None = None,
        limits: ReplyLimits | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[SessionEvent]:
        """The question is complete: TranscriptDelta, TextDelta, StyleChosen, AudioChunk, Done as they are made.

        Args:
            text: a written question, or a written addition to the spoken one.
            emotion, pitch: how to answer; the model chooses what is None.
            limits, sampling: other ones than the assistant's for this reply.

        The last event is Done, Failed or Cancelled. Leaving the iterator early cancels the reply; nothing that goes
        wrong is raised here.
        """
        with self.scheduler.lock:
            try:
                self._check_listening()
            except InputError as error:
                return iter((Failed(str(error)),))
            self._queue.clear()
            self.generation += 1
            generation = self.generation
            try:
                self._ask(text, emotion, pitch, limits, sampling)
            except InputError as error:
                self.fail(str(error))
            except Exception:
                log.exception("a question failed")
                self.fail(FAULT)
        return self._tell(generation)

    def _ask(
        self,
        text: str | None,
        emotion: str | None,
        pitch: str | None,
        limits: ReplyLimits | None,
        sampling: Sampling | None,
    ) -> None:
        assistant, self._started = self.scheduler.assistant, time.perf_counter()
        emotion = None if emotion is None else assistant.styles.check_emotion(emotion)
        pitch = None if pitch is None else assistant.styles.check_pitch(pitch)
        text = None if text is None else assistant._check_text(text)
        ears = self._question.ears
        if ears is None and text is None:
            raise InputError("no question: give audio or text; a picture alone asks nothing")
        if ears is not None:
            ears.finish()
        self._listened = time.perf_counter()
        self._asked = self._question.prompt(text)
        wish = ReplyConstraints(text if ears is None else None, emotion, pitch)
        reply_format, limits = assistant.reply_format, limits or assistant.config.reply_limits
        asked = len(self._asked.ids)
        overhead = self._make_room_to_answer(asked, wish, limits)
        length, waiting = self._mark
        room = self.scheduler.engine.llama.max_length - length - len(waiting) - asked
        wish = dataclasses.replace(wish, limits=limits.within(room - overhead))
        grammar = reply_format.grammar(assistant.table, wish)
        if list(self._asked.ids[: len(self._read)]) != self._read:
            self._forget_question()
        rest = not_read(self._asked, self._read)
        self.request = GenerationRequest.start(
            self.scheduler.engine, self._context, rest, grammar, sampling or assistant.config.sampling
        )
        self.assembler = self._told = ReplyAssembler(
            self.speaker, self.voice, in_chunks=True, plan=self.scheduler.config.chunks
        )
        self._told_mark, self._told_picture = self._mark, self._question.picture
        self._events = EventStream(assistant.table, reply_format.parser(self.voice))
        self._answer, self._delivered = [], 0
        self._take(self.request.take_written())

    @property
    def wants_tokens(self) -> bool:
        """Whether the next round should move this session's reply on."""
        return (
            self.request is not None and not self.request.done and len(self._queue) < self.scheduler.config.max_events
        )

    def advance(self) -> None:
        """Take what a round wrote; a fault ends this session's turn and no other's."""
        assert self.request is not None and self.assembler is not None
        try:
            tokens = self.request.take_written()
            if tokens:
                self.assembler.prefilled = self.assembler.prefilled or time.perf_counter()
            self._take(tokens)
            if self.request.error is not None:
                raise self.request.error
            if self.request.grammar.done:
                self._queue.extend(self.assembler.finish())
                reply = self.assembler.reply(self._started, self._listened)
                self._turns.append(Turn(self._asked, tuple(self._answer)))
                self._last = SpokenReply(reply.transcript, reply.text, reply.emotion, reply.pitch, reply.units)
                self.request = self.assembler = None
                self._begin()
                self._queue.append(Done(reply))
        except InputError as error:
            self.fail(str(error))
        except Exception:
            log.exception("a reply failed")
            self.fail(FAULT)

    def _take(self, tokens: list[int]) -> None:
        assert self.assembler is not None
        self._answer += tokens
        for event in merge_deltas(self._events.step(tokens)):
            self._queue.extend(self.assembler.take(event))

    def fail(self, message: str) -> None:
        """End the turn with an error; the session goes on without it."""
        self._drop_turn()
        self._queue.append(Failed(message))

    def _tell(self, generation: int) -> Iterator[SessionEvent]:
        ended = False
        try:
            while not ended:
                event = self._next(generation)
                ended = isinstance(event, Done | Failed | Cancelled)
                yield event
        finally:
            if not ended:
                with self.scheduler.lock:
                    if self.generation == generation:
                        self.cancel()

    def _next(self, generation: int) -> SessionEvent:
        while True:
            with self.scheduler.lock:
                if self.generation != generation:
                    return Cancelled(self.generation, self._heard_units)
                if self._queue:
                    self.touched = self.scheduler.clock()
                    event = self._queue.popleft()
                    if isinstance(event, AudioChunk):
                        self._delivered += len(event.samples)
                    return event
                if self.closed:
                    return Failed("the session is closed; open a new one")
                moved = self.scheduler.pump()
                assert moved or self._queue, "a reply that neither moves nor ends"

    # --- interrupting -------------------------------------------------------------------------------------------------
    def cancel(self, heard_seconds: float | None = None) -> None:
        """Break off the reply: nothing more is written or spoken, and what waits in the queue is dropped.

        Also for a reply that is written, while its sound still plays, until the next question begins.

        Args:
            heard_seconds: how much of its sound the player has played; all that was handed out if None. Only that
                much of the reply is remembered; if nothing was heard, the turn is forgotten, but its picture stays
                for the next question.
        """
        with self.scheduler.lock:
            self.touched = self.scheduler.clock()
            told, running = self._told, self.request is not None
            if told is None:
                return
            voice = self.scheduler.assistant.voice
            heard = self._delivered if heard_seconds is None else int(heard_seconds * voice.sample_rate)
            per_unit = voice.sample_rate / voice.detokenizer.unit_rate
            units = min(int(min(heard, self._delivered) / per_unit), len(told.units))
            if not running and units == len(told.units) and not self._queue:
                return  # all of it was heard
            self.generation += 1
            self._heard_units = units
            self._queue.clear()
            if not running:
                self._turns.pop()
            self.request = self.assembler = None
            self._mark, picture = self._told_mark, self._told_picture
            length, waiting = self._mark
            asked = length + len(waiting) + len(self._asked.ids)
            if not units or self._context.length < asked:
                self._drop_turn()
                self._last = None
                if picture is not None:
                    self._question.picture = picture
                    self._read_on()
                return
            self._told = None
            self._context.rewind((asked, ()))
            style = told.chosen.style
            whole = SpokenReply(told.transcript, told.text, style.emotion, style.pitch, tuple(told.units))
            self._last = reply = self._heard(whole, units)
            answer = self.scheduler.assistant.reply_format.encode(reply, self.scheduler.assistant.table)
            self._turns.append(Turn(self._asked, tuple(answer)))
            self._context.waiting = answer
            self._begin()

    def close(self) -> None:
        """Free the session's memory; its reader gets an error."""
        with self.scheduler.lock:
            if not self.closed:
                self.closed = True
                self.request = self.assembler = self._told = None
                self._queue.clear()
                self._turns = []
                self._question.close()
                self._context = Context(None)  # type: ignore[arg-type]
                self.scheduler.leave(self)
