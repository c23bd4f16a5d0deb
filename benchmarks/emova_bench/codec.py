"""A speech codec against emova-nano's own: how many times faster than real time its tokenizer hears and its decoder
speaks, how soon after its first units there is sound, whether a chunk costs the same after a minute, and whether the
joints of its chunks can be told from what lies between them. Beside the time that passes stands the processors' time
for a second of sound, which a busy machine stretches less.

Without ``--tokenizer`` and ``--detokenizer`` parts with the shapes of the shipped configs ``vq/nano`` and
``flow/nano_blocks`` are measured, with random weights: speed depends on shapes alone, the joints do not.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from emova_eval.codecs.speed import chunk_of, hear, speak

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW = 0.01  # seconds on each side of a joint


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
        chunk = chunk_of(voice)
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
