"""What a codec costs on this machine: clocks around a tokenizer that hears and a decoder that speaks.

Shapes: T samples, U units.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.tokenizer.protocol import SpeechTokenizer

STEP = 0.1  # seconds of sound that a stream of ears is given at once
CHUNK = 0.8  # seconds of units that a voice is given at once, where it has no chunks of its own


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
    """A recording ``[T]``, whole and streamed."""
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


def chunk_of(voice: SpeechDetokenizer) -> int:
    """How many units a voice is given at once."""
    chunks = voice.config.chunks if isinstance(voice, FlowHiFTDetokenizer) else []
    return chunks[-1] if chunks else int(CHUNK * voice.unit_rate)


def speed(
    ears: SpeechTokenizer, voice: SpeechDetokenizer | None, samples: np.ndarray, repeats: int
) -> dict[str, float]:
    """Medians over ``repeats`` for a recording ``[T]`` of some seconds at the tokenizer's rate.

    Returns:
        ``ears_core`` and ``voice_core``, processors' seconds for a second of sound, streamed; ``first_ms`` and
        ``first_core_ms`` from the unit that makes the first sound certain to that sound; ``needs_units``, the units
        that must be there for it. Without a voice only the first; of one that waits for the whole reply no first sound.
    """
    heard = [hear(ears, samples) for _ in range(repeats)]
    figures = {"ears_core": _median([each.processors for each in heard]) * ears.sample_rate / len(samples)}
    if voice is None:
        return figures
    with torch.inference_mode():
        units = ears.encode(torch.from_numpy(samples)[None])[0][None]
    style = torch.randn(1, voice.style_size, generator=torch.Generator().manual_seed(0))
    chunk = chunk_of(voice)
    speak(voice, style, units[:, : 3 * chunk], chunk)  # what is compiled at first use
    if units.shape[1] <= voice.lookahead_units:
        busy = time.process_time()
        for _ in range(repeats):
            voice.decode(units, style)
        seconds = units.shape[1] / voice.unit_rate
        return figures | {"voice_core": (time.process_time() - busy) / repeats / seconds}
    said = [speak(voice, style, units, chunk) for _ in range(repeats)]
    left = units.shape[1] - voice.lookahead_units - 1  # which the chunks after the first sound say
    return figures | {
        **({"voice_core": _median([each.processors for each in said]) * voice.unit_rate / left} if left else {}),
        "first_ms": 1e3 * _median([each.first for each in said]),
        "first_core_ms": 1e3 * _median([each.first_processors for each in said]),
        "needs_units": float(voice.lookahead_units + 1),
    }


def _median(values: list[float]) -> float:
    return float(np.median(values))
