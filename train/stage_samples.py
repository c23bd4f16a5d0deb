"""What the model answers to held-out questions while it is trained: a file to read, and a few rates to plot.

Answers are written as the assistant writes them: greedily under the reply's grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emova.decoding import Decoder, Prompt
from emova.grammar import Grammar, TokenTable
from emova.reply import (
    PieceReader,
    ReplyEvent,
    ReplyFormat,
    ReplyLimits,
    ReplyWish,
    StyleChosen,
    TextDelta,
    TranscriptDelta,
    speech_grammar,
    text_grammar,
)
from emova.sampling import GREEDY
from train.conversations import Conversations, Sample

_PLAIN = ("caption", "picture_text", "talk_text", "asr")


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


@dataclass(frozen=True)
class Written:
    """One answer of the model; what a task does not have is empty."""

    task: str
    question: str
    expected: str
    answer: str
    transcript: str = ""
    expected_style: str = ""
    style: str = ""
    units: int = 0
    """0 also where the speech was not asked for."""


class Samples:
    """Answers held-out samples of the tasks in a mixture; the same ones each time.

    Args:
        config: how many.
        conversations: over the held-out split.
        mixture: the stage's; tasks without weight or held-out data are left out.
        path: the JSONL file that each answer is added to.
    """

    def __init__(
        self, config: SampleConfig, conversations: Conversations, mixture: Mapping[str, float], path: Path
    ) -> None:
        self.config = config
        self.conversations = conversations
        self.path = path
        self.drawn: list[tuple[str, Sample, bool]] = []
        for number, (name, weight) in enumerate(mixture.items()):
            task = conversations.tasks[name]
            rng = np.random.default_rng([11, number])
            for index in range(config.answers if weight > 0 and task.size else 0):
                whole = index < config.spoken
                if name != "tts" or whole:
                    self.drawn.append((name, task.draw(rng), whole))

    def write(self, model: Any, step: int) -> dict[str, float]:
        """Let ``model`` answer, add the answers to the file, and return the rates."""
        decoder = Decoder(model)
        answers = [self._answer(decoder, *each) for each in self.drawn]
        with self.path.open("a", encoding="utf-8") as file:
            for each in answers:
                file.write(json.dumps({"step": step, **each.__dict__}, ensure_ascii=False) + "\n")
        return rates(answers)

    def _answer(self, decoder: Decoder, task: str, sample: Sample, whole: bool) -> Written:
        conversations, config = self.conversations, self.config
        last = next(at for at, message in enumerate(sample.messages) if message["role"] == "assistant")
        rendered = conversations.processor.render_prompt(sample.messages[:last])
        prompt = Prompt(rendered.input_ids, rendered.pixel_values, rendered.image_grids)
        table = conversations.table
        question = _text(sample.messages[last - 1]["content"])
        content = sample.messages[last]["content"]
        if task in _PLAIN:
            tokens, _ = self._write(decoder, prompt, text_grammar(table, config.max_tokens), whole=True)
            return Written(task, question, content, _decode(tokens, PieceReader(table)))
        if task == "tts":
            grammar = speech_grammar(table, question, config.max_units)
            tokens, _ = self._write(decoder, prompt, grammar, whole=True)
            return Written(task, question, "", "", units=_count_units(tokens, table))
        # The answer's tokens are trusted and whole: reading them back gives what was expected.
        reply_format = conversations.reply_format(task)
        expected = _events(content[0]["ids"], reply_format, table)
        limits = ReplyLimits(config.max_tokens, config.max_tokens, config.max_units)
        grammar = reply_format.grammar(table, ReplyWish(limits=limits))
        tokens, ended = self._write(decoder, prompt, grammar, whole)
        got = _events(tokens, reply_format, table)
        return Written(
            task,
            _joined(expected, TranscriptDelta) or question,
            _joined(expected, TextDelta),
            _joined(got, TextDelta),
            _joined(got, TranscriptDelta),
            _style(expected),
            _style(got),
            _count_units(tokens, table) if ended else 0,
        )

    def _write(self, decoder: Decoder, prompt: Prompt, grammar: Grammar, whole: bool) -> tuple[list[int], bool]:
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
            reference = _words(said)
            errors[each.task] = wrong + word_edits(reference, _words(heard)), words + len(reference)
        if each.task not in ("asr", "tts", "caption"):
            found.setdefault(f"{each.task}_exact", []).append(float(_words(each.answer) == _words(each.expected)))
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


def _words(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter.isalnum() or letter in " '")
    return kept.split()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _decode(tokens: Sequence[int], reader: PieceReader) -> str:
    return "".join(piece for token in tokens for piece in reader.read(token) if isinstance(piece, str)).strip()


def _count_units(tokens: Sequence[int], table: Any) -> int:
    return int((table.unit_of[list(tokens)] >= 0).sum())


def _events(tokens: Sequence[int], reply_format: ReplyFormat, table: TokenTable) -> list[ReplyEvent]:
    parser, reader = reply_format.parser(), PieceReader(table)
    return [event for token in tokens for piece in reader.read(token) for event in parser.feed(piece)]


def _joined(events: Sequence[ReplyEvent], kind: type[TranscriptDelta] | type[TextDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def _style(events: Sequence[ReplyEvent]) -> str:
    style = next((event.style for event in events if isinstance(event, StyleChosen)), None)
    return f"{style.emotion}, {style.pitch}" if style else ""
