"""Units to sound against piper, a fast TTS of the same family (VITS): time per second of voice, and whether Whisper
understands it. piper gets each sentence as text. Our voice gets its units, whole and streamed: those of the canonical
voice, which the language model learns to write, and beside them those of piper's sound, a voice that no part has heard.

Without ``--data`` (or with no piper voice there) only our voice is timed, on units at random.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from emova.cli.main import run_program
from emova.speech.style import Style
from emova.speech.voice import ChunkPlan, Voice
from emova_bench.common import arguments, load, median, parse, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SENTENCES = (
    "The weather is fine today, so we can walk to the lake.",
    "I would like two tickets for the train to the city, please.",
    "There is a red apple on the table next to the window.",
    "Thank you for your help, I really did not know what to do.",
    "My sister bought a small dog, and it sleeps the whole day.",
    "Could you tell me how to get to the station from here?",
    "We had soup and fresh bread for lunch, and then a slice of cake.",
    "The old bridge over the river was closed for most of the winter.",
    "He opened the box carefully, but there was nothing inside.",
    "Every evening the children play football behind the school.",
    "I am sorry, I forgot to bring the book that you lent me.",
    "Her birthday is on the third of May, and she will be twenty.",
    "It was so cold last night that the whole garden turned white.",
    "Please close the door and switch off the lights when you leave.",
    "They are planning a long journey through the mountains next year.",
    "My favorite song was playing on the radio this morning.",
    "The teacher asked us to write a short letter to a friend.",
    "My father drinks a cup of black coffee before he goes to work.",
    "We waited for an hour, but the bus never came.",
    "The doctor says that you should drink more water every day.",
    "There was a strange noise in the kitchen, so I turned on the light.",
    "She wears a green coat and a pair of brown leather boots.",
    "Our neighbors have three cats and a very old parrot.",
    "He learned to play the guitar when he was only seven years old.",
    "The shop on the corner sells fresh fruit and vegetables.",
    "I will call you as soon as the meeting is over.",
    "The river is too wide and too deep to swim across.",
    "Nobody knew the answer, so we asked the librarian.",
    "It takes about twenty minutes to walk to the museum.",
    "The children built a big castle out of wet sand.",
    "Put the milk back into the fridge before it gets warm.",
    "They painted the fence white and the gate dark blue.",
    "This bread tastes much better when it is still warm.",
    "The farmer drove his tractor slowly along the muddy road.",
    "I have read this book twice, and I still like the ending.",
    "The moon was so bright that we could see our shadows.",
    "Take the second street on the left, then go straight ahead.",
    "A small bird built its nest under the roof of our house.",
    "We need four eggs, some butter, and a little sugar.",
    "He was tired after the long flight and went straight to bed.",
    "The new hospital has a large garden for the patients.",
    "She forgot her umbrella and came home completely wet.",
    "The concert starts at eight, so please be there in time.",
    "His uncle repairs old clocks in a workshop near the harbor.",
    "The wind blew all the leaves into our front yard.",
    "You can borrow my bicycle if you bring it back tonight.",
    "The soldiers marched through the village early in the morning.",
    "My phone fell into the water, but it still works.",
    "We watched the ships leave the port one after another.",
    "The soup is hot, so wait a moment before you eat.",
    "Her office is on the fifth floor, opposite the elevator.",
    "A red fox ran across the field and into the forest.",
    "The police found the stolen car near the airport.",
    "I prefer tea in the afternoon and water with my dinner.",
    "The class visited a factory where chocolate is made.",
    "He opened the window because the room was full of smoke.",
    "Our train was late, and we missed the last ferry to the island.",
    "The baby laughed when the dog licked his hand.",
    "Please speak a little louder, I can hardly hear you.",
    "They grow potatoes and corn on the hill behind the barn.",
    "The artist sold her first picture for a hundred dollars.",
    "It rained all night, and the street was full of puddles.",
    "My grandmother tells the best stories about her childhood.",
    "The key to the cellar hangs on a nail beside the door.",
)
RECORDING, HEARD = "recording", ", heard from piper"


@dataclass(frozen=True)
class Sound:
    """Samples ``[T]`` and their rate in Hz."""

    samples: np.ndarray
    rate: int

    def at_16_khz(self) -> np.ndarray:
        return soxr.resample(self.samples, self.rate, 16_000)


class Whole:
    """All units at once."""

    def __init__(self, voice: Voice) -> None:
        self.voice = voice

    def __call__(self, units: list[int]) -> np.ndarray:
        return self.voice.synthesize(units, Style())


class Streamed(Whole):
    """Unit by unit, in the chunks of a reply whose units are written ``pace`` a second; only speaking is timed."""

    def __init__(self, voice: Voice, pace: float) -> None:
        super().__init__(voice)
        self.pace = pace

    def __call__(self, units: list[int]) -> np.ndarray:
        started, written, pieces = time.perf_counter(), 0, []
        speaking = self.voice.start(Style(), ChunkPlan(), lambda: time.perf_counter() - started + written / self.pace)
        for unit in units:
            written += 1
            pieces.append(speaking.step([unit]))
        return np.concatenate([*pieces, speaking.finish()])


def canonical(text: str) -> Sound:
    """``text`` by the voice whose units the language model learns to write."""
    from emova_data.nano.voices.voices import Voices

    said = Voices(Path()).speak("hibari/female", text)  # it needs none of the sources
    return Sound(said.samples, said.sample_rate)


def load_piper(path: Path, threads: int) -> Callable[[str], Sound]:
    """piper's voice on the same number of threads."""
    import onnxruntime
    from piper import PiperVoice

    voice = PiperVoice.load(str(path))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    # Its threads would go on turning after a sentence and take a core from whatever is timed next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    voice.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def speak(text: str) -> Sound:
        chunks = list(voice.synthesize(text))
        return Sound(np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate)

    return speak


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("vocoder", __doc__ or "")
    parser.add_argument("--data", type=Path, default=Path("data/nano"), help="with sources of `emova data fetch nano`")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES))
    parser.add_argument("--pace", type=float, default=500.0, help="units that the language model writes in a second")
    options = parse(parser, given, sentences=2)
    assistant = load(options)
    ways = {"emova, whole": Whole(assistant.voice), "emova, streamed": Streamed(assistant.voice, options.pace)}
    texts = SENTENCES[: options.sentences]
    piper_path = options.data / "sources" / "piper" / "en_US-joe-medium.onnx"
    piper = load_piper(piper_path, options.threads) if piper_path.is_file() else None
    rate = assistant.voice.sample_rate
    seconds: dict[str, list[float]] = {}
    said: dict[str, list[tuple[str, Sound]]] = {}

    def spoken(way: Whole, text: str) -> Sound:
        return Sound(way(units[text]), rate)

    def timed(name: str, speak: Callable[[], Sound]) -> Sound:
        started = time.perf_counter()
        sound = speak()
        taken = time.perf_counter() - started
        seconds.setdefault(name, []).append(taken / (len(sound.samples) / sound.rate))
        return sound

    rng = np.random.default_rng(0)
    with torch.inference_mode():
        if piper is None:
            units = {text: rng.integers(0, assistant.voice.detokenizer.codebook_size, 75).tolist() for text in texts}
        else:
            said[RECORDING] = [(text, canonical(text)) for text in texts]
            units = {text: list(assistant.tokenize(sound.at_16_khz())) for text, sound in said[RECORDING]}
        for round_ in range(options.repeats + 1):
            if round_ == 1:  # the one before only warmed up
                seconds.clear()
                said = {name: sounds for name, sounds in said.items() if name == RECORDING}
            for text in texts:
                if piper is not None:
                    said.setdefault("piper", []).append((text, timed("piper", partial(piper, text))))
                for name, way in ways.items():
                    sound = timed(name, partial(spoken, way, text))
                    said.setdefault(name, []).append((text, sound))
        if piper is not None:
            last = said["piper"][-len(texts) :]
            heard = [(text, list(assistant.tokenize(sound.at_16_khz()))) for text, sound in last]
            for name, way in ways.items():
                said[name + HEARD] = [(text, Sound(way(units), rate)) for text, units in heard]
    errors = _word_errors(said, options) if piper else {}
    factors = {name: median(values) for name, values in seconds.items()}
    rows = [
        {
            "voice": name,
            "real-time factor": factor,
            "x faster than piper": factors["piper"] / factor if piper else None,
            "Whisper WER": errors.get(name),
            "of piper's units": errors.get(name + HEARD),
        }
        for name, factor in factors.items()
    ]

    def draw(axes: Axes) -> None:
        axes.bar(list(factors), list(factors.values()))
        axes.set_ylabel("compute for a second of voice, s")

    note = f"Whisper WER of the canonical voice's recordings: {errors.get(RECORDING, math.nan):.3f}"
    report("vocoder", options, rows, draw, note=note if piper else f"no piper voice at {piper_path}")


def _word_errors(said: dict[str, list[tuple[str, Sound]]], options: argparse.Namespace) -> dict[str, float]:
    """Word error rate of each voice in all rounds (piper says a sentence differently each time), as Whisper base hears
    it; empty without its model."""
    from emova.core.errors import InputError
    from emova_eval.judges.words import WhisperJudge
    from emova_eval.metrics.text import ErrorRate, word_errors

    try:
        judge = WhisperJudge(options.data / "sources" / "whisper-base", options.threads)
    except InputError as error:
        print(f"no word error rates: {error}")
        return {}
    rates, transcripts = {}, {}
    for name, spoken in said.items():
        total = ErrorRate(0, 0)
        for text, sound in spoken:
            key = sound.samples.tobytes()  # what is the same in all rounds is judged once
            if key not in transcripts:
                transcripts[key] = judge.transcribe(sound.at_16_khz())
            total = total + word_errors(text, transcripts[key])
        rates[name] = total.rate
    return rates


if __name__ == "__main__":
    run_program(main)
