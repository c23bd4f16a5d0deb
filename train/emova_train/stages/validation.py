"""What the model answers to held-out questions while it is trained: a file to read, a page to see and hear, and a few
rates to plot.

Answers are written as the assistant writes them: greedily under the reply's grammar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emova.decoding.loop import Decoder
from emova.decoding.protocol import DecodingBackend, Prompt
from emova.decoding.sampling import GREEDY
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova.model.processing_emova import Message
from emova.reply.format import ReplyConstraints, ReplyFormat, ReplyLimits, speech_grammar, text_grammar
from emova.reply.grammar import Grammar, TokenTable
from emova.reply.parser import PieceReader, ReplyEvent, StyleChosen, TextDelta, TranscriptDelta
from emova.speech.style import Style
from emova.speech.voice import Voice
from emova_train.data.shards import Raw
from emova_train.stages.sample_page import Shown, Written, write_page
from emova_train.stages.tasks import TEACHER_FORCED_TASKS, Conversations


@dataclass(frozen=True)
class SampleConfig:
    """How much is tried at each validation."""

    answers: int = 12
    """Held-out samples of each task that are answered in text; 0 answers none."""
    spoken: int = 1
    """How many of them are also spoken to the end."""
    losses_over: int = 24
    """Held-out samples of each task over which the losses are measured."""
    max_tokens: int = 96
    max_units: int = 400
    unit_rate: float = 25.0
    """Units a second of the data's units: a sentence takes so long at least."""
    voice: str = ""
    """A checkpoint (folder or shipped name) whose voice says questions and answers on the page of samples; its speech
    tokenizer must be the one that made the units. Without it the page has no sound."""


@dataclass(frozen=True)
class Try:
    """A held-out conversation whose first answer the model writes too; ``whole`` lets it speak to the end."""

    task: str
    messages: tuple[Message, ...]
    whole: bool


@dataclass(frozen=True)
class Writer:
    """What prompts are rendered and answers read with."""

    processor: EmovaProcessor
    table: TokenTable
    format_of: Callable[[str], ReplyFormat]
    """The format of a task's replies."""


def draw_tries(config: SampleConfig, conversations: Conversations, mixture: Mapping[str, float]) -> list[Try]:
    """Held-out samples of the tasks in a mixture, the same ones each time.

    Tasks without weight or data have none, nor have teacher-forced ones, whose transcripts cannot be heard.
    """
    tries = []
    for number, (name, weight) in enumerate(mixture.items()):
        task = conversations.task(name)
        rng = np.random.default_rng([11, number])
        tried = weight > 0 and task.size and task.name not in TEACHER_FORCED_TASKS
        for index in range(config.answers if tried else 0):
            whole = index < config.spoken
            if name != "tts" or whole:
                tries.append(Try(name, task.draw(rng).messages, whole))
    return tries


def set_task(raw: Raw, speaks: bool = False) -> str:
    """Which of the recipe's tasks a record of a set is like; their rates have the same names.

    Args:
        speaks: speech with its transcript is rendered as text to be read aloud.
    """
    if raw.fields.get("task") == "speech":
        return "tts" if speaks else "asr"
    parts = [part["type"] for message in raw.fields["messages"] for part in message["content"]]
    if "reply" in parts:
        return "spoken_picture" if "image" in parts else "spoken_talk"
    return "picture_text" if "image" in parts else "talk_text"


class Samples:
    """Lets a model answer held-out samples, at each validation the same.

    Args:
        config: how long answers may be.
        tries: what is asked.
        writer: renders and reads.
        output: the run's folder; gets ``samples.jsonl`` and ``samples/STEP/index.html``.
        voice: an ``emova.speech.voice.Voice`` for the page's sounds, or None.
    """

    def __init__(
        self, config: SampleConfig, tries: Sequence[Try], writer: Writer, output: Path, voice: Voice | None = None
    ) -> None:
        self.config, self.tries, self.writer, self.output, self.voice = config, tries, writer, output, voice

    def write(self, model: EmovaForConditionalGeneration, step: int) -> dict[str, float]:
        """Let ``model`` answer, add the answers to the file, draw the page, and return the rates."""
        if not self.tries:
            return {}
        shown = self.answers(model, self.tries)
        with (self.output / "samples.jsonl").open("a", encoding="utf-8") as file:
            for each in shown:
                file.write(json.dumps({"step": step, **each.written.__dict__}, ensure_ascii=False) + "\n")
        write_page(self.output / "samples" / f"{step:07d}", f"step {step}", shown, self.voice)
        return rates([each.written for each in shown])

    def answers(
        self, model: EmovaForConditionalGeneration, tries: Sequence[Try], decoder: DecodingBackend[Any] | None = None
    ) -> list[Shown]:
        """What ``model`` answers, with what was asked; a ``decoder`` that is given writes as the standard one would."""
        decoder = decoder or Decoder(model)
        return [self._answer(decoder, each) for each in tries]

    def _answer(self, decoder: DecodingBackend[Any], each: Try) -> Shown:
        writer, config = self.writer, self.config
        last = next(at for at, message in enumerate(each.messages) if message["role"] == "assistant")
        rendered = writer.processor.render_prompt(each.messages[:last])
        prompt = Prompt(rendered.input_ids, rendered.pixel_values, rendered.image_grids)
        table = writer.table
        asked = [part for message in each.messages[:last] for part in message["content"] if isinstance(part, dict)]
        picture = next((part["image"] for part in asked if part["type"] == "image"), None)
        heard = next((part["units"] for part in asked if part["type"] == "audio"), ())
        question = _text(each.messages[last - 1]["content"]) if last else ""
        content = each.messages[last]["content"]
        first = "text" if isinstance(content, str) else content[0]["type"]
        style = Style()
        if first == "text":
            tokens, _ = self._write(decoder, prompt, text_grammar(table, config.max_tokens), whole=True)
            written = Written(each.task, question, _text(content), _decode(tokens, PieceReader(table)))
        elif first == "audio":
            grammar = speech_grammar(table, question, config.max_units, config.unit_rate)
            tokens, _ = self._write(decoder, prompt, grammar, whole=True)
            written = Written(each.task, question, "", "", units=len(_units(tokens, table)))
        else:
            # The answer's tokens are trusted and whole: reading them back gives what was expected.
            reply_format = writer.format_of(each.task)
            expected = _events(content[0]["ids"], reply_format, table)
            limits = ReplyLimits(config.max_tokens, config.max_tokens, config.max_units)
            grammar = reply_format.grammar(table, ReplyConstraints(limits=limits))
            tokens, ended = self._write(decoder, prompt, grammar, each.whole)
            got = _events(tokens, reply_format, table)
            style = next((event.style for event in got if isinstance(event, StyleChosen)), style)
            written = Written(
                each.task,
                _joined(expected, TranscriptDelta) or question,
                _joined(expected, TextDelta),
                _joined(got, TextDelta),
                _joined(got, TranscriptDelta),
                _style(expected),
                _style(got),
                len(_units(tokens, table)) if ended else 0,
            )
        return Shown(written, picture, tuple(heard), tuple(_units(tokens, table)), style)

    def _write(
        self, decoder: DecodingBackend[Any], prompt: Prompt, grammar: Grammar, whole: bool
    ) -> tuple[list[int], bool]:
        """The tokens up to the speech or to the end, and whether the end was reached."""
        tokens: list[int] = []
        with torch.inference_mode():
            for certain in decoder.write(decoder.new_context(), prompt, grammar, GREEDY):
                tokens += certain
                if grammar.done:
                    return tokens, True
                if not whole and grammar.kind == "units":
                    break
        return tokens, False


def rates(answers: Sequence[Written]) -> dict[str, float]:
    """Shares of exact answers and styles, and word error rates, for each task."""
    found: dict[str, list[float]] = {}
    errors: dict[str, tuple[int, int]] = {}
    for each in answers:
        if each.task in ("asr", "spoken_talk", "spoken_picture"):
            heard, said = (each.answer, each.expected) if each.task == "asr" else (each.transcript, each.question)
            wrong, words = errors.get(each.task, (0, 0))
            reference = plain_words(said)
            errors[each.task] = wrong + word_edits(reference, plain_words(heard)), words + len(reference)
        if each.task not in ("asr", "tts", "caption"):
            found.setdefault(f"{each.task}_exact", []).append(
                float(plain_words(each.answer) == plain_words(each.expected))
            )
        if each.expected_style:
            found.setdefault(f"{each.task}_style", []).append(float(each.style == each.expected_style))
    result = {name: float(np.mean(values)) for name, values in found.items()}
    result.update({f"{task}_wer": wrong / max(words, 1) for task, (wrong, words) in errors.items()})
    return result


def word_edits(reference: Sequence[str], other: Sequence[str]) -> int:
    """The least number of words to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for at, word in enumerate(reference, 1):
        before, row[0] = row[0], at
        for column, written in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (word != written))
    return row[-1]


def plain_words(text: str) -> list[str]:
    """Lower-case words without marks."""
    kept = "".join(letter for letter in text.lower() if letter.isalnum() or letter in " '")
    return kept.split()


def _text(content: str | Sequence[Message]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _decode(tokens: Sequence[int], reader: PieceReader) -> str:
    return "".join(piece for token in tokens for piece in reader.read(token) if isinstance(piece, str)).strip()


def _units(tokens: Sequence[int], table: TokenTable) -> list[int]:
    found = table.unit_of[list(tokens)]
    return found[found >= 0].tolist()


def _events(tokens: Sequence[int], reply_format: ReplyFormat, table: TokenTable) -> list[ReplyEvent]:
    parser, reader = reply_format.parser(), PieceReader(table)
    return [event for token in tokens for piece in reader.read(token) for event in parser.feed(piece)]


def _joined(events: Sequence[ReplyEvent], kind: type[TranscriptDelta] | type[TextDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def _style(events: Sequence[ReplyEvent]) -> str:
    style = next((event.style for event in events if isinstance(event, StyleChosen)), None)
    return f"{style.emotion}, {style.pitch}" if style else ""
