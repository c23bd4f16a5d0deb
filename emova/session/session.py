"""One talk with the assistant: it listens while you speak, speaks while it thinks, and can be interrupted."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from emova.core.errors import ClosedError, InputError, InternalFault, TooLongError, UnfitReplyError
from emova.decoding.protocol import Prompt
from emova.decoding.sampling import Sampling
from emova.engine.request import GenerationRequest
from emova.events import AudioChunk, Cancelled, Done, Failed, SessionEvent
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyLimits
from emova.reply.grammar import Grammar
from emova.reply.parser import SpokenReply
from emova.reply.tools import Toolbox, ToolResult
from emova.session.another import in_place_of
from emova.session.answer import Answer, Asked
from emova.session.history import TurnContext, beginning
from emova.session.input import Question, check_question
from emova.session.output import ReplyAssembler
from emova.session.past import PastTurn, fitting
from emova.session.protocol import Rounds
from emova.vision.image import load_image

if TYPE_CHECKING:
    from emova.vision.image import Picture

log = logging.getLogger(__name__)
CLOSED = "the session is closed; open a new one"


class Session:
    """Opened by ``Scheduler.open``. All is bounded: one cache, a queue of events, the reply's length, the turns kept.

    A turn is: ``show`` a picture and ``hear`` samples in any order, then ``ask`` and read the events. A turn that
    fails leaves no trace. Sound of an earlier ``generation`` than the session's is out of date.

    Tools: the text of ``Toolbox.instructions`` is the system message, and ``ask`` is told which tools may be called.
    If ``Done`` has a reply with ``calls``, whoever made the session calls them, says by ``tell`` what they gave, and
    asks again, without any text, for the answer.

    Attributes:
        voice: who answers the next question.
        speaker: the sound of that; another Voice of the same checkpoint may be put here between two replies.
        history: the turns that are remembered.
        question: what is being asked.
        asked_tokens: how many tokens the model had read when it began to answer the last question.
        asked_units: the speech units of the last question.
    """

    def __init__(self, scheduler: Rounds, voice: str, instructions: str = "") -> None:
        self.scheduler, self.voice = scheduler, voice
        self.engine = scheduler.engine
        self._model = scheduler.assistant
        self.speaker = self._model.voice
        self.generation = 0
        self.closed = False
        self.touched = scheduler.clock()
        self.history = TurnContext(self._model, instructions)
        self.question = Question(self._model)
        self.asked_tokens = 0
        self.asked_units: tuple[int, ...] = ()
        self._queue: deque[SessionEvent] = deque()
        self._answer: Answer | None = None  # that is being written
        self._playing: Answer | None = None  # the last one until the next question begins: it may still sound
        self._last: SpokenReply | None = None  # what the last turn answered
        self._heard_units = 0
        self.history.read_ahead()

    def __len__(self) -> int:
        """How many turns are remembered."""
        return len(self.history)

    @property
    def instructions(self) -> str:
        """The system message."""
        return self.history.instructions

    @property
    def sees(self) -> bool:
        """Whether a picture is in the turns that are remembered, or in the question."""
        return self.question.picture is not None or self.history.sees

    # --- listening ----------------------------------------------------------------------------------------------------
    def show(self, image: Picture) -> None:
        """A picture for this turn, read at once; a second one replaces the first. Raises: InputError."""
        picture = load_image(image, self._model.config.image_limits)
        with self.scheduler.lock:
            self._check_listening()
            self.question.show(picture)
            # What was heard stands behind the picture, so it is read again.
            self.history.rewind()
            self._read_question()

    def hear(self, samples: ArrayLike, sample_rate: int | None = None) -> None:
        """The next samples ``[T]`` of the question, while it is being spoken: units and their place in the cache.

        Raises:
            InputError: the samples are unusable or at another rate; the turn stays as it was.
            TooLongError: the question has become too long; the turn is dropped.
        """
        with self.scheduler.lock:
            self._check_listening()
            wanted = self._model.speech_tokenizer.sample_rate
            if sample_rate not in (None, wanted):
                raise InputError(f"the audio: {sample_rate} Hz, and this session hears {wanted} Hz; resample it")
            try:
                self.question.hear(samples)
                self._read_question()
            except TooLongError:
                self._drop_turn()
                raise

    def so_far(self) -> tuple[str, str]:
        """What was said so far: the words that stay, and CTC's draft of those behind them, which may change."""
        with self.scheduler.lock:
            heard = self.history.heard_tokens() if self.question.units else []
            return self.question.lead, self._model.read_text(heard)

    def tell(self, results: Sequence[ToolResult]) -> None:
        """What tools gave back for the last reply's calls, before anything of this turn is shown or heard.

        Raises:
            InputError: a question has begun, or a result is too long; the turn stays as it was.
        """
        with self.scheduler.lock:
            self._check_listening()
            if self.question.picture is not None or self.question.spoken:
                raise InputError("the results of tools: they come before the next question; send them first")
            self.question.tell(results)  # read with what comes behind them

    def instruct(self, instructions: str) -> None:
        """Another system message, from the beginning of the conversation on. Raises: InputError."""
        with self.scheduler.lock:
            self._check_listening()
            self.history.instruct(instructions)
            self._read_question()

    def unhear(self) -> None:
        """Forget what was heard of this question; its picture stays. Raises: InputError."""
        with self.scheduler.lock:
            self._check_listening()
            self.history.rewind()
            self._begin(self.question.picture, self.question.results)

    def recall(self, reply: SpokenReply, text: str | None = None) -> None:
        """A turn of an earlier conversation, as if it had happened here.

        Args:
            reply: what was answered to what was shown, heard and told since the last turn.
            text: what was written then.

        Raises:
            InputError: nothing was asked, or the turn is longer than the model's context.
        """
        with self.scheduler.lock:
            self._check_listening()
            text = None if text is None else self._model.check_text(text)
            if self.question.empty and text is None:
                raise InputError("the conversation: an answer without a question before it")
            self.question.end()
            self.history.recall(self.question.prompt(text), self._encode(reply))
            self._last = reply
            self._await_question()  # read later: of many earlier turns most are forgotten again

    def restore(self, past: Sequence[PastTurn], asked: PastTurn | None = None) -> None:
        """Another past, in place of all that is remembered, and the beginning of a question.

        What cannot be within the trained context is passed over, the oldest first.

        Raises:
            InputError: a turn is longer than the model's context; the turns before it are remembered.
        """
        asked = asked or PastTurn()
        with self.scheduler.lock:
            self._check_listening()
            self._last = None
            self.history.restart()
            try:
                for turn, prompt, answer in fitting(self._model, past):
                    self.history.recall(prompt, answer)
                    self._last = turn.reply
            finally:
                self.question.close()
                self.question = Question(self._model, asked.picture, asked.units, asked.results)
            self._read_question()

    @property
    def last_reply(self) -> SpokenReply | None:
        """What the last turn answered, as far as it is remembered."""
        return self._last

    @property
    def picture(self) -> Prompt | None:
        """The picture of the question."""
        return self.question.picture

    def truncate(self, heard_seconds: float) -> int:
        """Remember less of the last reply: only what was heard of it. The next question may have begun already.

        Returns: the units that stay; 0 forgets the turn.
        """
        with self.scheduler.lock:
            self.touched = self.scheduler.clock()
            if (playing := self._playing) is not None:
                self.cancel(heard_seconds)
                return len(playing.assembler.units) if self._playing is playing else self._heard_units
            if self._last is None or not self.history.turns:
                return 0
            kept = beginning(self._last, heard_seconds * self._model.voice.detokenizer.unit_rate)
            if len(kept.units) < len(self._last.units):
                self.history.replace_last(self._encode(kept) if kept.units else [])
                self._last = kept if kept.units else None
                self._read_question()
            return len(kept.units)

    def _encode(self, reply: SpokenReply) -> list[int]:
        return self._model.reply_format.encode(reply, self._model.table)

    def _check_listening(self) -> None:
        self.touched = self.scheduler.clock()
        if self.closed:
            raise ClosedError(CLOSED)
        if self._answer is not None:
            raise InputError("a reply is being spoken; cancel it first")
        self._playing = None

    def _begin(self, picture: Prompt | None = None, results: tuple[ToolResult, ...] = ()) -> None:
        """Ready for a new question; what stands before it is read before anybody speaks."""
        self._await_question(picture, results)
        self.history.read_ahead()
        self._read_question()

    def _await_question(self, picture: Prompt | None = None, results: tuple[ToolResult, ...] = ()) -> None:
        self.question.close()
        self.question = Question(self._model, picture, results=results)

    def _read_question(self) -> None:
        if not self.question.empty:
            self.history.read_on(self.question.so_far(), self.question.shed)

    def _drop_turn(self, picture: Prompt | None = None) -> None:
        self.history.rewind()
        self._answer = self._playing = None
        self._begin(picture)

    # --- answering ----------------------------------------------------------------------------------------------------
    def ask(
        self,
        text: str | None = None,
        *,
        emotion: str | None = None,
        pitch: str | None = None,
        limits: ReplyLimits | None = None,
        sampling: Sampling | None = None,
        tools: Toolbox | None = None,
    ) -> Iterator[SessionEvent]:
        """The question is complete: TranscriptDelta, TextDelta, StyleChosen, AudioChunk, Done as they are made.

        Where the reply calls tools, CallStarted and CallDelta stand between TranscriptDelta and Done.

        Args:
            text: a written question, or a written addition to the spoken one; a silence beside it is passed over.
            emotion, pitch: how to answer; the model chooses what is None.
            limits, sampling: other ones than the assistant's for this reply.
            tools: what it may call.

        The last event is Done, Failed or Cancelled. Leaving the iterator early cancels the reply; nothing that goes
        wrong is raised here.
        """
        with self.scheduler.lock:
            try:
                self._check_listening()
            except InputError as error:
                return iter((Failed(error),))
            self._queue.clear()
            self.generation += 1
            generation = self.generation
            try:
                self._ask(text, emotion, pitch, limits, sampling, tools)
            except Exception as error:
                self.fail(error)
        return self._events(generation)

    def _ask(
        self, text: str | None, emotion: str | None, pitch: str | None, limits: ReplyLimits | None,
        sampling: Sampling | None, tools: Toolbox | None,
    ) -> None:  # fmt: skip
        started = time.perf_counter()
        if text is not None and self.question.silent:
            self.unhear()
        question = self.question
        told = bool(question.results)
        text, constraints = check_question(self._model, text, emotion, pitch, question.spoken, limits, tools, told)
        question.end()
        listened = time.perf_counter()
        self.asked_units = question.units
        asked = Asked(
            question.prompt(text), question.picture, question.results, constraints,
            sampling or self._model.config.sampling,
        )  # fmt: skip
        self._write(asked, started, listened, self.history.doubt)

    def _assembler(
        self, grammar: Grammar, started: float, listened: float, doubt: Doubt | None, before: ReplyAssembler | None
    ) -> ReplyAssembler:
        return ReplyAssembler(
            self._model, self.voice, in_chunks=True, started=started, listened=listened, voice=self.speaker,
            plan=self.scheduler.config.chunks,
            grammar=grammar,
            sees=self.question.picture is not None or self.history.asking.sees,
            doubt=doubt,
            guarded=before is not None or len(self.history) > 0,
            distractible=before is None and len(self.history) > 0,
            before=before,
            lead=self.question.lead,
        )  # fmt: skip

    def _write(
        self, asked: Asked, started: float, listened: float, doubt: Doubt | None, before: ReplyAssembler | None = None
    ) -> None:
        history = self.history.asking
        grammar = history.grammar(asked.prompt, asked.constraints, self.question.shed)
        assembler = self._assembler(grammar, started, listened, doubt, before)
        history.read_ahead()
        self.asked_tokens = history.length + len(asked.prompt.ids)
        rest = history.rest(asked.prompt)
        request = self.engine.start(history.context, rest, grammar, asked.sampling, asked.read)
        first = self._answer if self.history.alone else None
        self._answer = self._playing = Answer(asked, request, assembler, first=first)
        self._queue.extend(assembler.step(request.take_written()))

    def _write_again(self, error: UnfitReplyError) -> bool:
        """Write another reply in place of one that nobody should get; False if that cannot be."""
        assert self._answer is not None
        if self._answer.first is not None:
            self._stand(self._answer.first)
            return True
        asked, before = self._answer.asked, self._answer.assembler
        another = in_place_of(before, error, self.history, asked.prompt, asked.constraints)
        if another is None:
            return False
        log.info("%s: it is written again after %d turns", type(error).__name__, len(self.history))
        asked = dataclasses.replace(asked, constraints=another.constraints, read=another.read)
        self._write(asked, before.started, before.listened, another.doubt, before)
        return True

    def _stand(self, first: Answer) -> None:
        """Go on with an answer that waited while another one was tried."""
        self.history.bring_back()
        self.asked_tokens = self.history.length + len(first.asked.prompt.ids)
        self._answer = self._playing = first
        first.assembler.stand()
        self.advance()

    @property
    def request(self) -> GenerationRequest | None:
        """The reply that is being written."""
        return None if self._answer is None else self._answer.request

    @property
    def assembler(self) -> ReplyAssembler | None:
        """What was made of the reply that is being written."""
        return None if self._answer is None else self._answer.assembler

    @property
    def wants_tokens(self) -> bool:
        """Whether the next round should move this session's reply on."""
        return (
            self._answer is not None
            and not self._answer.request.done
            and len(self._queue) < self.scheduler.config.max_events
        )

    def advance(self) -> None:
        """Take what a round wrote; a fault ends this session's turn and no other's."""
        assert self._answer is not None
        request, assembler = self._answer.request, self._answer.assembler
        try:
            tokens = request.take_written()
            if tokens:
                assembler.choosing()
            self._queue.extend(assembler.step(tokens))
            if request.error is not None:
                raise request.error
            if request.grammar.done:
                self._queue.extend(assembler.finish())
                reply = assembler.reply()
                self.history.add(self._answer.asked.prompt, assembler.tokens)
                self._last, self._answer = assembler.written, None
                self._begin()
                self._queue.append(Done(reply))
        except UnfitReplyError as error:
            self._repair(error)
        except Exception as error:
            self.fail(error)

    def _repair(self, error: UnfitReplyError) -> None:
        try:
            if self._write_again(error):
                return
        except Exception as another:
            self.fail(another)
            return
        self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the turn with an error; the session goes on without it. What is no user's doing is logged."""
        if not isinstance(error, InputError | InternalFault):
            log.error("a reply failed", exc_info=error)
            error = InternalFault()
        self._drop_turn()
        self._queue.append(Failed(error))

    def _events(self, generation: int) -> Iterator[SessionEvent]:
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
                    if isinstance(event, AudioChunk) and self._playing is not None:
                        self._playing.delivered += len(event.samples)
                    return event
                if self.closed:
                    return Failed(ClosedError(CLOSED))
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
            playing, running = self._playing, self._answer is not None
            if playing is None:
                return
            voice, whole = self._model.voice, playing.assembler.written
            heard = playing.delivered if heard_seconds is None else int(heard_seconds * voice.sample_rate)
            per_unit = voice.sample_rate / voice.detokenizer.unit_rate
            units = min(int(min(heard, playing.delivered) / per_unit), len(whole.units))
            if not running and units == len(whole.units) and not self._queue:
                return  # all of it was heard
            self.generation += 1
            self._heard_units = units
            self._queue.clear()
            kept = beginning(whole, units)
            answer = self._encode(kept) if units else []
            if not running:
                self.history.replace_last(answer)
            elif not answer or not self.history.break_off(playing.asked.prompt, answer):
                answer = []
                self.history.rewind()
            self._last = kept if answer else None
            self._answer = self._playing = None
            self._begin(*((None, ()) if answer else (playing.asked.picture, playing.asked.results)))

    def close(self) -> None:
        """Free the session's memory; its reader gets an error."""
        with self.scheduler.lock:
            if not self.closed:
                self.closed = True
                self._answer = self._playing = None
                self._queue.clear()
                self.question.close()
                self.history.close()
                self.scheduler.leave(self)
