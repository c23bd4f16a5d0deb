"""One reply that is being told: it gathers the parser's events, and turns units into sound.

Shape letters: T samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from emova.events import AudioChunk, Event, Reply, Timings
from emova.reply.parser import ReplyDone, StyleChosen, TextDelta, TranscriptDelta, UnitsDelta
from emova.speech.voice import DEFAULT_PLAN, ChunkPlan, Voice


class ReplyAssembler:
    """Gathers one reply, and speaks it."""

    def __init__(self, voice: Voice, gender: str, in_chunks: bool, plan: ChunkPlan = DEFAULT_PLAN) -> None:
        self.voice, self.in_chunks = voice, in_chunks
        self.transcript = self.text = ""
        self.units: list[int] = []
        self.chosen = StyleChosen(voice.styles.plain(gender), understood=False)
        self.audio: list[np.ndarray] = []
        self.speaking = voice.start(plan) if in_chunks else None
        self.spoken_for = 0.0
        self.prefilled = self.first_audio = self.first_speak = 0.0

    def take(self, event: Any) -> Iterator[Event]:
        """Pass on an event of the parser, or the sound that it makes possible."""
        if isinstance(event, TranscriptDelta):
            self.transcript += event.text
            yield event
        elif isinstance(event, TextDelta):
            self.text += event.text
            yield event
        elif isinstance(event, StyleChosen):
            self.chosen = event
            yield event
        elif isinstance(event, UnitsDelta):
            self.units += event.units
            if self.speaking is not None:
                yield from self._sound(lambda: self.speaking.step(event.units, self.chosen.style))
        else:
            assert isinstance(event, ReplyDone) and event.complete, "the grammar lets no broken reply through"

    def finish(self) -> Iterator[Event]:
        """The rest of the sound."""
        if self.speaking is not None:
            yield from self._sound(lambda: self.speaking.finish(self.chosen.style))
        else:
            yield from self._sound(lambda: self.voice.synthesize(tuple(self.units), self.chosen.style))

    def _sound(self, make: Any) -> Iterator[Event]:
        started = time.perf_counter()
        samples = make()
        self.spoken_for += time.perf_counter() - started
        if len(samples):
            if not self.first_audio:
                self.first_audio, self.first_speak = time.perf_counter(), self.spoken_for
            self.audio.append(samples)
            yield AudioChunk(samples, self.voice.sample_rate)

    def reply(self, started: float, listened: float) -> Reply:
        """All of it."""
        now, style = time.perf_counter(), self.chosen.style
        return Reply(
            transcript=self.transcript,
            text=self.text,
            emotion=style.emotion,
            pitch=style.pitch,
            voice=style.gender,
            units=tuple(self.units),
            audio=np.concatenate(self.audio),
            sample_rate=self.voice.sample_rate,
            style_understood=self.chosen.understood,
            timings=Timings(
                listen=listened - started,
                prefill=self.prefilled - listened,
                decode=now - self.prefilled - self.spoken_for,
                speak=self.spoken_for,
                first_audio=self.first_audio - started,
                first_speak=self.first_speak,
                total=now - started,
            ),
        )
