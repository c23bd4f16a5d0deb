"""One reply that is being written: its tokens become events, its units become sound.

Shape letters: T samples.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from emova.core.errors import DistractedReplyError, UncertainReplyError
from emova.core.streams import Stream
from emova.events import AudioChunk, Event, Reply, Timings
from emova.reply.calls import CallDelta, CallStarted
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyConstraints
from emova.reply.grammar import Grammar
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


class Holding:
    """What of a reply its reader has got. The text waits until it is whole, or long, and was looked at: so a garbled
    reply can be written again unseen.

    Args:
        most: characters of text that wait.
        before: of the reply that this one is written in place of; what was handed out then is not handed out again.
        hearing: whether what was heard waits for the text: it may be heard anew.

    Attributes:
        heard: whether what was heard was handed out.
        told: whether text was.
        sounded: whether sound was.
    """

    def __init__(self, most: int, before: Holding | None = None, hearing: bool = False) -> None:
        self._most, self._repeats, self._hearing = most, before is not None, hearing
        self._heard_before = before is not None and before.heard
        self.heard: bool = self._heard_before
        self._known = False if before is None else before.told
        self.told: bool = self._known
        self.sounded = self._whole = False
        self._held: list[Event] = []
        self._length = 0

    @property
    def repeatable(self) -> bool:
        """Whether another reply in its place would contradict nothing that was handed out."""
        return not self._repeats and not self.sounded and (self._whole or not self.told)

    def take(self, event: Event) -> list[Event]:
        """The events that may be handed out now."""
        if isinstance(event, TranscriptDelta):
            if self._hearing and not self.told:
                self._held.append(event)
                return []
            self.heard = True
            return [] if self._heard_before else [event]
        if isinstance(event, CallStarted | CallDelta):
            return [event]
        if self._known and isinstance(event, TextDelta | StyleChosen):
            return []
        if isinstance(event, TextDelta):
            self._length += len(event.text)
        self._whole |= isinstance(event, StyleChosen) and self._length > 0
        self.sounded |= isinstance(event, AudioChunk)
        self._held.append(event)
        if not (self.told or self._whole or self.sounded or self._length > self._most):
            return []
        self.told = self.heard = True
        free, self._held = self._held, []
        return free


class ReplyAssembler(Stream[Sequence[int], Iterator[Event]]):
    """Tokens of one reply to its events, sound among them; ``reply`` is all of it at the end.

    Args:
        gender: who speaks.
        in_chunks: speak while the units come in, not all at the end.
        started, listened: when the question was complete, and when it was turned into units (``time.perf_counter``).
        voice: another one than the model's.
        plan: how the sound is cut.
        grammar: that the reply is written under.
        sees: whether a picture is in view.
        doubt: when the reply is not trusted; None trusts it.
        distractible: whether turns before it, or a picture in them, may have led the model astray.
        lead: what long speech said before what the model hears; the transcript begins with it.
        guarded: see that it is not garbled; a reply without a history is what the model has to say.
        before: the reply that this one is written in place of: garbled, or not trusted.

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
        grammar: Grammar,
        sees: bool,
        doubt: Doubt | None,
        voice: Voice | None = None,
        plan: ChunkPlan = DEFAULT_PLAN,
        guarded: bool = False,
        distractible: bool = False,
        before: ReplyAssembler | None = None,
        lead: str = "",
    ) -> None:
        guard = model.config.reply_guard
        self._guard, self._doubt, self._sees = guard if guarded else None, doubt, sees
        self._distractible = distractible and doubt is not None and doubt.distracted is not None
        self.grammar, self._table = grammar, model.table
        self._schema, self._always_speaks = model.reply_format.schema, model.reply_format.speaks
        self._words_first = model.reply_format.words_end == "style"
        self._holding: Holding = Holding(
            guard.held if guarded or self._doubt is not None else 0,
            None if before is None else before._holding,
            hearing=self._distractible or (before is not None and before._distractible),
        )
        self.voice = voice or model.voice
        self.tokens: list[int] = []
        self.units: list[int] = []
        self._events = EventStream(model.table, model.reply_format.parser(gender))
        self.lead, self._transcript, self._text = lead, "", ""
        self._chosen = StyleChosen(self.voice.styles.plain(gender), understood=False)
        self.speaking = self.voice.start(self._chosen.style, plan) if in_chunks else None
        self._coming: deque[ReplyEvent] = deque()
        self._audio: list[np.ndarray] = []
        self._calls: list[CallStarted | CallDelta] = []
        self.started, self.listened = started, listened
        self._spoken_for = self._prefilled = self._first_audio = self._first_speak = 0.0

    def choosing(self) -> None:
        """The model has read the question and chooses."""
        self._prefilled = self._prefilled or time.perf_counter()

    def step(self, tokens: Sequence[int], /) -> Iterator[Event]:
        """The events that ``tokens`` complete, and the sound that they make possible.

        Raises:
            GarbledReplyError: the text is none.
            UncertainReplyError: the model was not sure of it.
            DistractedReplyError: the model may have been led astray.
        """
        if self.lead and not self.tokens and tokens:
            yield from self._holding.take(TranscriptDelta(self.lead))
        self.tokens += tokens
        self._coming += merge_deltas(self._events.step(tokens))
        while self._coming:
            yield from self._take(self._coming[0])
            self._coming.popleft()
        if self._words_first:  # one word that is not sure is enough
            self._check_doubt()

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
            if self._guard is not None:
                self._guard.check_text(self._text, self._schema)
        elif isinstance(event, CallStarted | CallDelta):
            self._calls.append(event)
        else:
            self._chosen = event
            if self.speaking is not None:
                self.speaking.style = event.style
            self._check_doubt()
        yield from self._holding.take(event)

    def _check_doubt(self) -> None:
        """While nobody has got any of the text.

        Raises:
            DistractedReplyError: it had better be written without the turns before.
            UncertainReplyError: it is not to be trusted.
        """
        if self._doubt is None or self._holding.told or self._holding.sounded:
            return
        if self._distractible and self._doubt.led_astray(self.grammar.uncertainty):
            raise DistractedReplyError
        if not self._doubt.trusts(self.grammar.uncertainty, self._sees):
            raise UncertainReplyError

    def stand(self) -> None:
        """The reply was not trusted and is handed out all the same; the next ``step`` goes on with it."""
        self._doubt = None

    def admission(self, constraints: ReplyConstraints) -> ReplyConstraints:
        """Of a reply in the place of this one, which was not trusted."""
        assert self._doubt is not None
        transcript = self._heard(constraints)
        said = self._doubt.admission(transcript)
        return dataclasses.replace(
            constraints,
            transcript=transcript,
            text=self._table.beginning(said.text, constraints.limits.max_text_tokens),
            emotion=constraints.emotion or said.emotion,
            pitch=constraints.pitch or said.pitch,
            tools=None,
        )

    def anew(self, constraints: ReplyConstraints) -> ReplyConstraints:
        """Of another answer to the same question: what was heard of it stays if it was handed out."""
        heard = self._heard(constraints) if self._holding.heard else constraints.transcript
        return dataclasses.replace(constraints, transcript=heard)

    def _heard(self, constraints: ReplyConstraints) -> str:
        return self._transcript if constraints.transcript is None else constraints.transcript

    def again(self, constraints: ReplyConstraints) -> ReplyConstraints | None:
        """Of a reply in the place of this one, which is garbled: what was handed out already stays as it was. None if
        that cannot be."""
        if not self._holding.repeatable:
            return None
        same = self.anew(constraints)
        if not self._holding.told:
            return same
        style = self._chosen.style
        return dataclasses.replace(same, text=self._text, emotion=style.emotion, pitch=style.pitch)

    def finish(self) -> Iterator[Event]:
        """The rest of the sound; calls have none. Raises: GarbledReplyError: the speech cannot say the text."""
        if self._guard is not None and not self.grammar.speech_cut and (self.units or self._always_speaks):
            self._guard.check_speech(self._text, len(self.units), self.voice.detokenizer.unit_rate)
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
            yield from self._holding.take(AudioChunk(samples, self.voice.sample_rate))

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
            transcript=self.lead + self._transcript,
            text=self._text,
            emotion=style.emotion,
            pitch=style.pitch,
            voice=style.gender,
            units=tuple(self.units),
            audio=np.concatenate(self._audio) if self._audio else np.zeros(0, dtype=np.float32),
            sample_rate=self.voice.sample_rate,
            style_understood=self._chosen.understood,
            timings=Timings(
                listen=self.listened - self.started,
                prefill=self._prefilled - self.listened,
                decode=now - self._prefilled - self._spoken_for,
                speak=self._spoken_for,
                first_audio=max(0.0, self._first_audio - self.started),
                first_speak=self._first_speak,
                total=now - self.started,
            ),
            calls=collect_calls(self._calls),
        )
