"""One reply that is being written: its tokens become events, its units become sound.

Shape letters: T samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from emova.core.streams import Stream
from emova.events import AudioChunk, Event, Reply, Timings
from emova.reply.calls import CallDelta, CallStarted
from emova.reply.parser import (
    ReplyDone,
    ReplyEvent,
    SpokenReply,
    StyleChosen,
    TextDelta,
    TranscriptDelta,
    UnitsDelta,
    collect_calls,
    merge_deltas,
)
from emova.reply.stream import EventStream
from emova.session.protocol import DialogueModel
from emova.speech.voice import DEFAULT_PLAN, ChunkPlan, Voice


class ReplyAssembler(Stream[Sequence[int], Iterator[Event]]):
    """Tokens of one reply to its events, sound among them; ``reply`` is all of it at the end.

    Args:
        gender: who speaks.
        in_chunks: speak while the units come in, not all at the end.
        started, listened: when the question was complete, and when it was turned into units (``time.perf_counter``).
        voice: another one than the model's.
        plan: how the sound is cut.

    Attributes:
        tokens: all that were taken.
        units: those of its speech so far.
        prefilled: when the model chose its first token; whoever runs it says so by ``choosing``.
    """

    def __init__(
        self,
        model: DialogueModel,
        gender: str,
        in_chunks: bool,
        started: float,
        listened: float,
        voice: Voice | None = None,
        plan: ChunkPlan = DEFAULT_PLAN,
    ) -> None:
        self.voice = voice or model.voice
        self.tokens: list[int] = []
        self.units: list[int] = []
        self._events = EventStream(model.table, model.reply_format.parser(gender))
        self._transcript = self._text = ""
        self._chosen = StyleChosen(self.voice.styles.plain(gender), understood=False)
        self.speaking = self.voice.start(self._chosen.style, plan) if in_chunks else None
        self._audio: list[np.ndarray] = []
        self._calls: list[CallStarted | CallDelta] = []
        self._started, self._listened = started, listened
        self._spoken_for = self._prefilled = self._first_audio = self._first_speak = 0.0

    def choosing(self) -> None:
        """The model has read the question and chooses."""
        self._prefilled = self._prefilled or time.perf_counter()

    def step(self, tokens: Sequence[int], /) -> Iterator[Event]:
        """The events that ``tokens`` complete, and the sound that they make possible."""
        self.tokens += tokens
        for event in merge_deltas(self._events.step(tokens)):
            yield from self._take(event)

    def _take(self, event: ReplyEvent) -> Iterator[Event]:
        if isinstance(event, UnitsDelta):
            self.units += event.units
            if (speaking := self.speaking) is not None:
                yield from self._sound(lambda: speaking.step(event.units))
            return
        if isinstance(event, ReplyDone):
            assert event.complete, "the grammar lets no broken reply through"
            return
        if isinstance(event, TranscriptDelta):
            self._transcript += event.text
        elif isinstance(event, TextDelta):
            self._text += event.text
        elif isinstance(event, CallStarted | CallDelta):
            self._calls.append(event)
        else:
            self._chosen = event
            if self.speaking is not None:
                self.speaking.style = event.style
        yield event

    def finish(self) -> Iterator[Event]:
        """The rest of the sound; calls have none."""
        if self._calls:
            return
        if self.speaking is not None:
            yield from self._sound(self.speaking.finish)
        else:
            yield from self._sound(lambda: self.voice.synthesize(tuple(self.units), self._chosen.style))

    def _sound(self, make: Callable[[], np.ndarray]) -> Iterator[Event]:
        started = time.perf_counter()
        samples = make()
        self._spoken_for += time.perf_counter() - started
        if len(samples):
            if not self._first_audio:
                self._first_audio, self._first_speak = time.perf_counter(), self._spoken_for
            self._audio.append(samples)
            yield AudioChunk(samples, self.voice.sample_rate)

    @property
    def written(self) -> SpokenReply:
        """What was written so far."""
        style = self._chosen.style
        calls = collect_calls(self._calls)
        return SpokenReply(self._transcript, self._text, style.emotion, style.pitch, tuple(self.units), calls)

    def reply(self) -> Reply:
        """All of it, after ``finish``."""
        now, style = time.perf_counter(), self._chosen.style
        return Reply(
            transcript=self._transcript,
            text=self._text,
            emotion=style.emotion,
            pitch=style.pitch,
            voice=style.gender,
            units=tuple(self.units),
            audio=np.concatenate(self._audio) if self._audio else np.zeros(0, dtype=np.float32),
            sample_rate=self.voice.sample_rate,
            style_understood=self._chosen.understood,
            timings=Timings(
                listen=self._listened - self._started,
                prefill=self._prefilled - self._listened,
                decode=now - self._prefilled - self._spoken_for,
                speak=self._spoken_for,
                first_audio=max(0.0, self._first_audio - self._started),
                first_speak=self._first_speak,
                total=now - self._started,
            ),
            calls=collect_calls(self._calls),
        )
