"""From a recipe's data to training conversations: every task of the three stages as one small function (EMOVA §4).

A task draws a sample with the generator it is given, so a sample is a function of that generator's seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from emova.core.errors import InputError
from emova.model import EmovaProcessor
from emova.model.processing_emova import Message
from emova.reply.format import TRANSCRIBE_PROMPT, ReplyFormat
from emova.reply.grammar import TextEncoder, TokenTable
from emova.reply.interleaved import InterleavedReply
from emova.reply.parser import SpokenReply
from emova.speech.spelling import LETTERS, find_spelling
from emova_train.core import renamed
from emova_train.data.examples import SKELETON, TEXT, TRANSCRIPT, UNITS, Example, ShownPicture, example, runs
from emova_train.data.interleaved import InterleavedConfig, Subtask, interleaved_message
from emova_train.data.phrasings import (
    CAPTION_PHRASINGS,
    REORDERED_PHRASING,
    draw_phrase,
    speak_phrasings,
    transcribe_phrasings,
)
from emova_train.data.recipe import Exchange, Picture, Recipe
from emova_train.data.replies import reply_format_of, reply_message
from emova_train.stages.long_conversations import LongConfig, plan
from emova_train.stages.transcript_noise import TranscriptNoise

Turn = tuple[Message, tuple[Message, tuple[int, ...]]]
"""A question's part, the reply to it, and what each of the reply's tokens teaches."""
INTERLEAVED_TASKS = ("interleaved_talk", "interleaved_picture")
SPEECH_TASKS = ("asr", "tts", "spoken_talk", "spoken_picture", "long_talk", *INTERLEAVED_TASKS)
"""The tasks that need units."""
PICTURE_TASKS = (
    "caption", "caption_reordered", "picture_text", "spoken_picture", "teacher_forced_picture", "interleaved_picture",
    "long_talk",
)  # fmt: skip
"""The tasks that show pictures."""
TEACHER_FORCED_TASKS = ("teacher_forced_talk", "teacher_forced_picture")
"""The tasks whose transcripts are given (teacher forcing): there is no speech to hear."""


@dataclass(frozen=True)
class ConversationConfig:
    """How samples are made.

    Attributes:
        turns: most plain or teacher-forced questions in one sample.
        described: the share of samples with plain questions about a picture that begin with its description: in its
            words the answers are easy to find, and how to find them is then known for the picture too.
        listed: the share of samples with plain or teacher-forced questions about a picture that are about one with
            names and their values, which have to be looked up.
        two_turns: the share of spoken picture samples that hold two exchanges about the picture.
        typed: the share of spoken-reply samples whose question is typed, and of teacher-forced questions that are.
        unspoken: the share of spoken-reply samples that end before the last reply's units, half of their tokens.
        transcript_noise: the share of spoken questions whose transcript has wrong words, which teach nothing; the
            answer is the right one (``emova_train.stages.transcript_noise``).
        unit_noise: the share of heard units that are replaced by a neighbour in the codebook.
        unit_stretch: the share of heard units that are dropped or said twice: others speak faster or slower.
        unit_levels: the codebook's levels a dimension, first fastest; a neighbour differs by one step in one of them.
        spelling: how a text that is to be read aloud is spelled (``emova.speech.spelling``).
        template: ``qa`` asks for a caption in words; ``plain`` shows the picture alone, as LLaVA's first stage does
            (EMOVA's Table 7 compares them).
        interleaved: how the tasks ``interleaved_talk`` and ``interleaved_picture`` write replies.
        long: how the task ``long_talk`` makes conversations of many turns.
    """

    turns: int = 3
    described: float = 0.0
    listed: float = 0.0
    two_turns: float = 0.08
    typed: float = 0.12
    unspoken: float = 0.0
    transcript_noise: float = 0.0
    unit_noise: float = 0.0
    unit_stretch: float = 0.0
    unit_levels: tuple[int, ...] = (8, 8, 8, 8)
    interleaved: InterleavedConfig = field(default_factory=InterleavedConfig)
    spelling: str = LETTERS
    template: str = "qa"
    long: LongConfig = field(default_factory=LongConfig)

    def __post_init__(self) -> None:
        find_spelling(self.spelling)
        if self.template not in ("qa", "plain"):
            raise InputError(f"template={self.template}: unknown; give qa or plain")


@dataclass(frozen=True)
class Sample:
    """A conversation before rendering, and for each assistant message what its tokens teach."""

    messages: tuple[Message, ...]
    kinds: tuple[tuple[int, ...] | int, ...]
    """An int stands for all tokens of a message."""
    unspoken: bool = False
    """It ends before the units of the last reply."""
    picture: Picture | None = None


@dataclass(frozen=True)
class Task:
    """A kind of sample: how many there are to draw from, and how one is drawn."""

    name: str
    size: int
    draw: Callable[[np.random.Generator], Sample]


class Conversations:
    """All tasks over one split of a recipe's data.

    Args:
        recipe: the data.
        processor: renders conversations; its reply format is the one that is taught.
        config: how samples are made.
    """

    def __init__(self, recipe: Recipe, processor: EmovaProcessor, config: ConversationConfig) -> None:
        self.recipe = recipe
        self.processor = processor
        self.config = config
        self.spell = find_spelling(config.spelling)
        table = TokenTable.from_tokenizer(processor.tokenizer)
        self.table = replace(table, tokenizer=_Remembering(table.tokenizer))
        self.spoken = reply_format_of(processor)
        self.interleaved = InterleavedReply(config.interleaved.ratio, self.spoken.styles)
        self.transcript_noise = TranscriptNoise(each.question for each in recipe.talk)
        self.captioned = [picture for picture in recipe.pictures if picture.caption]
        self.asked = [picture for picture in recipe.pictures if picture.exchanges]
        self.listed = [picture for picture in self.asked if picture.reordered]
        self.spoken_talk = [each for each in recipe.talk if self._spoken(each)]
        # Only exchanges whose question and answer are both spoken can be spoken samples.
        self.spoken_pictures = [
            (picture, spoken)
            for picture in recipe.pictures
            if (spoken := [each for each in picture.exchanges if self._spoken(each)])
        ]
        tasks = [
            Task("caption", len(self.captioned), self.caption),
            Task("caption_reordered", len(self.listed), self.caption_reordered),
            Task("picture_text", len(self.asked), self.picture_text),
            Task("talk_text", len(recipe.talk), self.talk_text),
            Task("asr", len(recipe.asr), self.asr),
            Task("tts", len(recipe.tts), self.tts),
            Task("spoken_talk", len(self.spoken_talk), self.talk_reply),
            Task("spoken_picture", len(self.spoken_pictures), self.picture_reply),
            Task("teacher_forced_talk", len(recipe.talk), self.teacher_forced_talk),
            Task("teacher_forced_picture", len(self.asked), self.teacher_forced_picture),
            Task("interleaved_talk", len(self.spoken_talk), partial(self.talk_reply, interleaved=True)),
            Task("interleaved_picture", len(self.spoken_pictures), partial(self.picture_reply, interleaved=True)),
            Task("long_talk", len(self.spoken_talk), self.long_talk),
        ]
        self.tasks = {task.name: task for task in tasks}

    def _spoken(self, exchange: Exchange) -> bool:
        return exchange.question in self.recipe.questions and exchange.answer in self.recipe.answers

    # Parts --------------------------------------------------------------------------------------------------------

    def _hear(self, units: np.ndarray, rng: np.random.Generator) -> Message:
        """Heard units, some of them slightly misheard."""
        units = units.astype(np.int64)
        changed = np.flatnonzero(rng.random(len(units)) < self.config.unit_noise)
        if len(changed):
            levels = np.asarray(self.config.unit_levels)
            strides = np.concatenate([[1], np.cumprod(levels)[:-1]])
            dimension = rng.integers(len(levels), size=len(changed))
            digits = units[changed] // strides[dimension] % levels[dimension]
            step = np.where(rng.random(len(changed)) < 0.5, -1, 1)
            step = np.where((digits + step < 0) | (digits + step >= levels[dimension]), -step, step)
            units[changed] += step * strides[dimension]
        if self.config.unit_stretch:
            chance = rng.random(len(units)) / self.config.unit_stretch
            units = np.repeat(units, np.where(chance < 0.5, 0, np.where(chance < 1, 2, 1)))
        return {"type": "audio", "units": units.tolist()}

    def _question(self, exchange: Exchange, typed: bool, rng: np.random.Generator) -> Message:
        if typed:
            return {"type": "text", "text": exchange.question}
        return self._hear(self.recipe.questions.draw(exchange.question, rng).units, rng)

    def reply_format(self, task: str) -> ReplyFormat:
        """How a task writes spoken replies."""
        return self.interleaved if task in INTERLEAVED_TASKS else self.spoken

    def reply(
        self,
        exchange: Exchange,
        rng: np.random.Generator,
        interleaved: bool = False,
        subtask: Subtask | None = None,
        noisy: bool = False,
    ) -> tuple[Message, tuple[int, ...]]:
        """The assistant's spoken reply as a message of trusted tokens, and what each of them teaches."""
        units = tuple(self.recipe.answers.draw(exchange.answer, rng).units.tolist())
        question = self.transcript_noise(exchange.question, rng) if noisy else exchange.question
        reply = SpokenReply(question, exchange.answer, exchange.emotion, exchange.pitch, units)
        if interleaved:
            return interleaved_message(self.interleaved, reply, self.table, subtask)
        return reply_message(self.spoken, reply, self.table, (TRANSCRIPT,) if noisy else ())

    # Tasks --------------------------------------------------------------------------------------------------------

    def caption(self, rng: np.random.Generator) -> Sample:
        """A picture and its dense caption."""
        picture = self.captioned[int(rng.integers(len(self.captioned)))]
        return Sample(self._described(picture, rng), (TEXT,), picture=picture)

    def caption_reordered(self, rng: np.random.Generator) -> Sample:
        """A picture and its caption, with what it lists in another order.

        In the picture's order values can be counted off; in any other what stands beside a name has to be looked up by
        the name, as a question about it asks.
        """
        picture = self.listed[int(rng.integers(len(self.listed)))]
        caption = picture.reordered[int(rng.integers(len(picture.reordered)))]
        content: list[Message] = [
            {"type": "image", "image": picture.load()},
            {"type": "text", "text": REORDERED_PHRASING},
        ]
        return Sample((_user(content), _assistant(caption)), (TEXT,), picture=picture)

    def _picture(self, rng: np.random.Generator) -> Picture:
        """One to ask about."""
        listed = self.listed and self.config.listed and rng.random() < self.config.listed
        pictures = self.listed if listed else self.asked
        return pictures[int(rng.integers(len(pictures)))]

    def _described(self, picture: Picture, rng: np.random.Generator) -> tuple[Message, Message]:
        content: list[Message] = [{"type": "image", "image": picture.load()}]
        if self.config.template == "qa":
            content.append({"type": "text", "text": draw_phrase(CAPTION_PHRASINGS, rng)})
        return _user(content), _assistant(picture.caption)

    def picture_text(self, rng: np.random.Generator) -> Sample:
        """A picture with typed questions and plain answers (the QA template of Table 7)."""
        picture = self._picture(rng)
        messages: list[Message] = []
        chosen = self._some(picture.exchanges, rng)
        if picture.caption and self.config.described and rng.random() < self.config.described:
            messages += self._described(picture, rng)
        for exchange in chosen:
            content: list[Message] = [{"type": "image", "image": picture.load()}] if not messages else []
            messages += [_user([*content, {"type": "text", "text": exchange.question}]), _assistant(exchange.answer)]
        return Sample(tuple(messages), (TEXT,) * (len(messages) // 2), picture=picture)

    def _some(self, exchanges: Sequence[Exchange], rng: np.random.Generator) -> list[Exchange]:
        """As many as allowed: a picture costs most of the tokens, whatever is asked about it."""
        count = min(self.config.turns, len(exchanges))
        return [exchanges[int(index)] for index in rng.choice(len(exchanges), size=count, replace=False)]

    def teacher_forced_talk(self, rng: np.random.Generator) -> Sample:
        """Questions without a picture whose transcripts are given, and the replies up to their speech."""
        return self._teacher_forced(None, self._some(self.recipe.talk, rng), rng)

    def teacher_forced_picture(self, rng: np.random.Generator) -> Sample:
        """Questions about a picture whose transcripts are given, and the replies up to their speech."""
        picture = self._picture(rng)
        return self._teacher_forced(picture, self._some(picture.exchanges, rng), rng)

    def _teacher_forced(
        self, picture: Picture | None, exchanges: Sequence[Exchange], rng: np.random.Generator
    ) -> Sample:
        # What a spoken exchange teaches after the transcript, at two fifths of its tokens: they have no units.
        def turns() -> Iterator[Turn]:
            for exchange in exchanges:
                typed = rng.random() < self.config.typed
                question: Message = (
                    {"type": "text", "text": exchange.question} if typed else {"type": "audio", "units": []}
                )
                reply = SpokenReply(exchange.question, exchange.answer, exchange.emotion, exchange.pitch, ())
                yield question, reply_message(self.spoken, reply, self.table, (TRANSCRIPT, UNITS, SKELETON))

        return _dialogue(self.spoken.system_prompt, picture, turns())

    def talk_text(self, rng: np.random.Generator) -> Sample:
        """A typed question and its plain answer, without a picture."""
        exchange = self.recipe.talk[int(rng.integers(len(self.recipe.talk)))]
        return Sample((_user([{"type": "text", "text": exchange.question}]), _assistant(exchange.answer)), (TEXT,))

    def asr(self, rng: np.random.Generator) -> Sample:
        """Speech to text."""
        utterance = self.recipe.asr.all[int(rng.integers(len(self.recipe.asr)))]
        instruction: Message = {"type": "text", "text": draw_phrase(transcribe_phrasings(utterance.text), rng)}
        content: list[Message] = [self._hear(utterance.units, rng), instruction]
        if instruction["text"] != TRANSCRIBE_PROMPT and rng.random() < 0.5:
            content.reverse()
        return Sample((_user(content), _assistant(utterance.text)), (TRANSCRIPT,))

    def tts(self, rng: np.random.Generator) -> Sample:
        """Text to speech."""
        utterance = self.recipe.tts.all[int(rng.integers(len(self.recipe.tts)))]
        text = draw_phrase(speak_phrasings(utterance.text), rng) + self.spell(utterance.text)
        said = {"role": "assistant", "content": [{"type": "audio", "units": utterance.units.tolist()}]}
        return Sample((_user([{"type": "text", "text": text}]), said), (UNITS,))

    def talk_reply(self, rng: np.random.Generator, interleaved: bool = False) -> Sample:
        """A spoken (now and then typed) question without a picture, and the spoken reply."""
        exchange = self.spoken_talk[int(rng.integers(len(self.spoken_talk)))]
        return self.reply_sample(None, [exchange], rng.random() < self.config.typed, rng, interleaved)

    def picture_reply(self, rng: np.random.Generator, interleaved: bool = False) -> Sample:
        """A question about a picture, sometimes two, and the spoken reply."""
        picture, spoken = self.spoken_pictures[int(rng.integers(len(self.spoken_pictures)))]
        count = 2 if len(spoken) > 1 and rng.random() < self.config.two_turns else 1
        chosen = [spoken[int(index)] for index in rng.choice(len(spoken), size=count, replace=False)]
        return self.reply_sample(picture, chosen, rng.random() < self.config.typed, rng, interleaved)

    def reply_sample(
        self,
        picture: Picture | None,
        exchanges: Sequence[Exchange],
        typed: bool,
        rng: np.random.Generator,
        interleaved: bool = False,
    ) -> Sample:
        """Exchanges with spoken replies; the picture stands in the first question."""
        subtask = self.config.interleaved.subtask(rng) if interleaved else None
        system = self.interleaved.system_prompt if interleaved else self.spoken.system_prompt

        def turns() -> Iterator[Turn]:
            for exchange in exchanges:
                question = self._question(exchange, typed, rng)
                noise = self.config.transcript_noise
                noisy = not typed and bool(noise) and rng.random() < noise
                yield question, self.reply(exchange, rng, interleaved, subtask, noisy)

        sample = _dialogue(system, picture, turns())
        # Interleaved replies have no units that come after all else.
        return replace(sample, unspoken=not interleaved and rng.random() < self.config.unspoken)

    def long_talk(self, rng: np.random.Generator) -> Sample:
        """A conversation of many turns, typed and spoken, talk and a picture mixed; it ends where its room does."""
        config, system = self.config.long, self.spoken.system_prompt
        messages: list[Message] = [{"role": "system", "content": system}]
        kinds: list[tuple[int, ...] | int] = []
        picture: Picture | None = None
        room = config.positions - len(self.table.encode(system))
        for turn in plan(config, self.spoken_talk, self.spoken_pictures, rng):
            content = [self._question(turn.exchange, turn.typed, rng)]
            answer, answer_kinds = self.reply(turn.exchange, rng)
            room -= self._positions(content[0], turn.picture) + len(answer_kinds)
            if room < 0 and kinds:
                break
            if turn.picture is not None:
                picture = turn.picture
                content.insert(0, {"type": "image", "image": picture.load()})
            messages += [_user(content), answer]
            kinds.append(answer_kinds)
        return Sample(tuple(messages), tuple(kinds), rng.random() < self.config.unspoken, picture)

    def _positions(self, question: Message, picture: Picture | None) -> int:
        """About how many positions a question takes, with the control tokens around it and its answer."""
        side = self.processor.image_processor.tile_side
        said = question["units"] if question["type"] == "audio" else self.table.encode(question["text"])
        return len(said) + 8 + (side * (side + 1) + 4 if picture is not None else 0)

    # Rendering ----------------------------------------------------------------------------------------------------

    def render(self, sample: Sample, task: str = "") -> Example:
        """A sample as arrays for packing."""
        rendered = self.processor.render_training(sample.messages)
        lengths = np.diff(runs(rendered.loss_mask))[:, 0].tolist()
        assert len(lengths) == len(sample.kinds), "an assistant message was lost"
        kinds: list[int] = []
        for length, own in zip(lengths, sample.kinds, strict=True):
            if isinstance(own, int):
                own = (own,) * length
            assert len(own) == length, "the rendering and the reply format disagree"
            kinds.extend(own)
        whole = example(rendered, kinds, self.processor.token_ids, task)
        if sample.picture is not None:
            whole = replace(whole, shown=self._shown(sample))
        if not sample.unspoken:
            return whole
        said = np.flatnonzero(whole.kinds == UNITS)
        last = said[np.flatnonzero(np.diff(said, prepend=-2) > 1)[-1]]
        return replace(whole, ids=whole.ids[:last], kinds=whole.kinds[:last])

    @staticmethod
    def _shown(sample: Sample) -> ShownPicture:
        assert sample.picture is not None
        parts = [part for message in sample.messages if message["role"] == "user" for part in message["content"]]
        image = next(part["image"] for part in parts if part["type"] == "image")
        return ShownPicture(image.size, sample.picture.regions)

    def task(self, name: str) -> Task:
        """A task by its name of any version. Raises: InputError: there is none."""
        found = self.tasks.get(renamed.task(name))
        if found is None:
            raise InputError(f"mixture: {name} is no task; the tasks are {', '.join(self.tasks)}")
        return found

    def chosen(self, mixture: Mapping[str, float]) -> list[tuple[Task, float]]:
        """The tasks of a mixture with their shares, which sum to one.

        Raises:
            InputError: a task is unknown, has no data, or no weight is positive.
        """
        for name, weight in mixture.items():
            if weight < 0:
                raise InputError(f"mixture: {name} has weight {weight:g}; give 0 or more")
            if not self.task(name).size and weight > 0:
                raise InputError(f"mixture: {name} has no data; make it with the recipe, or give mixture.{name}=0")
        total = sum(mixture.values())
        if not total > 0:
            raise InputError("mixture: every weight is 0; give one task a weight")
        return [(self.task(name), weight / total) for name, weight in mixture.items() if weight > 0]


class _Remembering:
    """A tokenizer that encodes each text once: a reply's frame is the same every time, and so are most answers."""

    def __init__(self, tokenizer: TextEncoder) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        assert split_special_tokens and not add_special_tokens
        if text not in self.known:
            self.known[text] = tuple(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        return list(self.known[text])


def _dialogue(system: str, picture: Picture | None, turns: Iterable[Turn]) -> Sample:
    """The turns behind a system prompt; the picture stands in the first question."""
    messages: list[Message] = [{"role": "system", "content": system}]
    kinds: list[tuple[int, ...] | int] = []
    for question, (answer, answer_kinds) in turns:
        content = [question]
        if picture is not None and not kinds:
            content.insert(0, {"type": "image", "image": picture.load()})
        messages += [_user(content), answer]
        kinds.append(answer_kinds)
    return Sample(tuple(messages), tuple(kinds), picture=picture)


def _user(content: list[Message]) -> Message:
    return {"role": "user", "content": content}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
