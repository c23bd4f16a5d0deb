"""A speech codec against emova-nano's own: how many times faster than real time its tokenizer hears and its decoder
speaks, how soon after its first units there is sound, whether a chunk costs the same after a minute, and whether the
joints of its chunks can be told from what lies between them. Beside the time that passes stands the processors' time
for a second of sound, which a busy machine stretches less.

Without ``--tokenizer`` and ``--detokenizer`` parts with the shapes of the shipped configs ``vq/nano`` and
``flow/nano_blocks`` are measured, with random weights: speed depends on shapes alone, the joints do not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from emova.checkpoint.loading import find_part
from emova.checkpoint.registry import load_detokenizer, load_tokenizer
from emova.cli.main import run_program
from emova.core.config import load_config
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer
from emova_bench.common import arguments, median, parse, question, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = 0.1  # seconds of sound that a stream of ears is given at once
WINDOW = 0.01  # seconds on each side of a joint


@dataclass(frozen=True)
class Heard:
    """Times of a tokenizer: for all at once, and for each step of a stream, s; the processors' time for the stream."""

    whole: float
    steps: np.ndarray
    processors: float


@dataclass(frozen=True)
class Said:
    """Times of a decoder: from the unit that makes the first sound certain to that sound, and for each chunk, s; the
    processors' time for the first and for all chunks after it."""

    first: float
    chunks: np.ndarray
    first_processors: float
    processors: float
    samples: np.ndarray


@torch.inference_mode()
def hear(ears: SpeechTokenizer, samples: np.ndarray) -> Heard:
    """A recording, whole and streamed."""
    recording = torch.from_numpy(samples)[None]
    started = time.perf_counter()
    ears.encode(recording)
    whole, steps = time.perf_counter() - started, []
    busy = time.process_time()
    with ears.streaming(1) as stream:
        for piece in recording.split(int(STEP * ears.sample_rate), dim=1):
            started = time.perf_counter()
            stream.step(piece)
            steps.append(time.perf_counter() - started)
        stream.finish()
    return Heard(whole, np.array(steps), time.process_time() - busy)


@torch.inference_mode()
def speak(voice: SpeechDetokenizer, style: torch.Tensor, units: torch.Tensor, chunk: int) -> Said:
    """Units ``[1, U]`` a chunk at a time, the first of them one by one."""
    stream, sound = voice.streaming(style), []
    first = first_busy = 0.0
    for unit in units[:, :chunk].split(1, dim=1):
        started, busy = time.perf_counter(), time.process_time()
        sound.append(stream.step(unit)[0])
        first, first_busy = time.perf_counter() - started, time.process_time() - busy
        if sound[-1].shape[0]:
            break
    spent, at = [], len(sound)
    busy = time.process_time()
    for piece in units[:, at:].split(chunk, dim=1):
        started = time.perf_counter()
        sound.append(stream.step(piece)[0])
        spent.append(time.perf_counter() - started)
    busy = time.process_time() - busy
    sound.append(stream.finish()[0])
    return Said(first, np.array(spent), first_busy, busy, torch.cat(sound).numpy())


def jumps(samples: np.ndarray, rate: int, places: Sequence[int]) -> tuple[float, float, float]:
    """Mean change over places in the sound: of the level (dB), of the spectrum (dB), of one sample to the next.

    Level and spectrum are those of the ``WINDOW`` before a place and of that behind it; places in silence do not count.
    """
    size = int(WINDOW * rate)
    levels, spectra, steps = [], [], []
    for place in places:
        before, after = samples[place - size : place], samples[place : place + size]
        if len(before) < size or len(after) < size or min(np.std(before), np.std(after)) < 1e-4:
            continue
        shapes = [20 * np.log10(np.abs(np.fft.rfft(each * np.hanning(size))) + 1e-4) for each in (before, after)]
        levels.append(abs(20 * np.log10(np.std(after) / np.std(before))))
        spectra.append(np.abs(shapes[1] - shapes[0]).mean())
        steps.append(abs(samples[place] - samples[place - 1]) / np.std(samples[place - size : place + size]))
    if not levels:
        return float("nan"), float("nan"), float("nan")
    return float(np.mean(levels)), float(np.mean(spectra)), float(np.mean(steps))


def joints(voice: SpeechDetokenizer, total: int) -> list[int]:
    """Samples where the chunks of a flow decoder meet: where the fading begins and where it ends; others have none."""
    if not isinstance(voice, FlowHiFTDetokenizer) or not voice.config.chunks:
        return []
    chunk, hop = voice.config.chunks[-1], voice.config.hop
    ends = range(chunk, total, chunk)
    return [voice.flow.frames(end - back) * hop for end in ends for back in {0, voice.config.fade}]


def rise(values: np.ndarray) -> float:
    """By which share the fitted line rises from the first value to the last, without the first tenth."""
    kept = values[len(values) // 10 :]
    if len(kept) < 3:
        return 0.0
    slope, start = np.polyfit(np.arange(len(kept)), kept, 1)
    return float(slope * (len(kept) - 1) / start)


def parts(tokenizer: str, detokenizer: str) -> tuple[SpeechTokenizer, SpeechDetokenizer]:
    """The codec that is measured. Raises: InputError: a folder holds none."""
    ears: SpeechTokenizer
    voice: SpeechDetokenizer
    torch.manual_seed(0)
    if tokenizer:
        ears = load_tokenizer(find_part(tokenizer, "speech_tokenizer"))
    else:
        from emova_train.vq.program import VQTrainConfig

        ears = WhisperVQTokenizer(load_config(VQTrainConfig, "nano", kind="vq").model).eval()
    if detokenizer:
        voice = load_detokenizer(find_part(detokenizer, "speech_detokenizer"))
    else:
        from emova_train.flow.config import FlowRecipe

        voice = FlowHiFTDetokenizer(load_config(FlowRecipe, "nano_blocks", kind="flow").model).eval()
    return ears, voice


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("codec", __doc__ or "")
    parser.add_argument("--tokenizer", default="", help="a folder; the shapes of vq/nano if not given")
    parser.add_argument("--detokenizer", default="", help="a folder; the shapes of flow/nano_blocks if not given")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parse(parser, given, seconds=4.0)
    pairs = {
        "measured": parts(options.tokenizer, options.detokenizer),
        options.checkpoint: parts(options.checkpoint, options.checkpoint),
    }
    samples = question(options.seconds)
    rows, curves = [], dict[str, np.ndarray]()
    facts: dict[str, float] = {}
    for name, (ears, voice) in pairs.items():
        generator = torch.Generator().manual_seed(0)
        style = torch.randn(1, voice.style_size, generator=generator)
        # A voice is given what ears heard, where it is theirs: random units make no speech, and no seams of speech.
        units = ears.encode(torch.from_numpy(samples)[None])[0][None]
        if int(units.max()) >= voice.codebook_size:
            units = torch.randint(0, voice.codebook_size, units.shape, generator=generator)
        chunk = voice.config.chunks[-1] if isinstance(voice, FlowHiFTDetokenizer) else int(0.8 * voice.unit_rate)
        with torch.inference_mode():
            speak(voice, style, units[:, : 3 * chunk], chunk)  # what is compiled at first use
        heard = [hear(ears, samples) for _ in range(options.repeats)]
        said = [speak(voice, style, units, chunk) for _ in range(options.repeats)]
        steps = np.median([each.steps for each in heard], axis=0)
        curves[name] = np.median([each.chunks for each in said], axis=0)
        seconds = len(curves[name]) * chunk / voice.unit_rate
        rows.append(
            {
                "codec": name,
                "units a second": ears.unit_rate,
                "ears x real time": options.seconds / median([each.whole for each in heard]),
                "streamed": options.seconds / float(steps.sum()),
                "slowest step ms": 1e3 * float(steps.max()),
                "ears core s/s": median([each.processors for each in heard]) / options.seconds,
                "voice x real time": seconds / float(curves[name].sum()),
                "first sound ms": 1e3 * median([each.first for each in said]),
                "core ms": 1e3 * median([each.first_processors for each in said]),
                "voice core s/s": median([each.processors for each in said]) / seconds,
                "needs units": voice.lookahead_units + 1,
                "rise over the reply": rise(curves[name]),
            }
        )
        places = joints(voice, units.shape[1])
        if places:
            others = sorted({*range(1000, len(said[0].samples) - 1000, voice.sample_rate // 50)} - {*places})
            for kind, at in (("joints", places), ("elsewhere", others)):
                level, spectrum, step = jumps(said[0].samples, voice.sample_rate, at)
                facts |= {f"{kind}_level_dB": level, f"{kind}_spectrum_dB": spectrum, f"{kind}_step": step}

    def draw(axes: Axes) -> None:
        for name, curve in curves.items():
            axes.plot(1e3 * curve, label=name)
        axes.set_xlabel("chunk of the reply")
        axes.set_ylabel("ms for it")
        axes.set_ylim(bottom=0)
        axes.legend()

    report("codec", options, rows, draw, **facts)


if __name__ == "__main__":
    run_program(main)
