"""Units to sound against piper, a fast TTS of the same family (VITS): time per second of voice, and whether Whisper
understands it. piper says each sentence; its sound becomes units, which our voice says again, whole and streamed.

Without ``--data`` (or with no piper voice there) only our voice is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
)


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


def load_piper(path: Path, threads: int) -> Callable[[str], tuple[np.ndarray, int]]:
    """piper's voice on the same number of threads: a text to its samples and their rate."""
    import onnxruntime
    from piper import PiperVoice

    voice = PiperVoice.load(str(path))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    voice.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def speak(text: str) -> tuple[np.ndarray, int]:
        chunks = list(voice.synthesize(text))
        return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate

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
    seconds: dict[str, list[float]] = {}
    said: dict[str, list[tuple[str, np.ndarray, int]]] = {}

    def timed(name: str, text: str, rate: int | None, speak: Callable[[], Any]) -> np.ndarray:
        started = time.perf_counter()
        made = speak()
        taken = time.perf_counter() - started
        samples, own_rate = made if rate is None else (made, rate)
        seconds.setdefault(name, []).append(taken / (len(samples) / own_rate))
        said.setdefault(name, []).append((text, samples, own_rate))
        return soxr.resample(samples, own_rate, 16_000)

    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for round_ in range(options.repeats + 1):
            for text in texts:
                if piper is None:
                    units = rng.integers(0, assistant.voice.detokenizer.codebook_size, 75).tolist()
                else:
                    units = list(assistant.tokenize(timed("piper", text, None, lambda text=text: piper(text))))
                for name, way in ways.items():
                    timed(name, text, assistant.voice.sample_rate, lambda way=way, units=units: way(units))
            if round_ == 0:  # the first round only warms up
                seconds.clear()
                said.clear()
    errors = _word_errors({name: spoken[: len(texts)] for name, spoken in said.items()}, options) if piper else {}
    factors = {name: median(values) for name, values in seconds.items()}
    rows = [
        {
            "voice": name,
            "real-time factor": factor,
            "x faster than piper": factors["piper"] / factor if piper else None,
            "Whisper WER": errors.get(name),
        }
        for name, factor in factors.items()
    ]

    def draw(axes: Any) -> None:
        axes.bar(list(factors), list(factors.values()))
        axes.set_ylabel("compute for a second of voice, s")

    report("vocoder", options, rows, draw, **({} if piper else {"note": f"no piper voice at {piper_path}"}))


def _word_errors(said: dict[str, list[tuple[str, np.ndarray, int]]], options: Any) -> dict[str, float]:
    """Word error rate of each voice, as Whisper base hears it; empty without its model."""
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
        for text, samples, rate in spoken:
            total = total + word_errors(text, judge.transcribe(soxr.resample(samples, rate, 16_000)))
        rates[name] = total.rate
    return rates


if __name__ == "__main__":
    main()
