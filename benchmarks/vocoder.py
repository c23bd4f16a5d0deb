"""Units to sound against piper, a fast TTS of the same family (VITS): time per second of voice, and whether Whisper
understands it. piper gets each sentence as text. Our voice gets its units, whole and streamed: those of the canonical
voice, which the language model learns to write, and beside them those of piper's sound, a voice that no part has heard.

Without ``--data`` (or with no piper voice there) only our voice is timed, on units at random.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from benchmarks.common import arguments, load, median, parse, report
from emova.style import Style
from emova.voice import ChunkPlan

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

    def __init__(self, voice: Any) -> None:
        self.voice = voice

    def __call__(self, units: list[int]) -> np.ndarray:
        return self.voice.synthesize(units, Style())


class Streamed(Whole):
    """Unit by unit, in the chunks of a reply whose units are written ``pace`` a second; only speaking is timed."""

    def __init__(self, voice: Any, pace: float) -> None:
        super().__init__(voice)
        self.pace = pace

    def __call__(self, units: list[int]) -> np.ndarray:
        started, written, pieces = time.perf_counter(), 0, []
        speaking = self.voice.start(ChunkPlan(), lambda: time.perf_counter() - started + written / self.pace)
        for unit in units:
            written += 1
            pieces.append(speaking.step([unit], Style()))
        return np.concatenate([*pieces, speaking.finish(Style())])


def canonical(text: str) -> Sound:
    """``text`` by the voice whose units the language model learns to write."""
    from data_recipes.nano.voices import Voices

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
                    said.setdefault("piper", []).append((text, timed("piper", lambda text=text: piper(text))))
                for name, way in ways.items():
                    sound = timed(name, lambda way=way, text=text: Sound(way(units[text]), rate))
                    said.setdefault(name, []).append((text, sound))
        if piper is not None:
            heard = [(text, list(assistant.tokenize(sound.at_16_khz()))) for text, sound in said["piper"]]
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

    def draw(axes: Any) -> None:
        axes.bar(list(factors), list(factors.values()))
        axes.set_ylabel("compute for a second of voice, s")

    note = f"Whisper WER of the canonical voice's recordings: {errors.get(RECORDING, math.nan):.3f}"
    report("vocoder", options, rows, draw, note=note if piper else f"no piper voice at {piper_path}")


def _word_errors(said: dict[str, list[tuple[str, Sound]]], options: Any) -> dict[str, float]:
    """Word error rate of each voice in all rounds (piper says a sentence differently each time), as Whisper base hears
    it; empty without its model."""
    from emova.errors import InputError
    from eval.judges import WhisperJudge
    from eval.text import ErrorRate, word_errors

    try:
        judge = WhisperJudge(options.data / "sources" / "whisper-base", options.threads)
    except InputError as error:
        print(f"no word error rates: {error}")
        return {}
    rates = {}
    for name, spoken in said.items():
        total = ErrorRate(0, 0)
        for text, sound in spoken:
            total = total + word_errors(text, judge.transcribe(sound.at_16_khz()))
        rates[name] = total.rate
    return rates


if __name__ == "__main__":
    main()
