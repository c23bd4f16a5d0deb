"""What a realtime client lets the server hear: sound that is no item yet, and where in it a turn begins and ends."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable

import numpy as np

from emova.core.errors import InputError
from emova.speech.turn_end import SemanticTurnConfig, SemanticTurnTaking
from emova.speech.vad import WINDOW, Going, Paused, Started, Stopped, Turn, TurnConfig, TurnTaking
from emova_app.server.api.audio import write_down
from emova_app.server.errors import ApiError
from emova_app.server.http.front import new_id
from emova_app.server.json_types import message_item
from emova_app.server.realtime.answering import HEARD
from emova_app.server.realtime.backlog import MAX_PIECES
from emova_app.server.realtime.conversation import Conversation, Entry
from emova_app.server.realtime.floor import Floor
from emova_app.server.realtime.line import Line
from emova_app.server.realtime.sound import Incoming

LEAST_SECONDS = 0.1


def _taking(config: TurnConfig | SemanticTurnConfig) -> TurnTaking:
    return SemanticTurnTaking(config) if isinstance(config, SemanticTurnConfig) else TurnTaking(config)


async def _nobody() -> None:
    """Is told of nothing."""


class Hearing:
    """The buffer of sound that was not committed, and who takes turns in it.

    Its memory is bounded by what one question may have.

    Args:
        turn_ended: called when a turn has ended by itself and an answer is wished for.
    """

    def __init__(
        self, line: Line, conversation: Conversation, floor: Floor, turn_ended: Callable[[], Awaitable[None]]
    ) -> None:
        self._line, self._conversation, self._floor, self._turn_ended = line, conversation, floor, turn_ended
        self._turns: TurnTaking | None = None
        self._turn: list[np.ndarray] = []  # what was said in the turn that goes on, for who judges its end by its words
        self._said = False  # whether there was speech since the last commit
        self.listen_anew()
        self._new_buffer()

    def listen_anew(self) -> None:
        """The settings of what is heard have changed."""
        line = self._line
        limits = line.service.assistant.config.audio_limits
        self._incoming = Incoming(line.settings.hears, line.rate, limits.max_seconds)
        self._turns = None

    def _new_buffer(self) -> None:
        self._buffer: list[np.ndarray] = []  # heard by the session
        self._item_id = new_id("item")
        self._told, self._draft = "", ""  # of its words: what stays, and what may change
        self._said = False

    # --- sound --------------------------------------------------------------------------------------------------------
    async def append(self, audio: str) -> None:
        """More sound. Raises: InputError: it is unusable, or too much."""
        run, detection = self._line.service.run, self._line.settings.turns
        samples = await run(self._incoming.take, audio)
        if detection is None:
            await self._hear(samples)
            return
        pieces: Iterable[np.ndarray] = (samples,)
        if self._turns is None:
            self._turns = _taking(detection.config)
        if isinstance(self._turns, SemanticTurnTaking):
            pieces = (samples[start : start + WINDOW] for start in range(0, len(samples), WINDOW))
        for piece in pieces:
            if self._turns is None:
                return  # cleared meanwhile
            for turn in await run(self._turns.step, piece):
                await self._take(turn)

    async def _take(self, turn: Turn) -> None:
        detection = self._line.settings.turns
        assert detection is not None, "turns are taken only where they are detected"
        sender = self._line.sender
        if isinstance(turn, Started):
            self._turn, self._said = [turn.samples], True
            at = {"audio_start_ms": turn.at_ms, "item_id": self._item_id}
            await sender.emit("input_audio_buffer.speech_started", **at)
            if detection.interrupt_response:
                await self._floor.interrupt("turn_detected")
            await self._hear(turn.samples)
        elif isinstance(turn, Going):
            self._said = self._said or turn.speech
            self._remember(turn.samples)
            await self._hear(turn.samples)
        elif isinstance(turn, Paused):
            assert isinstance(self._turns, SemanticTurnTaking), "others do not ask for words"
            self._turns.said(await self._words())
        elif isinstance(turn, Stopped):
            self._turn = []
            at = {"audio_end_ms": turn.at_ms, "item_id": self._item_id}
            await sender.emit("input_audio_buffer.speech_stopped", **at)
            await self._floor.when_free(functools.partial(self._end_turn, detection.create_response))

    def _remember(self, samples: np.ndarray) -> None:
        """Keep what a turn is judged by where its words say when it ends: its last seconds, however long it goes on."""
        detection = self._line.settings.turns
        if detection is None or not isinstance(detection.config, SemanticTurnConfig):
            return
        self._turn.append(samples)
        most = int(detection.config.heard_seconds * self._line.rate)
        if sum(map(len, self._turn)) > 2 * most:
            self._turn = [np.concatenate(self._turn)[-most:]]

    async def _words(self) -> str:
        """What was said in this turn; nothing if the model does not understand it."""
        line = self._line
        assert line.settings.turns is not None and isinstance(line.settings.turns.config, SemanticTurnConfig)
        most = int(line.settings.turns.config.heard_seconds * line.rate)
        samples = np.concatenate(self._turn)[-most:]
        try:
            return await line.service.run(lambda: "".join(write_down(line.service.scheduler, samples)))
        except InputError:
            return ""

    async def _end_turn(self, answer: bool) -> None:
        if self._said:
            await self.commit(by_itself=True)
        else:  # it was committed by hand; what came behind was silence
            await self._forget_buffer()
        if answer and self._conversation.question:
            await self._turn_ended()

    async def _hear(self, samples: np.ndarray) -> None:
        """Let the session hear; while it answers, the sound waits. Raises: InputError: there is too much of it."""
        if not self._floor.busy:
            await self._hear_now(samples)
        elif len(samples):
            self._floor.deferred.add_sound(functools.partial(self._hear_now, samples), len(samples), samples.nbytes)

    async def _hear_now(self, samples: np.ndarray) -> None:
        try:
            await self._conversation.replace_refused()
            await self._conversation.settle(self._buffer)
            await self._line.service.run(self._line.session.hear, samples)
        except InputError:
            # The session has dropped the whole question; nothing of it may linger here.
            self._new_buffer()
            self._conversation.drop_question()
            raise
        self._buffer.append(samples)
        await self._tell_words()
        if len(self._buffer) > MAX_PIECES:  # an array takes a hundred bytes, however short
            self._buffer = [np.concatenate(self._buffer)]

    async def _tell_words(self) -> None:
        """What was said so far, while it is being said. Only words that stay are told as a delta, so that all deltas of
        an item together are its transcript; where a question has several items, the first one's is that of all."""
        line, session = self._line, self._line.session
        if not line.settings.transcription or any(entry.spoken for entry in self._conversation.question):
            return
        if session.question.silent:
            return
        stays, draft = await line.service.run(session.so_far)
        delta = stays[len(self._told) :]
        if not delta and (not line.settings.drafts or draft == self._draft):
            return
        self._told, self._draft = stays, draft
        drafted = {"draft": draft} if line.settings.drafts else {}
        await line.sender.emit(HEARD + "delta", item_id=self._item_id, content_index=0, delta=delta, **drafted)

    # --- commit and clear ---------------------------------------------------------------------------------------------
    async def commit(self, by_itself: bool = False) -> None:
        """What was heard is an item. Raises: ApiError: it is shorter than 100 ms."""
        if not by_itself:
            await self._hear_rest()
        if sum(map(len, self._buffer)) < LEAST_SECONDS * self._line.rate:
            raise ApiError(400, "the audio buffer holds less than 100 ms", code="input_audio_buffer_commit_empty")
        previous = self._conversation.last
        item = message_item(self._item_id, "user", [{"type": "input_audio", "transcript": None}])
        entry = Entry(item, samples=self._buffer, told=self._told)
        await self._line.sender.emit("input_audio_buffer.committed", previous_item_id=previous, item_id=item["id"])
        self._new_buffer()
        await self._conversation.add(entry)

    async def _hear_rest(self) -> None:
        """What waits here for more sound, so that so much is committed as was sent."""
        rest = await self._line.service.run(self._incoming.rest)
        if self._turns is not None:
            rest = np.concatenate([self._turns.take(), rest])
        if len(rest):
            await self._hear_now(rest)

    async def clear(self) -> None:
        """Forget what was not committed."""
        self.listen_anew()
        await self._floor.when_free(self._clear_now)

    async def _clear_now(self) -> None:
        await self._forget_buffer()
        await self._line.sender.emit("input_audio_buffer.cleared")

    async def _forget_buffer(self) -> None:
        await self._take_back()
        self._new_buffer()

    async def _take_back(self) -> None:
        """Let the session forget the sound that was not committed."""
        if self._buffer:
            self._conversation.stale = True
            await self._conversation.settle()

    async def set_aside(self) -> None:
        """What is not committed is no part of the question: it is heard again after the answer."""
        await self._take_back()
        for samples in reversed(self._buffer):
            again = functools.partial(self._hear_now, samples)
            self._floor.deferred.put_first(again, len(samples), samples.nbytes)
        self._buffer = []

    def let_go(self) -> None:
        """Forget all, and who is told of a turn's end."""
        self._turn_ended = _nobody
        self._turn = []
        self._new_buffer()
