"""Text to units without any sound: a language model that learnt to read aloud (GLM-4-Voice §4.1), many texts at once.

The units of a text are a function of the text, the weights and the seed: not of what is read beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emova.assistant import split_sentences
from emova.checkpoint.loading import find_checkpoint, find_part, load_model, load_processor, load_speech_tokenizer
from emova.core.errors import InputError
from emova.decoding.protocol import Prompt
from emova.decoding.sampling import Sampling
from emova.engine.decoder import EngineDecoder, best_decoder
from emova.engine.engine import EngineConfig
from emova.engine.request import GenerationRequest
from emova.reply.grammar import USUAL_RATE, Grammar, TokenTable
from emova.speech.tokenizer.units import units_of
from emova_data.synthesis.pipeline import SpeechConfig, load_tokenizer
from emova_data.synthesis.speech_text import language_of
from emova_data.synthesis.tts import backend, speakers

TextToUnits = Callable[[Sequence[str]], list[list[int]]]
"""Texts to their units; none for a text that cannot be said."""
_MOST_UNITS = 750
"""Of a sentence."""
_ROOM = 32


@dataclass(frozen=True)
class ReadingConfig:
    """How a text-to-token model reads.

    Attributes:
        temperature: of the choice of units.
        unit_rate: units a second of the model's units; a text does not end before it can be said. None: as its
            checkpoint's speech tokenizer makes them, and 25 where it has none, as the export of a training has not.
        at_once: texts that are read beside each other.
    """

    temperature: float = 0.6
    unit_rate: float | None = None
    at_once: int = 32

    def __post_init__(self) -> None:
        if self.at_once < 1 or (self.unit_rate is not None and self.unit_rate <= 0) or self.temperature < 0:
            raise InputError("reading: at_once is at least 1, unit_rate above 0, temperature 0 or more")

    def made_from(self) -> dict[str, float]:
        """What decides the units of a text, beside the model; with other values sets are made again."""
        return {"temperature": self.temperature, "unit_rate": self.unit_rate or USUAL_RATE}


class TextToTokenModel:
    """The export of ``emova train text-to-token``, or any checkpoint that reads aloud.

    Args:
        name: its folder, or a shipped name.
        seed: of the choice of units.

    Raises:
        InputError: there is none, or it is damaged.
    """

    def __init__(self, name: str, config: ReadingConfig = ReadingConfig(), seed: int = 0) -> None:
        folder = find_checkpoint(name)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(folder).to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the method
        self.config, self.unit_rate = config, config.unit_rate or _own_rate(folder)
        self.processor = load_processor(folder)
        self.reply_format = model.config.reply_format()
        self.spell = model.config.spell
        self.table = TokenTable.from_tokenizer(self.processor.tokenizer)
        self.decoder = best_decoder(model, EngineConfig())
        self.sampling = Sampling(unit_temperature=config.temperature, seed=seed)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The units of each text, its sentences one after the other; none where a sentence is longer than the model
        reads."""
        found: list[list[int]] = [[] for _ in texts]
        sentences = [(number, each) for number, text in enumerate(texts) for each in split_sentences(text)]
        tasks = [(number, self._task(sentence)) for number, sentence in sentences]
        whole = {number for number, task in tasks if task is not None} - {n for n, task in tasks if task is None}
        kept = [(number, task) for number, task in tasks if task is not None and number in whole]
        for (number, _), tokens in zip(kept, self._written([task for _, task in kept]), strict=True):
            units = self.table.unit_of[tokens]
            found[number] += units[units >= 0].tolist()
        return found

    def _task(self, sentence: str) -> tuple[Prompt, Grammar] | None:
        content = [{"type": "text", "text": self.reply_format.speak_prompt + self.spell(sentence)}]
        ids = self.processor.render_prompt([{"role": "user", "content": content}]).input_ids
        room = self.decoder.max_length - len(ids) - 3
        if room < _ROOM:
            return None
        return Prompt(ids), self.reply_format.reading(self.table, sentence, min(_MOST_UNITS, room), self.unit_rate)

    def _written(self, tasks: Sequence[tuple[Prompt, Grammar]]) -> list[list[int]]:
        """The tokens that each task writes, ``at_once`` of them in a step where the engine runs the model."""
        decoder = self.decoder
        if not isinstance(decoder, EngineDecoder):
            return [
                [token for part in decoder.write(decoder.new_context(), *task, self.sampling) for token in part]
                for task in tasks
            ]
        waiting = deque(enumerate(tasks))
        running: dict[int, GenerationRequest] = {}
        written: list[list[int]] = [[] for _ in tasks]
        while waiting or running:
            while waiting and len(running) < self.config.at_once:
                number, task = waiting.popleft()
                running[number] = decoder.engine.start(decoder.new_context(), *task, self.sampling)
            if unfinished := [request for request in running.values() if not request.done]:
                decoder.engine.step(unfinished)
            for number, request in list(running.items()):
                written[number] += request.take_written()
                if request.error is not None:
                    raise request.error
                if request.done:
                    del running[number]
        return written


def _own_rate(folder: Path) -> float:
    """Units a second of a checkpoint's speech tokenizer; the usual rate where it has none."""
    if not (folder / "speech_tokenizer").is_dir():
        return USUAL_RATE
    return load_speech_tokenizer(folder).unit_rate


def by_voice(tokenizer: str, config: SpeechConfig, seed: int) -> TextToUnits:
    """Units of a voice, as a tokenizer hears it. Raises: InputError: there is no tokenizer, or no such voice."""
    import soxr

    tokenise = load_tokenizer(tokenizer)
    if tokenise is None:
        raise InputError("give model=CHECKPOINT, or tokenizer=FOLDER of an S2U tokenizer for units of a voice")
    speech = backend(config.backend, sources=Path(config.sources), address=config.address)

    def to_units(words: str) -> list[int]:
        samples, rate = speech.speak(words, speakers()[0], "neutral", "normal", language_of(words), seed)
        return tokenise(np.asarray(soxr.resample(samples, rate, 16000), np.float32))

    return lambda texts: [to_units(each) for each in texts]


def load_text_to_units(
    model: str, tokenizer: str, seed: int, reading: ReadingConfig, speech: SpeechConfig
) -> TextToUnits:
    """A text-to-token model where one is named, else a voice with its tokenizer. Raises: InputError: neither."""
    if model:
        return TextToTokenModel(model, reading, seed)
    return by_voice(tokenizer, speech, seed)


def unit_name(model: str, tokenizer: str) -> str:
    """Whose units those are; empty where nothing says it. Raises: InputError: there is no such folder."""
    from emova.model import EmovaConfig

    if not model:
        return units_of(find_part(tokenizer, "speech_tokenizer")) if tokenizer else ""
    folder = find_checkpoint(model)
    if (folder / "speech_tokenizer").is_dir():
        return units_of(folder / "speech_tokenizer")
    return str(EmovaConfig.from_pretrained(folder, local_files_only=True).unit_tokenizer)
